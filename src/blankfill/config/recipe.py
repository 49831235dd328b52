"""Recipes: the whole configuration of a run as typed options, from YAML files with dotted overrides.

A recipe has a name, a seed and six sections: `corpus` (preparation of the text), `objective` (whose `name` decides
which options it has), `model`, `train`, `distil` (for runs with a teacher), `prompts` (prompted data sets). Shipped
recipes are in `config/recipes`; a recipe may also be the path of a YAML file. A file may begin with `base: NAME` and
list only its changes to that recipe.
Files, overrides and the command line are read by `system.loader`, which reports all mistakes of a recipe at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from blankfill.corpus.options import PrepareConfig
from blankfill.errors import ConfigError, Problem, UserError, setting, within
from blankfill.families import FAMILIES
from blankfill.families.options import ModelOptions
from blankfill.model.config import TransformerConfig
from blankfill.objectives import OBJECTIVES, Objective
from blankfill.prompts.options import PromptOptions
from blankfill.system import reading
from blankfill.system.bounds import out_of_bounds
from blankfill.system.loader import MismatchError, convert, load, mismatch, one_of
from blankfill.system.schema import unknown
from blankfill.training.options import DistilOptions, TrainOptions


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The configuration of a run, independent of a corpus."""

    name: str
    seed: int = 0
    corpus: PrepareConfig = dataclasses.field(default_factory=PrepareConfig)
    objective: Objective
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    train: TrainOptions = dataclasses.field(default_factory=TrainOptions)
    distil: DistilOptions = dataclasses.field(default_factory=DistilOptions)
    prompts: PromptOptions = dataclasses.field(default_factory=PromptOptions)

    def model_config(self, vocab_size: int) -> TransformerConfig:
        """Return the model of this recipe for a vocabulary."""
        return self.model.config_for(self.objective, vocab_size)

    def problems(self) -> list[str]:
        """Return a sentence for each problem of the recipe, over all sections."""
        problems = self.objective.problems() + self.train.problems() + self.distil.problems()
        problems += [
            *self.prompts.problems(),
            *self.model.problems(),
            *[within("corpus", problem) for problem in self.corpus.problems()],
            *out_of_bounds(self),
        ]
        if out_of_bounds(self.objective) or self.model.problems():  # with impossible sizes there is no model to check
            return [in_settings(problem) for problem in problems]
        sizes = self.objective.position_sizes()
        problems += self.model_config(1).problems()
        if 0 < self.model.positions < sizes[0]:
            problems.append(
                f"objective.length needs {sizes[0]} positions but model.positions is {self.model.positions}; "
                "raise model.positions or lower objective.length"
            )
        if self.train.phase1_length > self.objective.length:
            problems.append(
                f"train.phase1_length is {self.train.phase1_length}; it must not be above objective.length, the length "
                f"of the rows after the first phase ({self.objective.length})"
            )
        family = self.model.spec
        if not family.fits(len(sizes)):
            fitting_families = ", ".join(
                name
                for name, spec in FAMILIES.items()
                if spec.encoder_decoder == self.objective.two_sided and spec.fits(len(sizes))
            )
            problems.append(
                f"objective `{self.objective.name}` does not fit model.family `{family.name}`: it has "
                f"{len(sizes)} position channel(s); families that have them: {fitting_families}"
            )
        if self.objective.two_sided and not family.encoder_decoder:
            encoder_decoders = ", ".join(name for name, spec in FAMILIES.items() if spec.encoder_decoder)
            problems.append(
                f"objective `{self.objective.name}` needs an encoder and a decoder, and model.family `{family.name}` "
                f"has only one stack; families with both: {encoder_decoders}"
            )
        if family.encoder_decoder and not self.objective.two_sided:
            problems.append(
                f"model.family `{family.name}` has an encoder and a decoder, and objective "
                f"`{self.objective.name}` has rows for one stack; choose an objective with both sides (t5, bart) or "
                "another family"
            )
        if self.model.encoder_layers and not family.encoder_decoder:
            problems.append(
                f"model.encoder_layers is {self.model.encoder_layers}, and model.family `{family.name}` has only one "
                "stack; set it to 0"
            )
        return [in_settings(problem) for problem in problems]

    def check(self) -> Recipe:
        """Return the recipe itself; ConfigError with every problem when there is any."""
        if problems := self.problems():
            raise ConfigError(problems)
        return self


SECTIONS = ("corpus", "objective", "model", "train", "distil", "prompts")
"""The sections of a recipe, in the order of its file."""
_PATH = re.compile(rf"(?<![\w./-])((?:{'|'.join(SECTIONS)})\.[a-z][a-z0-9_]*)\b")


def in_settings(problem: str) -> Problem:
    """Return a sentence about a recipe with references in place of option names that are spelled as in files."""
    return problem if isinstance(problem, Problem) else Problem(_PATH.sub(lambda match: setting(match[1]), problem))


