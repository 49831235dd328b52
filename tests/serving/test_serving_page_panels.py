"""The panels Write, Chat, Embed and Look inside in Chromium; the server is also killed while it
writes."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import serving_browser
import uvicorn
from serving_apps import state_of
from serving_browser import skip_without_browser, visit

from blankfill.inference import Model
from blankfill.objectives.gpt import GptFormat
from blankfill.serving.app import create_app
from blankfill.serving.served import ServedModel
from blankfill.serving.state import Phase, ServerState
from blankfill.serving.writing import Writing
from generate_models import byte_level, loaded, random_model
from written_models import write_model

pytestmark = skip_without_browser()
chromium = serving_browser.chromium

PROMPT = "the cat sat"
WORDS = ("the", "old", "red", "boat", "lamp", "sea", "sings", "sleeps")
LONG = 60


def gpt() -> Model:
    """A model of bytes."""
    tokenizer = byte_level(["the cat sat on the mat", "a dog ran", "one two three"] * 5, 300)
    return Model(loaded("gpt", random_model("gpt", 3, tokenizer.size, 512, 4.0), tokenizer, 512))


def glm() -> Model:
    """A model of words that writes into blanks."""
    return Model(loaded("glm", random_model("glm", 3, 34, 256, 4.0), length=256))


class Host:
    """A server at a port, which can be killed and started again."""

    def __init__(self, state: ServerState) -> None:
        self.state, self.port = state, 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, the second time at the same port."""
        door = socket.create_server(("127.0.0.1", self.port))
        self.port = door.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(create_app(self.state), log_config=None, lifespan="off"))
        self.loop = asyncio.new_event_loop()
        work = self.server.serve([door])
        self.thread = threading.Thread(target=lambda: self.loop.run_until_complete(work), daemon=True)
        self.thread.start()

    def kill(self) -> None:
        """Break every connection, as the end of the process does."""
        for connection in list(self.server.server_state.connections):
            self.loop.call_soon_threadsafe(connection.transport.abort)  # type: ignore[union-attr]
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(LONG)
        assert not self.thread.is_alive()

    def writes(self, name: str) -> bool:
        """Whether a model writes for a request."""
        steppers = self.state.models._models[name].engine.steppers
        return any(stepper.busy for stepper in steppers)

    def rests(self, name: str) -> bool:
        """Wait until a model does not write any more; whether it came to that."""
        until = time.monotonic() + LONG
        while self.writes(name) and time.monotonic() < until:
            time.sleep(0.01)
        return not self.writes(name)


@pytest.fixture(scope="module")
def slow() -> Iterator[None]:
    """Steps that take so long that a text is not finished before the page has seen some of it; GPT never ends one."""
    step = Writing.step

    def slowly(writing: Writing) -> None:
        time.sleep(0.01)
        step(writing)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writing, "step", slowly)
        patch.setattr(GptFormat, "end_ids", property(lambda _: []))
        yield


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, slow: None) -> Iterator[Host]:
    folder = write_model(tmp_path_factory.mktemp("bert"), "bert")
    state = state_of({"bert": folder})
    state.models.open_all()
    for name, model in {"gpt": gpt(), "glm": glm()}.items():
        source = state.models.sources["bert"].__class__(name, Path(name))
        state.models._models[name] = ServedModel(source, model, state.settings)
    state.phase = Phase.READY
    made = Host(state)
    yield made
    made.server.should_exit = True
    made.thread.join(LONG)
    state.models.close(30)


@pytest.fixture
def seen(chromium: Any, host: Host) -> Iterator[Any]:
    with visit(chromium, host.url) as made:
        yield made


def until(page: Any, expression: str) -> None:
    """Wait until an expression is true in the page, whose policy forbids playwright's own way."""
    end = time.monotonic() + LONG
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(10)


def write(page: Any, prompt: str = PROMPT, model: str = "gpt") -> Any:
    """Let a model write in the panel, and return the place of what it wrote, once there is some."""
    page.select_option("#panel-write .toolbar select", model)
    page.fill("#panel-write textarea.prose", prompt)
    page.keyboard.press("Control+Enter")
    until(page, "document.querySelector('#panel-write .new')?.textContent.length > 2")
    return page.locator("#panel-write .said .new").last


