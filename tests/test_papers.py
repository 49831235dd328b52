"""`docs/papers.md` names commands, options, recipes, tasks and tests that exist, and has a word on everything."""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from blankfill.cli.arguments import flags_of
from blankfill.config.recipe import load_recipe, recipe_names
from blankfill.families.registry import FAMILIES
from blankfill.objectives import OBJECTIVES
from page_commands import BLOCK, INLINE, ROOT, known_options

PAGE = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")


@dataclass
class NoArguments:
    """A command without arguments of its own."""


ABSENT = re.compile(r"\b(left out|not yet)\b")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| in the paper"))
]


@cache
def names_in(path: Path) -> frozenset[str]:
    """The names of the tests in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def missing_tests(cell: str) -> list[str]:
    """The tests in a cell that do not exist."""
    missing = []
    for span in INLINE.findall(cell):
        path, _, name = span.partition("::")
        file = ROOT / "tests" / path
        if not file.is_file() or name not in names_in(file):
            missing.append(span)
    return missing


def test_every_test_exists() -> None:
    assert len(ROWS) > 120
    assert [span for row in ROWS for span in missing_tests(row[2])] == []


def test_a_test_that_does_not_exist_is_found() -> None:
    here = "`test_papers.py::test_every_test_exists`"
    assert missing_tests(here) == []
    assert missing_tests(f"{here}, `test_papers.py::test_nothing`, `objectives/test_nothing.py::test_x`") == [
        "test_papers.py::test_nothing",
        "objectives/test_nothing.py::test_x",
    ]


def test_what_is_here_has_a_test_and_the_rest_says_so() -> None:
    assert [row for row in ROWS if len(row) != 3] == []
    assert [row for row in ROWS if row[2] == "–" and not ABSENT.search(row[1])] == []
    assert [row for row in ROWS if row[2] != "–" and not INLINE.search(row[2])] == []


def test_options_exist() -> None:
    named = {
        option for row in ROWS for span in INLINE.findall(row[1]) for option in re.findall(r"--[a-z][\w.-]*", span)
    }
    assert len(named) > 60
    assert named - known_options() == set()


def test_recipes_objectives_and_families_exist() -> None:
    known = {*recipe_names(), *OBJECTIVES, *FAMILIES}
    names = {span for row in ROWS for span in INLINE.findall(row[1]) if re.fullmatch(r"[a-z0-9][a-z0-9.-]*", span)}
    assert names - known - {"generate"} == set()
    assert {name for name in OBJECTIVES if f"`{name}`" not in PAGE} == set()
    shipped = {name for name in recipe_names() if not name.startswith(("bert-nano-", "mlm-", "demo", "t5-v1.1"))}
    assert {name for name in shipped if f"`{name}`" not in PAGE} == set()


def test_options_of_an_objective_belong_to_one_of_its_part() -> None:
    recipes = {recipe.objective.name: recipe for recipe in map(load_recipe, recipe_names())}
    for part in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]:
        objectives = {name for name in OBJECTIVES if f"`{name}`" in part}
        options = set(re.findall(r"--objective\.[a-z][\w-]*", part))
        known = {
            f"--{name}" for name in objectives for name in flags_of(NoArguments, {"objective": recipes[name].objective})
        }
        assert options - known == set(), part[:20]


@pytest.mark.parametrize("paper", ["BERT", "RoBERTa", "ALBERT", "DistilBERT", "ERNIE", "SpanBERT", "XLNet", "UniLM",
                                   "ELECTRA", "ModernBERT", "GPT and GPT-2", "T5", "BART", "GLM", "GLM-130B", "DeepNet",
                                   "ChatGLM-6B", "Prefix tuning and P-tuning v2"])  # fmt: skip
def test_each_paper_has_its_part(paper: str) -> None:
    (part,) = re.findall(rf"^## {re.escape(paper)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert BLOCK.search(part)
    assert len(re.findall(r"^\| ", part, re.MULTILINE)) > 5
