"""The page as a document: it needs no other file, its policy allows exactly its scripts, both languages have all texts.

Not here: the page in a browser (`test_serving_browser`).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from serving_apps import client_of

import blankfill.serving.page as parts
from blankfill.serving.page import SCRIPTS, STYLES, page
from head_models import fine_tuned
from written_models import write_model

FOLDER = Path(parts.__file__).parent
OWN_PAGES = {"reference.js", "reference.css"}  # of the page at /docs
NAMESPACE = "http://www.w3.org/2000/svg"
LANGUAGE = re.compile(r"^ {8}(en|zh): \{\n(.*?)^ {8}\},$", re.S | re.M)
KEY = re.compile(r'^ {12}"([^"]+)":', re.M)
USE = re.compile(r"""\bt\("([^"]+)"[,)]""")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with client_of({"small": write_model(tmp_path_factory.mktemp("bert"), "bert")}) as client:
        yield client


def scripts() -> dict[str, str]:
    return {name: (FOLDER / name).read_text("utf-8") for name in SCRIPTS}


def languages(script: str) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {"en": [], "zh": []}
    for language, body in LANGUAGE.findall(script):
        keys[language] += KEY.findall(body)
    return keys


def test_every_part_is_in_the_document_once() -> None:
    assert set(SCRIPTS) == {path.name for path in FOLDER.glob("*.js")} - OWN_PAGES
    assert set(STYLES) == {path.name for path in FOLDER.glob("*.css")} - OWN_PAGES
    assert len(set(SCRIPTS)) == len(SCRIPTS)
    document = page().document.decode()
    assert document.count("<script>") == document.count("</script>") == 1
    assert document.count("<style>") == document.count("</style>") == 1


def test_the_document_needs_no_other_host() -> None:
    document = page().document.decode().replace(NAMESPACE, "")
    assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`]*", document) == []
    assert re.findall(r"\b(?:src|href)=\"(?!data:|/docs\")[^\"]*\"", document) == []
    assert "@import" not in document and "url(" not in document


def test_the_policy_allows_exactly_the_script_and_the_style(client: TestClient) -> None:
    answer = client.get("/")
    policy = dict(rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";"))
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[rule] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_data_can_become_html(name: str) -> None:
    script = scripts()[name]
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function",
                      "DOMParser", 'setAttribute("style"', "srcdoc"):  # fmt: skip
        assert forbidden not in script
    written = re.sub(r'\bstyle: "percent"', "", script)  # of numbers
    assert not re.search(
        r"\bstyle: [\"'`]", written
    )  # the policy forbids the attribute; `style: {...}` sets properties


@pytest.mark.parametrize("name", [*SCRIPTS, *STYLES])
def test_a_part_can_be_read_at_a_sitting(name: str) -> None:
    assert len((FOLDER / name).read_text("utf-8").splitlines()) <= 500


def test_both_languages_have_the_same_texts() -> None:
    count = 0
    for script in scripts().values():
        keys = languages(script)
        assert keys["en"] == keys["zh"]
        assert len(set(keys["en"])) == len(keys["en"])
        count += len(keys["en"])
        assert keys["en"] or "texts({\n" not in script
    assert count > 100


def test_every_text_that_a_script_names_is_there() -> None:
    known = {key for script in scripts().values() for key in languages(script)["en"]}
    for name, script in scripts().items():
        assert {key for key in USE.findall(script) if key not in known} == set(), name


def test_chinese_texts_are_chinese() -> None:
    others = {"API", "Top p", "Top k", "English", "Switch to English"}
    for script in scripts().values():
        for body in (body for language, body in LANGUAGE.findall(script) if language == "zh"):
            for key, text in re.findall(r'^ {12}"([^"]+)": "(.*)",$', body, re.M):
                words = re.sub(r"\{\w+\}", "", text)  # without the places of values
                assert re.search(r"[\u4e00-\u9fff]", words) or not re.search("[A-Za-z]", words) or words in others, key


def test_a_model_says_what_the_page_needs_to_know(client: TestClient, tmp_path: Path) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    assert model["objective"] == "bert"
    assert "task" not in model
    with client_of({"tuned": fine_tuned(tmp_path, "bert", "sst2")}) as tuned:
        (model,) = tuned.get("/v1/models").json()["data"]
    assert model["task"] == {"name": "sst2", "kind": "classify", "fields": ["text", "second"], "labels": ["0", "1"]}