def recipe_names() -> list[str]:
    """List the names of the shipped recipes.

    Returns:
        The names, sorted.
    """
    files = resources.files("blankfill.config.recipes").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load_recipe(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a shipped recipe or a YAML file.

    Args:
        name: Name of a shipped recipe, or path of a YAML file.
        overrides: Values by dotted keys, such as {"train.lr": 1e-4}.

    Returns:
        The recipe.

    Raises:
        ConfigError: Keys are unknown or values have the wrong type; the error lists all of them.
    """
    values = read_values(name)
    for key, value in (overrides or {}).items():
        *parents, leaf = key.replace("-", "_").split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ConfigError([Problem(f"{setting(key)}: `{parent}` is a value, not a section")])
        section[leaf] = value
    recipe = from_values(values, str(name))
    if problems := recipe.problems():
        raise ConfigError(problems if overrides else [f"{name}: {problem}" for problem in problems])
    return recipe


def override(recipe: Recipe, texts: Mapping[str, Any]) -> Recipe:
    """Return a recipe with some options changed by texts, as a command line has them: {"train.lr": "1e-4"}.

    Raises ConfigError with every unknown option and every text that is not of its option's type; `Recipe.check` checks
    the combination of values.
    """
    problems: list[str] = []
    changes: dict[str, Any] = {}
    for section in SECTIONS:
        own = {path.partition(".")[2]: text for path, text in texts.items() if path.partition(".")[0] == section}
        current = getattr(recipe, section)
        changes[section] = load(type(current), own, problems, section, texts=True, base=current)
    if problems:
        raise ConfigError(problems)
    return dataclasses.replace(recipe, **changes)


def read_values(name: str | Path, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the plain values of a recipe with its `base` merged in. above: the recipes that are built on it.

    Raises UserError for a file that cannot be read, and for a recipe that is built on itself.
    """
    text, origin = _text(name)
    if origin in above:
        chain = " is built on ".join((*above[above.index(origin) :], origin))
        raise UserError(f"{chain}, so it has no beginning; give one of them another base, or none")
    values = parse_yaml(text, origin)
    base = values.pop("base", None)
    if base is not None:
        if not isinstance(base, str):
            raise ConfigError([f"{origin}: base must be the name of a recipe"])
        values = _merged(read_values(base, (*above, origin)), {"name": _named(name), **values})
    values.setdefault("name", _named(name))
    return values


def _named(name: str | Path) -> str:
    """Return the default name of a recipe: the name of its file, which may contain dots."""
    return re.sub(r"\.ya?ml$", "", Path(str(name)).name)


def parse_yaml(text: str, origin: str) -> dict[str, Any]:
    """Parse YAML text to plain values; UserError with the line if it is not YAML, or not a mapping of keys to
    values."""
    values = reading.parse_yaml(text, origin)
    if not isinstance(values, dict):
        raise UserError(f"{origin}: a recipe is a list of `key: value` lines")
    return {str(key): value for key, value in values.items()}


def _text(name: str | Path) -> tuple[str, str]:
    if isinstance(name, str) and name in recipe_names():
        shipped = resources.files("blankfill.config.recipes") / f"{name}.yaml"
        return shipped.read_text(encoding="utf-8"), f"recipe {name}"
    path = Path(name)
    try:
        return reading.read_text(path), str(path)
    except reading.UnreadableError as error:
        if not error.missing:
            raise
    close = difflib.get_close_matches(str(name), recipe_names(), 1)
    hint = f"did you mean {close[0]}?" if close else "the shipped recipes are " + ", ".join(recipe_names())
    raise UserError(f"no recipe named {str(name)[:200]} and no such file; {hint}")


def introduction(name: str | Path) -> str:
    """Return the comment at the beginning of a recipe's file, in one line; "" without one."""
    text, _ = _text(name)
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line.removeprefix("#").strip() for line in lines)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        if both and key == "objective" and value.get("name", out[key].get("name")) != out[key].get("name"):
            both = False
        out[key] = _merged(out[key], value) if both else value
    return out


def from_values(values: Mapping[str, Any], origin: str = "recipe") -> Recipe:
    """Plain values → a Recipe; ConfigError lists every unknown key, wrong type and missing value."""
    problems: list[str] = []
    sections: dict[str, type | None] = {
        "corpus": PrepareConfig, "objective": None, "model": ModelOptions, "train": TrainOptions,
        "distil": DistilOptions, "prompts": PromptOptions,
    }  # fmt: skip
    given: dict[str, Mapping[str, Any]] = {}
    for key, value in values.items():
        if key in sections:
            if isinstance(value, Mapping):
                given[key] = {str(name): item for name, item in value.items()}
            else:
                problems.append(Problem(f"{setting(key)} is {reading.shown(value)}; it must be a section of options"))
        elif key not in ("name", "seed"):
            problems.append(unknown(key, [*sections, "name", "seed"]))
    objective = dict(given.get("objective", {}))
    kind = objective.pop("name", None)
    if isinstance(kind, str) and kind in OBJECTIVES:
        sections["objective"], given["objective"] = OBJECTIVES[kind], objective
    else:
        wanted = one_of(kind, list(OBJECTIVES))
        problems.append(Problem(f"{setting('objective.name')} is {reading.shown(kind)}; it must be {wanted}"))
    built = {
        key: load(schema, given.get(key, {}), problems, key) for key, schema in sections.items() if schema is not None
    }
    seed, name = values.get("seed", 0), values.get("name", "recipe")
    for key, value, hint in (("seed", seed, int), ("name", name, str | int | float)):
        try:
            convert(value, hint)
        except MismatchError as error:
            problems.append(mismatch(key, error))
    if problems:
        raise ConfigError([f"{origin}: {problem}" for problem in problems])
    return Recipe(name=str(name), seed=seed, **built)  # type: ignore[arg-type]


def to_values(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain values, every option resolved."""
    values: dict[str, Any] = {"name": recipe.name, "seed": recipe.seed}
    for key in SECTIONS:
        values[key] = dataclasses.asdict(getattr(recipe, key))
    values["objective"] = {"name": recipe.objective.name, **values["objective"]}
    return values


def to_yaml(recipe: Recipe) -> str:
    """Return a recipe as YAML, every option resolved; `load_recipe` reads it back."""
    return values_to_yaml(to_values(recipe))


def values_to_yaml(values: Mapping[str, Any]) -> str:
    """Return the values of a recipe, as `to_values` gives them, as YAML."""
    import yaml

    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
