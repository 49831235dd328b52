"""Families and objectives of the user's own, and the rule that no other package knows a family by name."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import pytest

import blankfill
from blankfill.config.recipe import from_values, recipe_names
from blankfill.errors import ConfigError, UserError
from blankfill.families import FAMILIES, FamilySpec, default_family, register_family, weight_names
from blankfill.families.bert import BERT
from blankfill.families.options import ModelOptions
from blankfill.objectives import OBJECTIVES, Gpt, label_meaning, objective_from_values, register_objective
from blankfill.system.registry import Registry

SOURCE = Path(__file__).resolve().parents[2] / "src" / "blankfill"
DOCS = SOURCE.parents[1] / "docs"

OWN = FamilySpec(name="own", source="here", preset={"norm": "pre", "gated": True}, causal=True, default_for=("gpt",))


@dataclass(frozen=True)
class Backwards(Gpt):
    """An objective of the user's own."""

    name: ClassVar[str] = "backwards"
    channels: ClassVar[tuple[str, ...]] = ("place",)
    label_meanings: ClassVar = {"turned": {1: "read from the end"}}
    strength: float = 0.5


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Leave no registered names behind."""
    registries: list[Registry] = [FAMILIES, OBJECTIVES]
    before = [(dict(registry._known), registry._entry_points_read) for registry in registries]
    yield
    for registry, (known, read) in zip(registries, before, strict=True):
        registry._known, registry._entry_points_read = known, read


def offer(monkeypatch: pytest.MonkeyPatch, **points: str) -> list[str]:
    """Let an installed package offer entry points, `group__name="module:object"`; returns the groups that are read."""
    groups_read: list[str] = []
    made = [
        metadata.EntryPoint(name=key.partition("__")[2], value=value, group=f"blankfill.{key.partition('__')[0]}")
        for key, value in points.items()
    ]

    def entry_points(group: str) -> list[metadata.EntryPoint]:
        groups_read.append(group)
        return [point for point in made if point.group == group]

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    for registry in (FAMILIES, OBJECTIVES):
        registry._entry_points_read = False
    return groups_read


def test_a_family_of_ones_own_makes_models() -> None:
    assert blankfill.register_family is register_family
    register_family(OWN)
    register_family(OWN)  # the same again is no mistake
    recipe = from_values({"objective": {"name": "gpt"}, "model": {"family": "own", "hidden_size": 24, "num_heads": 2}})
    assert not recipe.problems()
    config = recipe.model_config(10)
    assert config.norm == "pre" and config.gated and config.hidden_size == 24
    with pytest.raises(ValueError, match="there is another family named own"):
        register_family(replace(OWN, source="elsewhere"))


def test_a_family_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="has no field widht of TransformerConfig"):
        register_family(replace(OWN, name="bad", preset={"widht": 3}))
    with pytest.raises(TypeError, match="FamilySpec, not by str"):
        register_family("own")  # type: ignore[arg-type]
    assert "bad" not in FAMILIES


def test_an_objective_of_ones_own_is_read_and_saved() -> None:
    assert blankfill.register_objective(Backwards) is Backwards
    values = {"name": "backwards", "length": 16, "strength": 0.25}
    assert objective_from_values(values, "state.json") == Backwards(16, strength=0.25)
    recipe = from_values({"objective": values, "model": {"family": "gpt2"}})
    assert recipe.objective == Backwards(16, strength=0.25) and not recipe.problems()
    assert label_meaning("turned", 1) == "read from the end" and label_meaning("turned", 2) == ""
    with pytest.raises(TypeError, match="extends Objective"):
        register_objective(int)  # type: ignore[arg-type]


def test_entry_points_are_read_when_a_name_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = offer(monkeypatch, families__own=f"{__name__}:OWN", objectives__backwards=f"{__name__}:Backwards")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    assert FAMILIES["bert"] is BERT and OBJECTIVES["gpt"] is Gpt and "glm" in FAMILIES
    assert groups == []
    assert FAMILIES["own"] == OWN and "own" in list(FAMILIES)
    assert groups == ["blankfill.families"]
    assert "nothing" not in OBJECTIVES and OBJECTIVES["backwards"].name == "backwards"
    assert groups == ["blankfill.families", "blankfill.objectives"]


def test_an_entry_point_that_does_not_load_is_named_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer(monkeypatch, families__broken="blankfill_no_such_module:SPEC", families__bert=f"{__name__}:OWN")
    assert "bert" in list(FAMILIES) and "broken" not in FAMILIES
    message = capsys.readouterr().err
    assert "its family broken cannot be loaded (No module named 'blankfill_no_such_module'); it is left out" in message
    assert "the family own cannot be registered as bert" in message and FAMILIES["bert"] is BERT


def test_an_unknown_family_names_the_nearest() -> None:
    assert ModelOptions(family="brt").problems() == ["model.family is 'brt', which is not known; did you mean bert?"]
    with pytest.raises(ConfigError, match="did you mean roberta"):
        from_values({"objective": {"name": "gpt"}, "model": {"family": "robrta"}}).check()
    with pytest.raises(UserError, match="no family says that it is the default for the objective 'nothing'"):
        default_family("nothing")


@pytest.mark.parametrize("spec", FAMILIES.values(), ids=lambda spec: spec.name)
def test_what_a_spec_names_is_there(spec: FamilySpec) -> None:
    shipped = recipe_names()
    for name in spec.recipes:
        assert name in shipped
        text = (files("blankfill.config.recipes") / f"{name}.yaml").read_text(encoding="utf-8")
        assert text.startswith("# ")
    assert (DOCS / f"{spec.docs}.md").is_file()
    for name in spec.default_for:
        assert OBJECTIVES[name].channels == spec.channels or len(OBJECTIVES[name].channels) == len(spec.channels)
        assert default_family(name) == spec.name
    if spec.weight_names is not None:
        assert weight_names()[spec.weight_names.name] is spec.weight_names


def test_every_objective_has_a_default_family() -> None:
    assert {default_family(name) for name in OBJECTIVES} <= set(FAMILIES)


NAMES = set(FAMILIES) | set(OBJECTIVES)
HOMES = {"families", "objectives"}
EXCEPTIONS = {
    ("convert/card_code.py", "gpt2"),  # names of architectures and tokenizers in GGUF files
    *((f"convert/gguf_{part}.py", name) for part in ("layout", "tokenizer") for name in ("gpt2", "bert")),
    ("model/config.py", "t5"), ("model/initial.py", "t5"),  # the name of a way to draw weights
    ("chatting/templates.py", "chatglm"), ("chatting/options.py", "chatglm"),  # the name of a template
    ("tasks/datasets/dialogues.py", "chatglm"), ("tasks/datasets/dialogues.py", "gpt"),  # speakers in files
}  # fmt: skip


def test_no_other_package_knows_a_family_by_name() -> None:
    met = set()
    for path in SOURCE.rglob("*.py"):
        place = path.relative_to(SOURCE)
        if place.parts[0] not in HOMES:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and node.value in NAMES:
                    met.add((place.as_posix(), node.value))
    assert met <= EXCEPTIONS


def test_names_are_known_without_torch() -> None:
    code = (
        "import sys\n"
        "from blankfill.families import weight_names_by_type\n"
        "from blankfill.families.checkpoint_format import family_of\n"
        "assert family_of('xlnet', '').name == 'xlnet' and len(weight_names_by_type()) > 10\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
