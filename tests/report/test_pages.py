"""The README's picture is what is drawn, both languages show the same, and what they name exists."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from module_files import module_at

ROOT = Path(__file__).resolve().parents[2]
READMES = ["README.md", "README.zh-CN.md"]


def between(name: str, mark: str) -> str:
    """The fenced block between two marks of a page."""
    page = (ROOT / name).read_text(encoding="utf-8")
    match = re.search(rf"<!-- {mark}:start -->\n```\w+\n(.*?)```\n<!-- {mark}:end -->", page, re.DOTALL)
    assert match is not None
    return match[1]


def module_of_docs(name: str) -> ModuleType:
    return module_at(f"docs/{name}.py")


@pytest.mark.parametrize("name", READMES)
def test_the_picture_is_the_one_that_is_drawn(name: str) -> None:
    assert between(name, "picture") == module_of_docs("pictures").text("glm")


def test_both_languages_show_the_same_python() -> None:
    assert between(READMES[0], "api") == between(READMES[1], "api")


@pytest.mark.parametrize("name", [*READMES, "CONTRIBUTING.md"])
def test_links_lead_to_files(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("name", READMES)
def test_the_commands_exist(name: str) -> None:
    from blankfill.cli.main import COMMANDS

    page = (ROOT / name).read_text(encoding="utf-8")
    assert set(re.findall(r"(?:^\$ |`)blankfill ([a-z]+)", page, re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("name", [*READMES, "docs/recipes.md"])
def test_every_recipe_is_named(name: str) -> None:
    from blankfill.config.recipe import recipe_names

    page = (ROOT / name).read_text(encoding="utf-8")
    assert [recipe for recipe in recipe_names() if f"`{recipe}`" not in page] == []


def test_the_options_of_the_pages_are_those_of_the_classes() -> None:
    from blankfill.objectives import Gpt

    lines = module_of_docs("options").table(Gpt, "--objective.")
    assert lines[2:] == [
        "| `--objective.length` | `128` | Length of a row before blanking, in tokens, special tokens included; "
        "usually 128 to 512. |",
        "| `--objective.documents` | `apart` | apart: documents of a row do not see each other; stream: documents "
        "follow each other as one text, as in GPT-2. |",
    ]