def ended(page: Any, panel: str) -> None:
    """Wait until nothing is written any more."""
    page.wait_for_selector(f"#panel-{panel} .runner:not(.busy)")


def say(page: Any, text: str) -> None:
    """Send a message, and wait for some of its answer."""
    count = page.locator("#panel-chat .message.assistant").count()
    page.fill("#panel-chat .composer textarea", text)
    page.keyboard.press("Enter")
    until(page, f"document.querySelectorAll('#panel-chat .message.assistant .said')[{count}]?.textContent.length > 2")


def stop(page: Any, panel: str) -> None:
    page.keyboard.press("Escape")
    ended(page, panel)


def test_stop_keeps_the_text_and_ends_the_work_of_the_server(seen: Any, host: Host) -> None:
    page = seen.go("write")
    new = write(page)
    assert host.writes("gpt")
    stop(page, "write")
    assert host.rests("gpt")
    text = new.inner_text()
    assert text
    assert page.locator("#panel-write .result .hint").first.inner_text() == "Stopped."
    page.wait_for_timeout(50)
    assert new.inner_text() == text


def test_a_text_has_versions_goes_on_and_is_kept(seen: Any) -> None:
    page = seen.go("write")
    write(page)
    stop(page, "write")
    first = page.locator("#panel-write .said").inner_text()
    page.click("#panel-write [data-act=again]")
    until(page, "document.querySelector('#panel-write .new')?.textContent.length > 2")
    stop(page, "write")
    versions = page.locator("#panel-write .of-written .figure")
    assert versions.inner_text() == "2/2"
    page.click("#panel-write .of-written [data-version='‹']")
    assert page.locator("#panel-write .said").inner_text() == first
    page.click("#panel-write [data-act=more]")
    until(page, "document.querySelectorAll('#panel-write .new')[1]?.textContent.length > 2")
    stop(page, "write")
    whole = page.locator("#panel-write .said").inner_text()
    assert whole.startswith(first)
    assert len(whole) > len(first)
    page.reload()
    page.wait_for_selector("#panel-write .said")
    assert page.locator("#panel-write .said").inner_text() == whole
    assert page.locator("#panel-write textarea.prose").input_value() == PROMPT


def test_a_blank_is_written_where_it_stands(seen: Any) -> None:
    page = seen.go("write")
    page.click("#panel-write summary")
    page.fill("#panel-write input[name=max_tokens]", "5")
    page.fill("#panel-write input[name=seed]", "5")
    write(page, "the [MASK] sat on the mat", "glm")
    ended(page, "write")
    parts = page.locator("#panel-write .said > span")
    assert [part.get_attribute("class") for part in parts.all()] == ["given", "new", "given"]
    assert parts.nth(0).text_content() == "the "
    assert parts.nth(2).text_content() == " sat on the mat"


def test_the_settings_reach_the_request_and_are_reset(seen: Any) -> None:
    page = seen.go("write")
    page.click("#panel-write summary")
    page.fill("#panel-write input[name=max_tokens]", "3")
    page.fill("#panel-write input[name=temperature]", "0.5")
    page.fill("#panel-write input[name=seed]", "7")
    page.fill("#panel-write textarea[name=stop]", "zebra\nlion")
    page.check("#panel-write .settings input[type=checkbox]")
    with page.expect_request("**/v1/completions") as sent:
        write(page)
    body = sent.value.post_data_json
    assert body == {
        "model": "gpt", "prompt": PROMPT, "stream": True, "max_tokens": 3, "temperature": 0.5, "seed": 7,
        "stop": ["zebra", "lion"], "logprobs": 5,
    }  # fmt: skip
    ended(page, "write")
    assert page.locator("#panel-write .result .hint").first.inner_text() == "The length limit was reached."
    tokens = page.locator("#panel-write .tok")
    assert tokens.count() == 3
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    assert tokens.nth(1).get_attribute("aria-selected") == "true"
    assert page.locator("#panel-write .token-info tbody tr").count() >= 2  # tokens of one text are one entry
    assert "%" in page.locator("#panel-write .token-info").inner_text()
    page.get_by_role("button", name="Reset").click()
    assert page.locator("#panel-write input[name=seed]").input_value() == ""


