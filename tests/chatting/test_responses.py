"""`process_response` against the original code, and on answers of our own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blankfill.chatting.responses import process_response

CASES = Path(__file__).resolve().parents[3] / "shared" / "golden" / "chatglm" / "tokenizer_cases.json"


@pytest.mark.skipif(not CASES.exists(), reason=f"no {CASES}")
def test_answers_are_those_of_the_original_code() -> None:
    cases = json.loads(CASES.read_text("utf-8"))["process_response"]
    assert {case["in"]: process_response(case["in"]) for case in cases} == {case["in"]: case["out"] for case in cases}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" 好,天!\n", "好，天！"),  # white space around it
        ("一,,二;;三", "一，，二；；三"),  # behind a character, then before one
        ("一,,,二", "一，,，二"),
        ("a,b: c?", "a,b: c?"),
        ("a,一", "a，一"),
        ("ア,イ", "ア,イ"),  # kana are not between U+4E00 and U+9FFF
        ("于[[训练时间]]训练", "于2023年训练"),
        ("", ""),
    ],
)
def test_marks_beside_chinese_characters_become_full_width(text: str, expected: str) -> None:
    assert process_response(text) == expected
