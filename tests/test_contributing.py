"""The recipes of `CONTRIBUTING.md` for an objective, a family and a task, followed in a copy of the source."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from test_extending import files_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = files_of((ROOT / "docs" / "extending.md").read_text(encoding="utf-8"))
OPTIONAL = {
    "src/blankfill/tasks/cloze/patterns/reviews.yaml", "src/blankfill/tasks/text/forms/forms.yaml",  # a form as text
    "docs/index.md", "docs/recipes.md", "docs/import-export.md", "docs/papers.md",  # lists for readers
    "tests/model/test_swiglu.py", "tests/parity_cases.py", "tests/model/test_transformer.py",
    "tests/checkpoint/test_names.py", "tests/convert/test_convert.py",  # where another program has the family
    "tests/model/test_modernbert.py",  # an example, which stays as it is
    "tests/test_imports.py", "tests/test_contributing.py",
}  # fmt: skip
"""What a recipe names and these objective, family and task do not need."""


def named(title: str, **names: str) -> set[str]:
    """The files that a recipe names. names: the names for NAME, FAMILY, …"""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    (recipe,) = [part for part in section if part.startswith(title)]
    steps = recipe[recipe.index("\n1. ") :]
    paths = set()
    for path in re.findall(r"`((?:src|tests|docs)/[\w./*-]+\.(?:py|md|yaml))`", steps):
        for placeholder, name in names.items():
            path = path.replace(placeholder, name)
        paths.add(path.replace("-*", "-nano"))
    return paths


class Copy:
    """A copy of the source, tests and documentation that notes which files are touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.touched: set[str] = set()
        for name in ("src", "tests", "docs"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_build", ".*"))

    def write(self, path: str, text: str) -> None:
        """Write a new file."""
        assert not (self.folder / path).exists()
        (self.folder / path).write_text(text, encoding="utf-8")
        self.touched.add(path)

    def replace(self, path: str, old: str, new: str) -> None:
        """Put text in the place of a text that is there once."""
        before = (self.folder / path).read_text(encoding="utf-8")
        assert before.count(old) == 1, (path, old, before.count(old))
        (self.folder / path).write_text(before.replace(old, new), encoding="utf-8")
        self.touched.add(path)

    def test(self, *tests: str) -> subprocess.CompletedProcess[str]:
        """Run tests of the copy on the copy's source."""
        code = "import sys; sys.path.insert(0, 'src'); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
        options = ["-q", "-p", "no:cacheprovider", "--rootdir", ".", "--confcutdir", "."]
        return subprocess.run(
            [sys.executable, "-c", code, *options, *tests], cwd=self.folder, capture_output=True, text=True, check=False
        )


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    made = Copy(tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return made


OBJECTIVE = PAGE["my_models/objective.py"].replace('name = "prefix-lm"', 'name = "prefixlm"')


def add_objective(copy: Copy) -> None:
    copy.write("src/blankfill/objectives/prefixlm.py", OBJECTIVE)
    registry = "src/blankfill/objectives/__init__.py"
    line = "from blankfill.objectives.mlm import Mlm\n"
    copy.replace(registry, line, f"{line}from blankfill.objectives.prefixlm import PrefixLm\n")
    copy.replace(registry, "_BUILT_IN = (Bert,", "_BUILT_IN = (PrefixLm, Bert,")
    copy.replace("src/blankfill/families/gpt2.py", 'default_for=("gpt",)', 'default_for=("gpt", "prefixlm")')
    copy.write("tests/objectives/test_prefixlm.py", "def test_prefix():\n" + "".join(
        f"    {line}\n" if line else "\n"
        for line in PAGE["test_prefix.py"].replace("my_models.objective", "blankfill.objectives.prefixlm").splitlines()
    ))  # fmt: skip
    formats, rows = "tests/objectives/test_format.py", "tests/tasks/test_embed_rows.py"
    copy.replace(formats, "\n}  # fmt: skip\nPAIRS", '\n    "prefixlm": PrefixLm(48),\n}  # fmt: skip\nPAIRS')
    copy.replace(formats, "    Objective,\n    SourceRow,", "    Objective,\n    PrefixLm,\n    SourceRow,")
    copy.replace(formats, "        choice = BartChoice((0,))\n    return", (
        "        choice = BartChoice((0,))\n    elif isinstance(objective, PrefixLm):\n"
        "        choice = 1 + len(first)\n    return"
    ))  # fmt: skip
    copy.replace(rows, "\n]  # fmt: skip", "\n    PrefixLm(LENGTH),\n]  # fmt: skip")
    copy.replace(rows, "    Objective,\n    SpanBert,", "    Objective,\n    PrefixLm,\n    SpanBert,")
    copy.write("docs/objectives/prefixlm.md", "# Prefix language modelling\n")
    copy.replace("docs/objectives/index.md", "\n\nThe", "\n| [`prefixlm`](prefixlm.md) | | | |\n\nThe")
    pictures = "docs/pictures.py"
    copy.replace(pictures, "    Mlm,\n    SpanBert,", "    Mlm,\n    PrefixLm,\n    SpanBert,")
    copy.replace(pictures, '        "gpt-stream":', (
        '        "prefixlm": [PrefixLm(length=16).build(whole, VOCABULARY, 5)],\n        "gpt-stream":'
    ))  # fmt: skip


def add_family(copy: Copy) -> None:
    text = PAGE["my_models/family.py"].replace("from blankfill import FamilySpec", (
        "from blankfill.families.spec import FamilySpec"
    )).replace('default_for=("prefix-lm",)', 'recipes=("swiglu-nano",), docs="swiglu"')  # fmt: skip
    copy.write("src/blankfill/families/swiglu.py", text)
    registry = "src/blankfill/families/registry.py"
    line = "from blankfill.families.spec import FamilySpec\n"
    copy.replace(registry, line, f"{line}from blankfill.families.swiglu import SWIGLU\n")
    copy.replace(registry, ",\n)  # fmt: skip", ",\n    SWIGLU,\n)  # fmt: skip")
    recipe = PAGE["prefix.yaml"].replace("name: prefix-lm", "name: gpt").replace("  min_target: 4\n", "")
    copy.write("src/blankfill/config/recipes/swiglu-nano.yaml", "# Layers of LLaMA on a laptop.\n" + recipe)
    copy.write("docs/swiglu.md", "# The family swiglu\n")


def add_task(copy: Copy) -> None:
    text = PAGE["my_models/tasks.py"].replace("from blankfill import Task, UserError\n", (
        "from blankfill.errors import UserError\nfrom blankfill.tasks.task import Task\n"
    ))  # fmt: skip
    copy.write("src/blankfill/tasks/datasets/reviews.py", text)
    registry = "src/blankfill/tasks/datasets/registry.py"
    line = "from blankfill.tasks.datasets.squad import QUESTIONS\n"
    copy.replace(registry, line, f"from blankfill.tasks.datasets.reviews import REVIEWS\n{line}")
    copy.replace(registry, "*GENERATION, *TABULAR)", "*GENERATION, *TABULAR, REVIEWS)")
    copy.write("tests/tasks/test_reviews.py", '''
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.metrics.scoring import score


def test_stars(tmp_path):
    (tmp_path / "dev.txt").write_text("** cold\\n***** perfect, and warm\\n* dirty\\n", encoding="utf-8")
    task = task_named("reviews")
    split = task.read(tmp_path, "dev")
    assert [(item.first, item.label) for item in split.items] == [("cold", 1), ("perfect, and warm", 4), ("dirty", 0)]
    assert score(task, split, [1, 2, 1]) == {"accuracy": 1 / 3, "within-one": 2 / 3}
''')  # fmt: skip
    copy.replace("docs/tasks.md", "| `lambada` |", "| `reviews` | `train.txt`, `dev.txt` | |\n| `lambada` |")


def test_the_recipes_name_every_file_and_suffice(copy: Copy) -> None:
    """Each recipe touches the files that it names and no others, and the tests that list everything pass then."""
    recipes = {
        "Adding an objective": (add_objective, {"NAME": "prefixlm", "FAMILY": "gpt2"}),
        "Adding a family": (add_family, {"NAME": "swiglu"}),
        "Adding a task": (add_task, {"NAME": "reviews"}),
    }
    for title, (follow, names) in recipes.items():
        copy.touched.clear()
        follow(copy)
        files = named(title, **names)
        assert copy.touched <= files, title
        assert files - copy.touched <= OPTIONAL, title
    (copy.folder / "tests" / "test_pictures.py").write_text(
        "import sys\nsys.path.insert(0, 'docs')\nimport pictures\n\n\n"
        "def test_picture():\n    assert 'boys' in pictures.text('prefixlm')\n",
        encoding="utf-8",
    )
    done = copy.test(
        "tests/objectives/test_prefixlm.py", "tests/tasks/test_reviews.py", "tests/test_pictures.py",
        "tests/families/test_registry.py", "tests/objectives/test_format.py::test_every_objective_is_tried",
        "tests/tasks/test_embed_rows.py::test_every_objective_is_here",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(".") > 20, "a dot for each test that passed"