def test_a_message_is_edited_and_its_branch_can_be_left(seen: Any, host: Host) -> None:
    page = seen.go("chat")
    say(page, "a dog ran")
    stop(page, "chat")
    assert host.rests("gpt")
    say(page, "and a cat")
    stop(page, "chat")
    assert page.locator("#panel-chat .message").count() == 4
    page.locator("#panel-chat [data-act=edit]").first.click()
    page.fill("#panel-chat .message textarea", "a cat ran")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('#panel-chat .message').length === 2")
    until(page, "document.querySelector('#panel-chat .message.assistant .said').textContent.length > 2")
    stop(page, "chat")
    first = page.locator("#panel-chat .message.user").first
    assert first.locator(".figure").inner_text() == "2/2"
    first.locator("[data-version='‹']").click()
    assert page.locator("#panel-chat .message").count() == 4
    assert page.locator("#panel-chat .message .said").all_inner_texts()[::2] == ["a dog ran", "and a cat"]
    page.locator("#panel-chat [data-act=again]").last.click()
    until(page, "document.querySelectorAll('#panel-chat .message .said')[3].textContent.length > 2")
    stop(page, "chat")
    assert page.locator("#panel-chat .message.assistant").last.locator(".figure").inner_text() == "2/2"


def test_enter_that_ends_the_input_of_a_word_sends_nothing(seen: Any) -> None:
    page = seen.go("chat")
    field = page.locator("#panel-chat .composer textarea")
    field.fill("ni hao")
    field.dispatch_event("keydown", {"key": "Enter", "isComposing": True, "bubbles": True, "cancelable": True})
    assert page.locator("#panel-chat .message").count() == 0
    field.press("Shift+Enter")
    assert field.input_value() == "ni hao\n"
    assert page.locator("#panel-chat .message").count() == 0


def test_what_a_model_writes_is_never_markup(seen: Any) -> None:
    page = seen.go("chat")
    event = {
        "choices": [
            {"index": 0, "delta": {"content": "<img src=x onerror=alert(1)>\n**bold**"}, "finish_reason": "stop"}
        ]
    }
    page.route("**/v1/chat/completions", lambda route: route.fulfill(
        status=200, content_type="text/event-stream", body=f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n"
    ))  # fmt: skip
    say(page, "hello")
    ended(page, "chat")
    answer = page.locator("#panel-chat .message.assistant .said")
    assert answer.inner_text() == "<img src=x onerror=alert(1)>\n**bold**"
    assert answer.locator("*").count() == 0


def test_the_history_is_listed_renamed_exported_read_again_and_deleted(seen: Any, tmp_path: Path) -> None:
    page = seen.go("chat")
    say(page, "a dog ran")
    stop(page, "chat")
    page.locator("#panel-chat [data-act=again]").click()
    until(page, "document.querySelector('#panel-chat .message.assistant .said').textContent.length > 2")
    stop(page, "chat")
    texts = page.locator("#panel-chat .message .said").all_inner_texts()
    page.get_by_role("button", name="History").click()
    drawer = page.locator("dialog")
    drawer.get_by_role("button", name="Rename").click()
    drawer.locator("input:not([type=file])").fill("Dogs")
    page.keyboard.press("Enter")
    assert drawer.locator(".talk").inner_text().startswith("Dogs")
    files = {}
    for ending in ("md", "json"):
        with page.expect_download() as saved:
            drawer.locator(f"[data-name={ending}]").click()
        assert saved.value.suggested_filename == f"Dogs.{ending}"
        files[ending] = tmp_path / saved.value.suggested_filename
        saved.value.save_as(files[ending])
    markdown = files["md"].read_text("utf-8")
    assert markdown.startswith("# Dogs\n")
    assert texts[1] in markdown
    talk = json.loads(files["json"].read_text("utf-8"))["talk"]
    assert len(talk["nodes"]) == 3
    drawer.get_by_role("button", name="Delete all").click()
    drawer.get_by_role("button", name="Really delete all?").click()
    assert drawer.locator(".talk").count() == 0
    assert page.locator("#panel-chat .message").count() == 0
    broken = tmp_path / "broken.json"
    broken.write_text('{"format": "another"}', "utf-8")
    drawer.locator("input[type=file]").set_input_files(broken)
    until(page, "document.querySelector('dialog .error').textContent.includes('not a conversation')")
    drawer.locator("input[type=file]").set_input_files(files["json"])
    page.wait_for_selector("#panel-chat .message")
    assert page.locator("#panel-chat .message .said").all_inner_texts() == texts
    assert page.locator("#panel-chat .message.assistant .figure").inner_text() == "2/2"


