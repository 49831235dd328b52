"""The frame of the page in Chromium: servers that go and come, keys, tabs, languages, themes, the code of a request."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import serving_browser
from serving_browser import SENTENCE, filled, requests_of, skip_without_browser, visit, word, write

from blankfill.serving.run import running
from written_models import write_model

pytestmark = skip_without_browser()
chromium = serving_browser.chromium
TEXTS = {
    "en": {"gone": "cannot be reached", "back": "is back", "key": "needs an API key"},
    "zh": {"gone": "无法连接", "back": "已恢复", "key": "需要 API 密钥"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: write_model(root / family, family) for family in ("bert", "glm")}


@pytest.fixture(scope="module")
def url(folders: Mapping[str, Path]) -> Iterator[str]:
    with running(dict(folders), threads=1) as url:
        yield url


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_server_that_comes_back_finds_what_was_typed(
    chromium: Any, folders: Mapping[str, Path], language: str
) -> None:
    with running({"bert": folders["bert"]}, threads=1) as first:
        port = int(first.rpartition(":")[2])
        ahead = visit(chromium, first, language=language)
        seen = ahead.__enter__()
        page = seen.go("fill")
        write(page, SENTENCE)
        word(page, "boat").click()
        filled(page)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".banner:not([hidden])")
    assert TEXTS[language]["gone"] in page.locator(".banner").inner_text()
    with running({"bert": folders["bert"]}, threads=1, port=port):
        page.wait_for_function("(text) => document.querySelector('.banner').textContent.includes(text)",
                               arg=TEXTS[language]["back"])  # fmt: skip
        assert page.input_value("#panel-fill textarea >> nth=0") == SENTENCE
        assert page.locator(".gap-word").count() == 1
        page.keyboard.press("Control+Enter")
        filled(page)
        page.reload()
        page.wait_for_selector(".gap-word")  # inputs are kept in the browser
        assert page.input_value("#panel-fill textarea >> nth=0") == SENTENCE
        ahead.__exit__(None, None, None)


def test_a_server_that_is_killed_is_waited_for(chromium: Any, folders: Mapping[str, Path], tmp_path: Path) -> None:
    first, url = started(folders["bert"], tmp_path / "first.log")
    port = int(url.rpartition(":")[2])
    try:
        with visit(chromium, url) as seen:
            page = seen.go("fill")
            write(page, SENTENCE)
            word(page, "boat").click()
            filled(page)
            first.kill()
            first.wait()
            page.click(".chip >> nth=1")
            word(page, "sea").click()
            page.wait_for_selector(".banner:not([hidden])")
            chosen = page.locator(".gap-word.fixed .gap-text").inner_text()
            with running({"bert": folders["bert"]}, threads=1, port=port):
                page.wait_for_selector(".banner[data-phase=up]")
                page.keyboard.press("Control+Enter")
                filled(page)
                assert page.locator(".gap-word.fixed .gap-text").inner_text() == chosen
                assert page.locator(".gap-word").count() == 2
    finally:
        first.kill()
        first.communicate()


def started(folder: Path, log: Path) -> tuple[subprocess.Popen[str], str]:
    """A server in a process of its own, which takes requests, and its address."""
    command = [sys.executable, "-m", "blankfill", "serve", "--model", str(folder), "--port", "0", "--threads", "1"]
    with log.open("wb") as output:
        server = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=output, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    assert line, log.read_text("utf-8")
    return server, json.loads(line)["url"]


@pytest.mark.parametrize(("phase", "said"), [("loading", "loads its models"), ("draining", "is being stopped")])
def test_a_server_that_is_not_ready_is_waited_for(chromium: Any, url: str, phase: str, said: str) -> None:
    with visit(chromium, url) as seen:
        page = seen.page
        page.route("**/health", lambda route: route.fulfill(status=503, json={"status": phase}))
        page.goto(url)
        page.wait_for_selector(".banner:not([hidden])")
        assert said in page.locator(".banner").inner_text()
        page.unroute("**/health")
        page.wait_for_selector("#panel-fill textarea")
        page.wait_for_selector(".banner", state="hidden")


def test_a_long_text_is_kept_quick(chromium: Any, url: str) -> None:
    with visit(chromium, url) as seen:
        page = seen.go("fill")
        write(page, "the old boat " * 2000)
        page.wait_for_selector("#panel-fill .hint:has-text('Only the beginning')")
        assert page.locator(".sheet .word").count() <= 3000


def test_a_server_with_a_key_asks_for_it(chromium: Any, folders: Mapping[str, Path]) -> None:
    locked = running({"bert": folders["bert"]}, threads=1, api_keys=("open-sesame",))
    with locked as url, visit(chromium, url) as seen:
        page = seen.page
        page.goto(url)
        page.wait_for_selector(".banner:not([hidden])")
        assert TEXTS["en"]["key"] in page.locator(".banner").inner_text()
        page.click(".banner button")
        page.fill("dialog input", "open-sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("#panel-fill textarea")
        assert page.locator(".banner").is_hidden()
        assert "sesame" not in page.evaluate("JSON.stringify(localStorage)")


def test_tabs_dialogs_and_settings_are_reached_by_keys(chromium: Any, url: str) -> None:
    with visit(chromium, url) as seen:
        page = seen.go("fill")
        page.focus("[role=tab][aria-selected=true]")
        page.keyboard.press("ArrowRight")
        assert not page.url.endswith("#/fill")
        page.keyboard.press("ArrowLeft")
        assert page.url.endswith("#/fill")
        page.go_back()
        assert not page.url.endswith("#/fill")
        page.go_forward()
        page.keyboard.press("?")
        assert page.locator("dialog kbd").count() >= 4
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog", state="detached")
        page.locator(".skip").focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"


def test_language_and_theme_change_without_losing_anything(chromium: Any, url: str) -> None:
    with visit(chromium, url) as seen:
        page = seen.go("fill")
        write(page, SENTENCE)
        word(page, "boat").click()
        filled(page)
        page.click("text=中文")
        assert page.locator("html").get_attribute("lang") == "zh-CN"
        assert page.input_value("#panel-fill textarea >> nth=0") == SENTENCE
        assert page.locator(".chip").count() == 5
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        for _ in range(2):  # as the system, light, dark
            page.locator(".tools .icon").first.click()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
        page.reload()
        page.wait_for_selector(".gap-word")
        assert page.locator("html").get_attribute("lang") == "zh-CN"
        assert page.locator("html").get_attribute("data-theme") == "dark"


def test_escape_stops_a_request(chromium: Any, url: str) -> None:
    with visit(chromium, url) as seen:
        page = seen.go("fill")
        write(page, SENTENCE)
        page.route("**/v1/fill", lambda route: None)  # never answered
        word(page, "boat").click()
        page.wait_for_selector(".busy")
        page.keyboard.press("Escape")
        page.wait_for_selector(".busy", state="detached")
        assert page.locator(".error:not(:empty)").count() == 0
        page.unroute("**/v1/fill")
        page.keyboard.press("Control+Enter")
        filled(page)


def test_the_code_of_a_request_is_the_request(
    chromium: Any, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with visit(chromium, url) as seen:
        page = seen.go("fill")
        sent = requests_of(page, "/v1/fill")
        write(page, "it's the \"old\" boat's lamp \\ near the sea")
        word(page, "sea").click()
        page.wait_for_function(
            "() => !document.querySelector('.busy') && document.querySelector('.error:not(:empty), .chip')"
        )
        page.click("#panel-fill .toolbar .end button")
        page.click("dialog .choice >> nth=0")
        curl = page.locator("dialog code").inner_text()
        page.click("dialog .choice >> nth=1")
        python = page.locator("dialog code").inner_text()
    body = re.search(r"(?s)-d ('.*')", curl)
    assert body and f"{url}/v1/fill" in curl
    if sys.platform != "win32":
        written = subprocess.run(["sh", "-c", f"printf %s {body[1]}"], capture_output=True, text=True, check=True)
        assert json.loads(written.stdout) == sent[-1]
    posted: list[tuple[str, Any]] = []
    module = types.ModuleType("requests")
    answer = types.SimpleNamespace(raise_for_status=lambda: None, json=dict)
    module.post = lambda url, json: posted.append((url, json)) or answer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "requests", module)
    exec(compile(python, "shown", "exec"), {})
    assert posted == [(f"{url}/v1/fill", sent[-1])]


def test_code_for_the_openai_client_puts_other_fields_aside(chromium: Any, url: str) -> None:
    with visit(chromium, url) as seen:
        page = seen.go("fill")
        request = {"path": "/v1/completions", "body": {"model": "bert", "prompt": "x", "top_k": 3, "stream": False}}
        code = page.evaluate("(request) => blankfill.codeOf(request, 'http://127.0.0.1:1', true)", request)
    shown = code["Python (openai)"]
    compile(shown, "shown", "exec")
    assert 'extra_body={"top_k": 3}' in shown and 'prompt="x"' in shown and "stream=False" in shown
    assert "Authorization: Bearer KEY" in code["curl"]
