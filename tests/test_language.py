"""The check of our words: what it reads, what it finds, and that it leaves ordinary English alone."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from module_files import module_at

TOOL = Path(__file__).resolve().parents[1] / "tools" / "language.py"


@pytest.fixture(scope="module")
def language() -> ModuleType:
    return module_at("tools/language.py")


def hits(language: ModuleType, folder: Path, name: str, text: str) -> list[tuple[int, str]]:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return [(finding.line, finding.phrase) for finding in language.check(path, folder)]


CODE = '''"""What the model is
asked."""

x = 1  # it is told


def f(told: int) -> None:
    """So many rows."""
    found = told
    raise ValueError(f"{asked} is none "
                     "of these words")


LABEL = "asked"
KEY = "asked for"
'''


def test_docstrings_comments_messages_and_locals_are_read_with_their_lines(
    language: ModuleType, tmp_path: Path
) -> None:
    assert hits(language, tmp_path, "src/a.py", CODE) == [
        (2, "asked"),
        (4, "told"),
        (7, "local name told"),
        (8, "So many"),
        (9, "local name found"),
        (10, "is none of"),
    ]


def test_strings_of_tests_are_data(language: ModuleType, tmp_path: Path) -> None:
    text = 'def test_x():\n    """He is told."""\n    assert f("she was told and asked") == 1\n'
    assert hits(language, tmp_path, "tests/test_x.py", text) == [(2, "told")]


def test_a_field_docstring_is_prose(language: ModuleType, tmp_path: Path) -> None:
    text = 'class A:\n    a: int = 1\n    """The run goes on."""\n'
    assert hits(language, tmp_path, "src/a.py", text) == [(3, "goes on")]


def test_pages_are_read_without_code(language: ModuleType, tmp_path: Path) -> None:
    page = "# Told\n\nA `told` and a phrase that is\nnone of ours, so\nmany.\n\n"
    page += "```text\nasked\n```\n\n`a told\nb` what stands\n"
    assert hits(language, tmp_path, "docs/a.md", page) == [
        (1, "Told"),
        (3, "is none of"),
        (4, "so many"),
        (12, "what stands"),
    ]


def test_phrases_do_not_join_across_paragraphs(language: ModuleType, tmp_path: Path) -> None:
    assert hits(language, tmp_path, "docs/a.md", "This is so\n\nmany things\n") == []


def test_comments_of_recipes_are_prose(language: ModuleType, tmp_path: Path) -> None:
    assert hits(language, tmp_path, "a.yaml", "asked: 1  # as it was told\n") == [(1, "told")]


@pytest.mark.parametrize(
    "sentence",
    [
        "The two kinds are told apart by their segment.",
        "One of them, and one more: the model found it and kept the rest.",
        "There are so many files that the index is read first.",
        "Every objective blanks out text and asks for it back.",
        "The run starts when the file is there, and it is not changed afterwards.",
        "An ongoing run in a department store.",
        "A sentinel stands for the span that it replaces.",
    ],
)
def test_ordinary_english_passes(language: ModuleType, tmp_path: Path, sentence: str) -> None:
    assert hits(language, tmp_path, "docs/a.md", sentence + "\n") == []


def test_each_phrase_has_an_example_that_is_found(language: ModuleType, tmp_path: Path) -> None:
    examples = [
        "told", "tell it", "asked", "so many", "went on", "are none of", "what stands", "stands there",
        "and it is", "parted", "rehearsal", "plainest", "wherefrom",
    ]  # fmt: skip
    assert len(examples) == len(language.PHRASES)
    for example, suggestion in zip(examples, language.SUGGESTIONS, strict=True):
        (finding,) = language.check(written(tmp_path / "a.md", f"Now {example} here.\n"), tmp_path)
        assert (finding.phrase, finding.suggestion) == (example, suggestion)
        assert str(finding) == f"a.md:1: {example} → {suggestion}"


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_pending_files_may_wait_but_an_entry_must_be_needed(language: ModuleType, tmp_path: Path) -> None:
    list_ = written(tmp_path / "pending.txt", "# later\nsrc/a/  # everything below\nsrc/b.py\n\nsrc/c\n")
    entries = language.pending(list_)
    assert entries == ["src/a", "src/b.py", "src/c"]
    findings = [language.Finding(name, 1, "told", "given") for name in ("src/a/x.py", "src/b.py", "src/cc.py")]
    assert language.report(findings, entries) == [
        "src/cc.py:1: told → given",
        "language_pending.txt: src/c is clean; remove this entry",
    ]
    assert language.pending(tmp_path / "none.txt") == []


def test_the_command_names_file_and_line_and_fails(tmp_path: Path) -> None:
    page = written(tmp_path / "page.md", "It was\ntold.\n")
    result = subprocess.run([sys.executable, TOOL, page], capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 1
    assert result.stdout.strip().endswith("/page.md:2: told → given, said, or the name of what is passed")


def test_the_checkout_is_clean(language: ModuleType) -> None:
    places = [language.ROOT / name for name in language.PROSE]
    findings = [finding for path in language.files(places) for finding in language.check(path)]
    assert not [str(f) for f in findings if not language.covers(language.pending(), f.path)]