def test_old_talks_give_way_when_the_history_is_full(seen: Any) -> None:
    page = seen.go("chat")
    stored = page.evaluate("""() => {
        const { talks } = blankfill;
        let dropped = 0;
        for (let k = 0; k < 5; k += 1) {
            const talk = talks.begin("chat");
            talks.add(talk, null, "user", `${k} `.repeat(300000));
            dropped += talks.store(talk);
        }
        return [dropped, talks.list("chat").map((talk) => talk.nodes[talk.leaf].text[0])];
    }""")
    assert stored == [2, ["4", "3", "2"]]


def test_a_server_that_is_killed_in_a_stream_comes_back(seen: Any, host: Host) -> None:
    page = seen.go("chat")
    say(page, "a dog ran")
    host.kill()
    ended(page, "chat")
    assert page.locator("#panel-chat .composer .error").inner_text()
    assert page.locator(".banner").is_visible()
    broken = page.locator("#panel-chat .message.assistant .said").inner_text()
    assert broken
    assert "The text broke off." in page.locator("#panel-chat .message.assistant").inner_text()
    assert host.rests("gpt")
    host.start()
    page.locator(".banner button").click()
    page.wait_for_selector(".banner", state="hidden")
    assert page.locator("#panel-chat .message.assistant .said").inner_text() == broken
    page.locator("#panel-chat [data-act=again]").click()
    until(page, "document.querySelector('#panel-chat .message.assistant .said').textContent.length > 2")
    stop(page, "chat")
    assert page.locator("#panel-chat .message.assistant .figure").inner_text() == "2/2"


def test_the_page_follows_the_text_only_at_its_end(seen: Any) -> None:
    page = seen.go("chat")
    page.set_viewport_size({"width": 400, "height": 400})
    page.locator("#panel-chat .settings summary").click()
    page.fill("#panel-chat input[name=max_tokens]", "480")
    page.locator("#panel-chat .settings summary").click()
    say(page, "a dog ran\n" * 12)
    end = "innerHeight + scrollY >= document.documentElement.scrollHeight - 60"
    until(page, "document.querySelector('#panel-chat .message.assistant .said').textContent.length > 150")
    assert page.evaluate(end)
    page.evaluate("scrollTo(0, 0)")
    length = page.locator("#panel-chat .message.assistant .said").inner_text().__len__()
    until(page, f"document.querySelector('#panel-chat .message.assistant .said').textContent.length > {length + 20}")
    assert page.evaluate("scrollY") == 0
    stop(page, "chat")


def test_a_page_that_is_left_while_a_model_writes_says_so_later(seen: Any, host: Host) -> None:
    page = seen.go("chat")
    say(page, "a dog ran")
    said = page.locator("#panel-chat .message.assistant .said").inner_text()
    page.reload()
    page.wait_for_selector("#panel-chat .message.assistant")
    assert page.locator("#panel-chat .message.assistant .said").inner_text().startswith(said.strip())
    assert host.rests("gpt")
    said = page.locator("#panel-chat .message.assistant").inner_text()
    assert re.search(r"The page was left|The text broke off", said)  # by what the browser ended first


