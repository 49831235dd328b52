"""Bounded reads: what is no regular file, too large, too deep, not UTF-8 or of another type is one sentence."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from blankfill.errors import UserError
from blankfill.system import reading


def make(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "file"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "file is empty, where JSON is expected"),
        (b'{"a": 1', r"file: not JSON \(Expecting ',' delimiter"),
        (b'{\n"a": }', r"file, line 2: not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b"9" * 5_000, "a number of too many digits"),
        (b'{"a": "caf\xe9"}', r"file, line 1, is not UTF-8 \(byte 10\)"),
        (b"[1]", "a list where an object is expected"),
        (b"true", "true or false where an object is expected"),
    ],
)
def test_json_that_is_none(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        reading.read_json(make(tmp_path, content))


def test_json_that_is_well_is_read(tmp_path: Path) -> None:
    assert reading.read_json(make(tmp_path, b'\xef\xbb\xbf{"a": [1, 2.5, null]}')) == {"a": [1, 2.5, None]}
    assert reading.read_json(make(tmp_path, b"[1]"), list) == [1]


def test_a_missing_file_is_told_from_an_unreadable_one(tmp_path: Path) -> None:
    with pytest.raises(reading.UnreadableError, match="none does not exist") as caught:
        reading.read_text(tmp_path / "none")
    assert caught.value.missing
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(reading.UnreadableError, match="link is a link to gone, which does not exist"):
        reading.read_text(tmp_path / "link")
    with pytest.raises(reading.UnreadableError, match="is a folder") as caught:
        reading.read_text(tmp_path)
    assert not caught.value.missing


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes there")
def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="pipe is a named pipe"):
        reading.read_json(tmp_path / "pipe")
    with pytest.raises(UserError, match="endless is a device"):
        reading.read_text(tmp_path / "endless")


def test_sizes_are_limited_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(10 << 40)  # a hole of ten terabytes
    with pytest.raises(UserError, match="67,108,864 are the most"):
        reading.read_bytes(path)


def test_lines_that_inform_are_passed_over_and_counted(tmp_path: Path) -> None:
    path = make(tmp_path, b'{"step": 1}\n\xff\xfe{"step"\n{"text": "a\xe2\x80\xa8b"}\n[2]\n\n{"step": 3}\n{"st')
    assert reading.read_json_lines(path) == ([{"step": 1}, {"text": "a\u2028b"}, {"step": 3}], 2)
    path.write_bytes(b'{"step": 1}\n{"step": 2}')
    assert reading.read_json_lines(path) == ([{"step": 1}, {"step": 2}], 0)
    assert reading.read_json_lines(tmp_path / "none") == ([], 0)
    path.write_text('{"step": 1, "text": "a\\ud83d"}\n{"\\udc00": "\\ud83d\\ude00"}\n', encoding="utf-8")
    assert reading.read_json_lines(path) == ([{"step": 1, "text": "a\ufffd"}, {"\ufffd": "\U0001f600"}], 0)


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ({}, int, "state: `step` is missing"),
        ({"step": "1"}, int, "state: `step`: a text where a whole number is expected"),
        ({"step": True}, int, "state: `step`: true or false where a whole number is expected"),
        ({"step": 1.0}, int, "a number where a whole number is expected"),
        ({"step": float("nan")}, float, "`step` is nan, where a finite number is expected"),
        ({"step": 10**400}, float, "`step`: the number is too large"),
        ({"step": None}, dict, "null where an object is expected"),
    ],
)
def test_fields_of_other_types(values: dict[str, Any], kind: type, said: str) -> None:
    with pytest.raises(UserError, match=said):
        reading.field(values, "step", kind, "state")


def test_fields_that_are_well() -> None:
    assert reading.field({"step": 3}, "step", int, "state") == 3
    assert reading.field({"step": 3}, "step", float, "state") == 3.0
    assert reading.field({}, "step", int, "state", 7) == 7


def test_aliases_do_not_multiply() -> None:
    lines = ["a: &a [1,1,1,1,1,1,1,1,1]"]
    lines += [f"{chr(98 + k)}: &{chr(98 + k)} [{','.join(['*' + chr(97 + k)] * 9)}]" for k in range(9)]
    with pytest.raises(UserError, match="aliases that repeat more than"):
        reading.parse_yaml("\n".join(lines), "recipe")
    with pytest.raises(UserError, match="aliases that repeat"):
        reading.parse_yaml("&a [*a]", "recipe")
    assert reading.parse_yaml("a: &x [1, 2]\nb: *x", "recipe") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nest"),
        ("a: [1,\nb: }", r"recipe, line 2: not valid YAML"),
        ("x: " + "9" * 5_000, "a value that cannot be read"),
        ("a: 1\nb: 2\na: 3", "recipe, line 3: 'a' is given twice; leave one of them out"),
        ("a: {b: 1, c: [{d: 1, d: 2}]}", "recipe, line 1: 'd' is given twice"),
        ("a: !!python/object:os.system x", "not valid YAML"),
    ],
)
def test_yaml_that_is_none(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        reading.parse_yaml(text, "recipe")


def test_numbers_and_dates_are_read_as_people_write_them() -> None:
    text = "lr: 3e-4\neps: [1e-8, 1E5, .5e3, -2.5e-3]\nday: 2024-13-45\nid: 1e-4x\nsteps: 1_000\nnothing:"
    assert reading.parse_yaml(text, "recipe") == {
        "lr": 3e-4, "eps": [1e-8, 1e5, 500.0, -2.5e-3], "day": "2024-13-45", "id": "1e-4x", "steps": 1000,
        "nothing": None,
    }  # fmt: skip
    assert reading.parse_yaml(text, "recipe", texts=True)["lr"] == "3e-4"


def test_lone_surrogates_become_the_replacement_character() -> None:
    assert reading.parse_json('{"a\\ud83d": ["\\ud83d\\ude00", "x\\uDE00"]}', "") == {
        "a\ufffd": ["\U0001f600", "x\ufffd"]
    }


def test_names_that_lead_out_of_a_folder_are_refused(tmp_path: Path) -> None:
    assert reading.read_name(make(tmp_path, b"step-12\n")) == "step-12"
    for content in (b"../x", b"/etc/passwd", b"a\\b", b".."):
        with pytest.raises(UserError, match="plain name of a folder"):
            reading.read_name(make(tmp_path, content))
    for content in (b"", b"\n", b"a\nb", b"a\0b"):
        with pytest.raises(UserError, match="one line with a path"):
            reading.read_path(make(tmp_path, content))


def test_lines_of_any_length_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LINE", 16)
    path = make(tmp_path, b'{"a": 1}\n{"long": "' + b"x" * 100 + b'"}\n{"b": 2}\n')
    assert reading.read_json_lines(path) == ([{"a": 1}, {"b": 2}], 1)


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\\b", "..", "", ".", "x" * 256, "é" * 128, "a\0b", "a\nb", "/etc", "\ud800"]
)
def test_names_that_lead_elsewhere_or_nowhere(name: str) -> None:
    """No file system takes them, or takes them for a path, so nothing may be looked up by them."""
    assert not reading.is_plain_name(name)


def test_plain_names() -> None:
    assert all(
        map(reading.is_plain_name, ["step-12", "model-00001-of-00002.safetensors", "模型 1.bin", "x" * 255, ".a"])
    )
