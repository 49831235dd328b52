"""Fill and Predict in Chromium, in both languages, on a phone and on a desktop; axe looks for barriers.

Models are tiny, so what they say means nothing here; what the page does with it is tested. Not here: the frame of the
page (`test_serving_browser_frame`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import serving_browser
from serving_apps import tuned_models
from serving_browser import SENTENCE, filled, requests_of, skip_without_browser, visit, word, write

from blankfill.serving.run import running
from written_models import write_model

pytestmark = skip_without_browser()
chromium = serving_browser.chromium
CHINESE = "春天来了，河边的柳树都绿了。"
TASKS = {"classes": "sst2", "names": "conll", "questions": "squad2", "numbers": "stsb", "choices": "copa"}
SCREENS = [("en", 1280), ("zh", 360)]
NO_BLANK = {"en": "no blank", "zh": "没有空"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    root = tmp_path_factory.mktemp("models")
    made = {family: write_model(root / family, family) for family in ("bert", "glm")}
    tuned = tuned_models(tmp_path_factory)
    return made | {name: tuned[task] for name, task in TASKS.items()}


@pytest.fixture(scope="module")
def url(folders: Mapping[str, Path]) -> Iterator[str]:
    with running(dict(folders), threads=1) as url:
        yield url


# ---- Fill -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("language", "width"), SCREENS)
def test_words_are_blanked_chosen_and_restored(chromium: Any, url: str, language: str, width: int) -> None:
    with visit(chromium, url, language=language, width=width) as seen:
        page = seen.go("fill")
        sent = requests_of(page, "/v1/fill")
        write(page, SENTENCE)
        word(page, "boat").click()
        word(page, "sea").click()
        filled(page)
        assert sent[-1]["input"] == "the old [MASK] sleeps on the [MASK]."
        assert page.locator(".blank-block").count() == 2
        assert page.locator(".blank-block >> nth=0").locator(".chip").count() == 5

        chip = page.locator(".blank-block >> nth=0").locator(".chip >> nth=1")
        chosen = chip.locator(".chip-text").inner_text().split("\n")[0].replace(" ●", "").strip()
        chip.click()
        page.wait_for_function("() => document.querySelector('.chip[aria-pressed=true]')")
        filled(page)
        page.wait_for_timeout(500)
        filled(page)
        assert sent[-1]["input"].replace(chosen, "<>", 1) == "the old <> sleeps on the [MASK]."
        assert page.locator(".gap-word.fixed .gap-text").inner_text() == chosen
        assert seen.overflow() <= 0

        page.locator(".chip[aria-pressed=true]").click()  # takes the choice back
        page.wait_for_timeout(500)
        filled(page)
        assert sent[-1]["input"] == "the old [MASK] sleeps on the [MASK]."
        page.locator(".gap-word >> nth=0").click()  # restores the word
        assert word(page, "boat").get_attribute("aria-pressed") == "false"
        assert page.locator(".blank-block").count() == 1


def test_blanks_follow_the_text_when_it_is_edited(chromium: Any, url: str) -> None:
    with visit(chromium, url) as seen:
        page = seen.go("fill")
        sent = requests_of(page, "/v1/fill")
        write(page, SENTENCE)
        word(page, "boat").click()
        write(page, f"near {SENTENCE}")
        page.keyboard.press("Control+Enter")
        filled(page)
        assert sent[-1]["input"] == "near the old [MASK] sleeps on the sea."
        write(page, "near the sea.")
        page.wait_for_selector(".blank-block", state="detached")
        write(page, "the ____ sleeps on the [MASK:2].")
        page.keyboard.press("Control+Enter")
        filled(page)
        assert sent[-1]["input"] == "the [MASK] sleeps on the [MASK:2]."


def test_chinese_characters_are_taken_by_dragging(chromium: Any, url: str) -> None:
    with visit(chromium, url, language="zh", width=360, theme="dark") as seen:
        page = seen.go("fill")
        sent = requests_of(page, "/v1/fill")
        write(page, CHINESE)
        first, last = word(page, "柳").bounding_box(), word(page, "树").bounding_box()
        page.mouse.move(first["x"] + 5, first["y"] + 8)
        page.mouse.down()
        page.mouse.move(last["x"] + 5, last["y"] + 8)
        page.mouse.up()
        page.wait_for_selector(".blank-block")
        assert "柳树" in page.locator(".blank-block h2").inner_text()
        page.wait_for_selector(".error:not(:empty)")  # the model knows no Chinese, and the server says so
        assert sent[-1]["input"] == "春天来了，河边的[MASK:2]都绿了。"
        assert "unknown to the tokenizer" in page.locator(".error:not(:empty)").inner_text()
        assert seen.overflow() <= 0


def test_the_keyboard_blanks_several_words_and_changes_the_length(chromium: Any, url: str) -> None:
    with visit(chromium, url) as seen:
        page = seen.go("fill")
        sent = requests_of(page, "/v1/fill")
        write(page, SENTENCE)
        page.locator(".sheet .word[tabindex='0']").focus()
        for key in ("ArrowRight", "Shift+ArrowRight", "Space"):
            page.keyboard.press(key)
        filled(page)
        assert sent[-1]["input"] == "the [MASK:2] sleeps on the sea."
        assert page.locator(".stepper-value").inner_text() == "2 tokens"
        page.keyboard.press("-")
        page.wait_for_timeout(500)
        filled(page)
        assert sent[-1]["input"] == "the [MASK] sleeps on the sea."
        assert page.locator(".stepper-value").inner_text() == "1 token"
        page.select_option("#panel-fill .model select", "glm")
        assert page.locator(".stepper-value").inner_text() == "free length"
        page.locator(".gap-word").focus()
        page.keyboard.press("Space")
        assert page.locator(".blank-block").count() == 0


def test_two_models_fill_side_by_side(chromium: Any, url: str) -> None:
    with visit(chromium, url) as seen:
        page = seen.go("fill")
        sent = requests_of(page, "/v1/fill")
        write(page, SENTENCE)
        page.check("#panel-fill .toolbar input[type=checkbox]")
        word(page, "boat").click()
        filled(page)
        assert {body["model"] for body in sent[-2:]} == {"bert", "glm"}
        columns = page.locator(".fill-columns > section")
        assert columns.count() == 2
        tops = [columns.nth(at).bounding_box() for at in range(2)]
        assert tops[0]["y"] == tops[1]["y"] and tops[0]["x"] < tops[1]["x"]
        page.locator(".fill-columns > section >> nth=1").locator(".chip >> nth=0").click()
        assert page.locator(".guess.fixed").count() == 2  # the choice stands in both


def test_texts_are_never_html(chromium: Any, url: str) -> None:
    with visit(chromium, url) as seen:
        page = seen.go("fill")
        write(page, "the <img src=x onerror=alert(1)> boat")
        word(page, "boat").click()
        page.wait_for_selector(".blank-block")
        assert page.locator("img").count() == 0
        assert "<" in page.locator(".sheet").inner_text()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_is_lacking_is_said_beside_the_input(chromium: Any, url: str, language: str) -> None:
    with visit(chromium, url, language=language) as seen:
        page = seen.go("fill")
        write(page, SENTENCE)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".error:not(:empty)")
        assert NO_BLANK[language] in page.locator(".error:not(:empty)").inner_text()


# ---- Predict --------------------------------------------------------------------------------------------------------


def choose(page: Any, model: str) -> None:
    page.select_option("#panel-predict .model select", model)


@pytest.mark.parametrize(("language", "width"), SCREENS)
def test_a_class_is_shown_with_what_each_word_contributed(chromium: Any, url: str, language: str, width: int) -> None:
    with visit(chromium, url, language=language, width=width) as seen:
        page = seen.go("predict")
        choose(page, "classes")
        page.fill("#panel-predict textarea", "the cat sat on a good mat")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".verdict")
        shares = page.locator(".bars .figure").all_inner_texts()
        assert len(shares) == 2 and all(share.endswith("%") for share in shares)
        words = page.locator(".effects .word")
        assert words.all_inner_texts() == ["the", "cat", "sat", "on", "a", "good", "mat"]
        words.nth(0).focus()
        page.keyboard.press("ArrowRight")
        assert page.locator(".effect-note").inner_text().startswith("cat ")
        page.click(".result summary")
        assert page.locator(".result .plain tbody tr").count() == 7
        assert seen.overflow() <= 0


def test_words_of_a_long_text_are_not_explained(chromium: Any, url: str) -> None:
    with visit(chromium, url) as seen:
        page = seen.go("predict")
        choose(page, "classes")
        page.click("#panel-predict .settings summary")
        page.check("#panel-predict .settings input >> nth=0")  # the text may be cut
        page.fill("#panel-predict textarea", "the cat sat " * 80)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".verdict")
        assert page.locator(".effects").count() == 0
        assert "200" in page.locator(".result").inner_text()


@pytest.mark.parametrize(("language", "width"), SCREENS)
def test_entities_are_marked_where_they_stand(chromium: Any, url: str, language: str, width: int) -> None:
    with visit(chromium, url, language=language, width=width) as seen:
        page = seen.go("predict")
        choose(page, "names")
        text = "the cat sat on a fine mat"
        page.fill("#panel-predict textarea", text)
        with page.expect_response("**/v1/tag") as answered:
            page.keyboard.press("Control+Enter")
        entities = answered.value.json()["data"][0]["entities"]
        assert entities
        page.wait_for_selector(".result .marked")
        marks = [mark.split() for mark in page.locator(".entity").all_inner_texts()]
        assert marks == [[*text[entity["start"] : entity["end"]].split(), entity["type"]] for entity in entities]
        assert page.locator(".legend .key").count() == len({entity["type"] for entity in entities})


@pytest.mark.parametrize(("language", "width"), SCREENS)
def test_the_answer_is_marked_in_its_context(chromium: Any, url: str, language: str, width: int) -> None:
    with visit(chromium, url, language=language, width=width) as seen:
        page = seen.go("predict")
        choose(page, "questions")
        context = "the cat sat on the mat near a good lamp"
        page.fill("#panel-predict textarea >> nth=0", "where sat the cat")
        page.fill("#panel-predict textarea >> nth=1", context)
        with page.expect_response("**/v1/answer") as answered:
            page.keyboard.press("Control+Enter")
        best = [answer for answer in answered.value.json()["data"][0]["best"] if answer["text"]]
        assert len(best) > 1
        page.wait_for_selector(".result .marked")
        for at, answer in enumerate(best[:3]):
            page.locator(".result .choice").nth(at).click()
            assert page.locator("mark.answer").inner_text() == context[answer["start"] : answer["end"]]
        assert page.locator(".result .marked").inner_text() == context
        assert seen.overflow() <= 0


def test_numbers_and_choices_have_fields_of_their_own(chromium: Any, url: str) -> None:
    with visit(chromium, url) as seen:
        page = seen.go("predict")
        sent = requests_of(page, "/v1/classify")
        choose(page, "numbers")
        for at, text in enumerate(("the cat sat", "the cat ran")):
            page.fill(f"#panel-predict textarea >> nth={at}", text)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".verdict")
        assert sent[-1]["input"] == {"text": "the cat sat", "second": "the cat ran"}
        assert re.fullmatch(r"-?\d+(\.\d+)?", page.locator(".verdict").inner_text())
        assert page.locator(".effects").count() == 2

        choose(page, "choices")
        labels = page.locator("#panel-predict .stack label").all_inner_texts()
        assert labels[:4] == ["Premise", "choice1", "choice2", "Question"]
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".error:not(:empty)")
        assert "Premise" in page.locator(".error:not(:empty)").inner_text()


# ---- Accessibility --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("language", "width", "theme"), [("en", 1280, "light"), ("zh", 320, "dark")])
def test_axe_finds_nothing(chromium: Any, url: str, language: str, width: int, theme: str) -> None:
    with visit(chromium, url, language=language, width=width, theme=theme) as seen:
        page = seen.go("fill")
        assert seen.violations() == []
        write(page, SENTENCE)
        page.check("#panel-fill .toolbar input[type=checkbox]")
        word(page, "boat").click()
        filled(page)
        page.locator(".chip >> nth=1").click()
        page.click("#panel-fill summary")
        assert seen.violations() == []
        assert seen.overflow() <= 0
        page = seen.go("predict")
        for model, texts in {
            "classes": ["the cat sat on a good mat"], "names": ["the cat sat on a fine mat"],
            "questions": ["who sat", "the cat sat"],
        }.items():  # fmt: skip
            choose(page, model)
            for at, text in enumerate(texts):
                page.fill(f"#panel-predict textarea >> nth={at}", text)
            page.keyboard.press("Control+Enter")
            page.wait_for_function(
                "() => document.querySelector('.result').children.length && !document.querySelector('.busy')"
            )
            assert seen.violations() == []
            assert seen.overflow() <= 0