def lines(count: int) -> list[str]:
    """Different texts of words that the model knows."""
    size = len(WORDS)
    return [" ".join(WORDS[(k // size**at) % size] for at in range(4)) for k in range(count)]


def test_lines_are_compared_mapped_and_searched(seen: Any) -> None:
    page = seen.go("embed")
    page.fill("#panel-embed textarea", "the old boat\nthe old lamp\n\nthe sea sings\nthe old boat")
    page.select_option("#panel-embed select", "bert")
    page.locator("#panel-embed .primary").first.click()
    page.wait_for_selector("#panel-embed .map")
    assert page.locator("#panel-embed .dot").count() == 4
    assert page.locator("#panel-embed .dot.g1").count() == 2
    page.wait_for_selector("#panel-embed .pairs")
    pairs = page.locator("#panel-embed .pairs tbody tr").all_inner_texts()
    assert len(pairs) == 4  # equal lines are no pair
    values = [float(row.split()[-1]) for row in pairs]
    assert values == sorted(values, reverse=True)
    page.focus("#panel-embed .map")
    here = page.locator("#panel-embed .map-info strong").inner_text()
    page.keyboard.press("End")
    assert page.locator("#panel-embed .map-info strong").inner_text() == "the old boat"
    page.keyboard.press("Home")
    assert page.locator("#panel-embed .map-info strong").inner_text() == here
    page.fill("#panel-embed input[type=search]", "the sea sings")
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel-embed .hits")
    best = page.locator("#panel-embed .hits tr").first.inner_text()
    assert best.startswith("the sea sings")
    assert best.endswith("1.000")


def test_a_file_is_read_in_batches_and_its_vectors_are_kept(seen: Any, tmp_path: Path) -> None:
    page = seen.go("embed")
    (tmp_path / "lines.txt").write_text("\n".join(lines(600)), "utf-8")
    page.select_option("#panel-embed select", "bert")
    page.locator("#panel-embed input[type=file]").set_input_files(tmp_path / "lines.txt")
    sizes: list[int] = []
    page.on(
        "request", lambda request: "embeddings" in request.url and sizes.append(len(request.post_data_json["input"]))
    )
    page.locator("#panel-embed .primary").first.click()
    page.wait_for_selector("#panel-embed .map")
    assert sizes == [256, 256, 88]
    page.fill("#panel-embed input[type=search]", "red red red red")
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel-embed .hits")
    assert sizes[3:] in ([1], [])  # the vectors of the lines are there


def test_reading_lines_can_be_stopped(seen: Any) -> None:
    page = seen.go("embed")
    page.select_option("#panel-embed select", "bert")
    page.fill("#panel-embed textarea", "\n".join(lines(600)))
    waiting = []
    page.route("**/v1/embeddings", lambda route: waiting.append(route))  # never answered
    page.locator("#panel-embed .primary").first.click()
    page.wait_for_selector("#panel-embed progress:not([hidden])")
    assert "0 of 600 lines" in page.locator("#panel-embed .under").inner_text()
    stop(page, "embed")
    assert len(waiting) == 1
    assert page.locator("#panel-embed .map").count() == 0


def test_the_map_has_the_two_directions_of_largest_difference(seen: Any) -> None:
    page = seen.go("embed")
    result = page.evaluate("""async () => {
        const { principalAxes, placed } = blankfill.vectors;
        const vectors = [];
        for (let a = -5; a <= 5; a += 1) {
            for (let b = -2; b <= 2; b += 1) vectors.push(Float32Array.from([b, 0.1 * ((a * b) % 3), 7, a]));
        }
        const axes = await principalAxes(vectors);
        return [axes.axes.map((axis) => Array.from(axis, (value) => Math.abs(value).toFixed(1))), axes.mean[2]];
    }""")
    assert result[0][0][3] == "1.0"
    assert result[0][1][0] == "1.0"
    assert result[1] == pytest.approx(7)


def test_a_request_is_shown_from_the_inside(seen: Any) -> None:
    page = seen.go("write")
    write(page)
    stop(page, "write")
    page.click("#panel-write [data-act=inside]")
    page.wait_for_selector("#panel-inside .attention")
    assert page.locator("#panel-inside textarea").input_value() == PROMPT
    cells = page.locator("#panel-inside .cell")
    count = cells.count()
    assert page.locator("#panel-inside .cell[data-predicts=true]").count() == 1
    cells.first.focus()
    assert "Sees 1:" in page.locator("#panel-inside .inside-info").inner_text()
    page.keyboard.press("End")
    assert f"Sees {count}:" in page.locator("#panel-inside .inside-info").inner_text()
    square = page.locator("#panel-inside .attention")
    square.focus()
    page.keyboard.press("ArrowRight")
    assert re.search(r"sees|does not see", page.locator("#panel-inside .inside-info").inner_text())
    page.locator("#panel-inside details summary").click()
    rows = page.locator("#panel-inside .facts tbody tr")
    assert rows.count() == count
    assert rows.last.inner_text().endswith(f"0–{count - 1}")


def test_a_link_shows_a_text_with_blanks(seen: Any, host: Host) -> None:
    seen.page.goto(f"{host.url}/#/inside?model=bert&use=fill&input=the+[MASK]+boat")
    page = seen.page
    page.wait_for_selector("#panel-inside .attention")
    assert page.locator("#panel-inside .toolbar select").first.input_value() == "bert"
    assert [cell.get_attribute("data-role") for cell in page.locator("#panel-inside .cell").all()] == [
        "special", "text", "blank", "text", "special",
    ]  # fmt: skip
    page.fill("#panel-inside textarea", "the boat")
    page.keyboard.press("Control+Enter")
    until(page, "document.querySelector('#panel-inside .error').textContent.includes('no blank')")
    page.fill("#panel-inside textarea", '[{"role": ')
    page.keyboard.press("Control+Enter")
    until(page, "document.querySelector('#panel-inside .error').textContent.includes('cannot be read')")


def test_the_request_of_the_fill_panel_is_shown_from_the_inside(seen: Any) -> None:
    page = seen.go("fill")
    page.select_option("#panel-fill .toolbar select >> nth=0", "bert")
    page.click("#panel-fill [data-act=inside]")
    page.wait_for_selector(".toast.shown")  # there was no request yet
    page.evaluate("location.hash = '#/inside'")
    page.wait_for_selector("#panel-inside textarea")
    assert page.locator("#panel-inside textarea").input_value() == ""


@pytest.mark.parametrize(("language", "width", "theme"), [("zh", 320, "dark"), ("en", 1280, "light")])
def test_panels_fit_and_have_no_barrier(chromium: Any, host: Host, language: str, width: int, theme: str) -> None:
    with visit(chromium, host.url, language=language, width=width, theme=theme) as seen:
        for panel in ("write", "chat", "embed", "inside"):
            page = seen.go(panel)
            if panel == "write":
                page.locator("#panel-write summary").click()
                page.check("#panel-write .settings input[type=checkbox]")
                write(page)
                stop(page, "write")
            elif panel == "chat":
                say(page, "a dog ran")
                stop(page, "chat")
            elif panel == "embed":
                page.select_option("#panel-embed select", "bert")
                page.fill("#panel-embed textarea", "the old boat\nthe old lamp\n\nthe sea sings")
                page.locator("#panel-embed .primary").first.click()
                page.wait_for_selector("#panel-embed .map")
                page.focus("#panel-embed .map")
            else:
                page.select_option("#panel-inside .toolbar select >> nth=0", "bert")
                page.fill("#panel-inside textarea", "the [MASK] boat [MASK:2]")
                page.select_option("#panel-inside .toolbar select >> nth=1", "fill")
                page.keyboard.press("Control+Enter")
                page.wait_for_selector("#panel-inside .attention")
            assert seen.overflow() <= 0
            assert seen.violations() == []
