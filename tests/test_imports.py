"""The import rule of the design: packages import downward only, and what must be light stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "blankfill"

LAYERS = [
    {"errors", "types", "_version"},
    {"system"},
    {"corpus", "objectives", "kernels"},
    {"attention"},
    {"model"},
    {"families"},
    {"data", "checkpoint"},
    {"adapt"},
    {"hf"},
    {"convert"},
    {"training"},
    {"planning"},
    {"generation"},
    {"chatting", "prompts"},
    {"embedding", "tasks"},
    {"report"},
    {"config"},
    {"runs"},
    {"pretraining"},
    {"finetuning"},
    {"exporting"},
    {"inference"},
    {"evaluation"},
    {"quantizing", "serving"},
    {"cli", "__init__"},
    {"__main__"},
]
"""Lowest first; a package may import those below it, and itself."""

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> set[str]:
    """The packages of blankfill that a file imports, wherever in the file."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "blankfill":
            parts = node.module.split(".")
            names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
            packages.update(names)
        elif isinstance(node, ast.Import):
            packages.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("blankfill."))
    return packages


def test_imports_point_downward() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        assert own in LEVEL, f"{own} has no place in the layers"
        for other in imports(path) - {own}:
            if LEVEL[other] >= LEVEL[own]:
                wrong.append(f"{path.relative_to(SOURCE)} imports {other}")
    assert not wrong


def test_the_rule_would_catch_a_wrong_import(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from blankfill.cli import main\nimport blankfill.training.loop\n", encoding="utf-8")
    assert imports(file) == {"cli", "training"}


OBJECTIVES = {
    node.name
    for path in (SOURCE / "objectives").glob("*.py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.ClassDef)
    and {"name", "roles", "query_role"}
    & {
        target.target.id
        for target in node.body
        if isinstance(target, ast.AnnAssign) and isinstance(target.target, ast.Name)
    }
}
"""The classes of objectives, and those that they share."""


def class_checks(source: str) -> set[str]:
    """The classes of objectives that a file checks a value against, by isinstance, issubclass or the type itself."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        checked: list[ast.expr] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("isinstance", "issubclass") and len(node.args) == 2:
                checked = [node.args[1]]
        elif isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            is_type = [
                isinstance(operand, ast.Call) and getattr(operand.func, "id", "") == "type" for operand in operands
            ]
            checked = operands if any(is_type) else []
        elif isinstance(node, ast.MatchClass):
            checked = [node.cls]
        for part in checked:
            for name in ast.walk(part):
                names.add(name.id if isinstance(name, ast.Name) else getattr(name, "attr", ""))
    return names & OBJECTIVES


def test_only_objectives_ask_which_objective_it_is() -> None:
    """All others ask the objective, or its format (docs/design.md)."""
    assert {"Objective", "Masking", "MaskWriter", "Bert", "Glm", "Gpt", "T5", "Bart", "Xlnet"} <= OBJECTIVES
    wrong = {
        str(path.relative_to(SOURCE)): sorted(names)
        for path in SOURCE.rglob("*.py")
        if path.parent.name != "objectives" and (names := class_checks(path.read_text(encoding="utf-8")))
    }
    assert not wrong


def test_the_rule_would_catch_a_question_for_the_class() -> None:
    for line in ("isinstance(x, Glm | T5)", "issubclass(type(x), objectives.Bert)", "type(x) is Gpt"):
        assert class_checks(line), line
    assert class_checks("match x:\n    case Bart():\n        pass")
    assert not class_checks("isinstance(x, dict) and type(x) is type(y) and Glm(48)")


def test_models_never_import_distributed() -> None:
    for path in (SOURCE / "model").glob("*.py"):
        assert "torch.distributed" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "module",
    [
        "blankfill",
        "blankfill.objectives",
        "blankfill.families",
        "blankfill.families.checkpoint_format",
        "blankfill.config.recipe",
        "blankfill.corpus.prepare",
        "blankfill.tasks.datasets.registry",
    ],
)
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_picture_in_the_design_shows_these_layers() -> None:
    page = (SOURCE.parents[1] / "docs" / "design.md").read_text(encoding="utf-8")
    floors = page.split("```text\n__main__\n", 1)[1].split("```", 1)[0]
    assert [set(line.split()) for line in ("__main__\n" + floors).splitlines()] == LAYERS[::-1]
