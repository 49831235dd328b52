"""Recipes: everything that a run is, as typed options; YAML files with dotted overrides.

A recipe has a name, a seed and five sections: `corpus` (how text becomes tokens), `objective` (its `name` decides which
options there are), `model`, `train`, `distil` (for runs with a teacher). Shipped recipes lie in `blankfill/recipes`; a
path to a YAML file works as well. A file may begin with `base: NAME` and change what it names. Every mistake in a
recipe is told at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

from blankfill.corpus.options import PrepareConfig
from blankfill.errors import ConfigError, UserError
from blankfill.families import FAMILIES
from blankfill.families.options import ModelOptions
from blankfill.model.config import TransformerConfig
from blankfill.objectives import OBJECTIVES, Objective
from blankfill.system import reading
from blankfill.system.bounds import out_of_bounds
from blankfill.system.values import fitting
from blankfill.training.options import DistilOptions, TrainOptions


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run, before it meets a corpus."""

    name: str
    seed: int = 0
    corpus: PrepareConfig = dataclasses.field(default_factory=PrepareConfig)
    objective: Objective
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    train: TrainOptions = dataclasses.field(default_factory=TrainOptions)
    distil: DistilOptions = dataclasses.field(default_factory=DistilOptions)

    def model_config(self, vocab_size: int) -> TransformerConfig:
        """The model of this recipe for a vocabulary."""
        pairs = bool(self.objective.labels())
        causal, places = self.objective.causal, self.objective.max_span_positions()
        return self.model.config(vocab_size, self.objective.position_sizes(), pairs, places, causal)

    def problems(self) -> list[str]:
        """What is wrong with the recipe, a sentence each, over all sections."""
        found = self.objective.problems() + self.train.problems() + self.distil.problems()
        found += [*self.model.problems(), *self.corpus.problems(), *out_of_bounds(self)]
        if out_of_bounds(self.objective) or self.model.problems():  # sizes that cannot be give no model to look at
            return found
        sizes = self.objective.position_sizes()
        found += self.model_config(1).problems()
        if 0 < self.model.positions < sizes[0]:
            found.append(
                f"objective.length needs {sizes[0]} positions but model.positions is {self.model.positions}; "
                "raise model.positions or lower objective.length"
            )
        if self.train.phase1_length > self.objective.length:
            found.append(
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
            found.append(
                f"objective `{self.objective.name}` does not fit model.family `{family.name}`: it has "
                f"{len(sizes)} position channel(s); families that have them: {fitting_families}"
            )
        if self.objective.two_sided and not family.encoder_decoder:
            encoder_decoders = ", ".join(name for name, spec in FAMILIES.items() if spec.encoder_decoder)
            found.append(
                f"objective `{self.objective.name}` is read by an encoder and written by a decoder, and model.family "
                f"`{family.name}` is one stack; families that have both: {encoder_decoders}"
            )
        if family.encoder_decoder and not self.objective.two_sided:
            found.append(
                f"model.family `{family.name}` has an encoder and a decoder, and objective "
                f"`{self.objective.name}` is one row; take an objective with both sides (t5, bart) or another family"
            )
        if self.model.encoder_layers and not family.encoder_decoder:
            found.append(
                f"model.encoder_layers is {self.model.encoder_layers} and model.family `{family.name}` is one "
                "stack; leave it at 0"
            )
        return found

    def check(self) -> Recipe:
        """The recipe itself; ConfigError with every problem when there is any."""
        if found := self.problems():
            raise ConfigError(found)
        return self


def recipe_names() -> list[str]:
    """The shipped recipes."""
    files = resources.files("blankfill.config.recipes").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load_recipe(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a shipped recipe or a YAML file.

    overrides: dotted keys and values, e.g. {"train.lr": 1e-4}. Raises ConfigError with every unknown key and wrong
    type at once.
    """
    values = read_values(name)
    for key, value in (overrides or {}).items():
        *parents, leaf = key.replace("-", "_").split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ConfigError([f"{key}: `{parent}` is a value, not a section"])
        section[leaf] = value
    return from_values(values, str(name)).check()


def read_values(name: str | Path, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The plain values of a recipe, its `base` merged in. above: the recipes that are built on it.

    Raises UserError for what cannot be read, and for a recipe that is built on itself.
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
    """What a recipe is called that does not say so: its file's name, which may have dots of its own."""
    return re.sub(r"\.ya?ml$", "", Path(str(name)).name)


def parse_yaml(text: str, origin: str) -> dict[str, Any]:
    """YAML text as plain values, numbers such as 3e-4 understood; UserError with the line when it is not YAML."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    plain = reading.parse_yaml(text, origin)  # which looks at depth and aliases first
    if plain is not None and not isinstance(plain, dict):
        raise UserError(f"{origin}: a recipe is a list of `key: value` lines")
    try:
        with reading.yaml_errors(origin, text):
            values = OmegaConf.to_container(OmegaConf.create(text))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{origin}: the YAML holds a value that no recipe has ({reason})") from error
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
    hint = f"did you mean {close[0]}?" if close else "the shipped ones are " + ", ".join(recipe_names())
    raise UserError(f"no recipe named {str(name)[:200]} and no such file; {hint}")


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
    given_objective = values.get("objective")
    section = dict(given_objective) if isinstance(given_objective, Mapping) else {}
    kind = section.pop("name", None)
    objective: type[Objective] | None = OBJECTIVES.get(kind) if isinstance(kind, str) else None
    if objective is None:
        problems.append(f"objective.name is {kind!r}; known objectives: {', '.join(OBJECTIVES)}")
    types: dict[str, type | None] = {
        "corpus": PrepareConfig, "objective": objective, "model": ModelOptions, "train": TrainOptions,
        "distil": DistilOptions,
    }  # fmt: skip
    built: dict[str, Any] = {}
    for key, value in values.items():
        if key not in types and key not in ("name", "seed"):
            problems.append(unknown_key(key, [*types, "name", "seed"], ""))
        elif key in types and not isinstance(value, Mapping):
            problems.append(f"{key} must be a section of options, not {reading.shown(value)}")
    for key, schema in types.items():
        given = section if key == "objective" else values.get(key) or {}
        if schema is not None and isinstance(given, Mapping):
            built[key] = structured(schema, given, key, problems)
    seed = values.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        problems.append(f"seed is {reading.shown(seed)}; it must be a whole number")
    name = values.get("name", "recipe")
    if not isinstance(name, str | int | float):
        problems.append(f"name is {reading.shown(name)}; it must be a word")
    if problems:
        raise ConfigError([f"{origin}: {problem}" for problem in problems])
    return Recipe(name=str(name), seed=seed, **built)


def structured(schema: type, given: Mapping[str, Any], where: str, problems: list[str]) -> Any:
    """An instance of a dataclass from plain values; appends a sentence to `problems` for everything that is wrong."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    names = [field.name for field in fields(schema)]
    problems += [unknown_key(str(key), names, f"{where}.") for key in given if key not in names]
    known = {key: value for key, value in given.items() if key in names}
    base, hints = OmegaConf.structured(schema), get_type_hints(schema)

    def taken(some: Mapping[str, Any]) -> dict[str, Any]:
        if "???" in some.values():  # which the library takes for a value that is still to come
            raise ValueError
        merged: Any = OmegaConf.to_container(OmegaConf.merge(base, some))
        # it lets through `${…}`, a text in the place of anything
        return {key: fitting(merged[key], hints[key], key, finite=False) for key in some}

    wrong = (OmegaConfBaseException, UserError, ValueError, OverflowError)
    try:
        accepted = taken(known)
    except wrong:
        accepted = {}  # one by one, since the library stops at the first mistake
        for key, value in known.items():
            try:
                taken({key: value})
            except wrong:
                wanted = str(hints[key]).replace("typing.", "").replace("<class '", "").replace("'>", "")
                problems.append(f"{where}.{key} is {reading.shown(value)}; it must be of type {wanted}")
    return schema(**accepted)


def unknown_key(key: str, known: list[str], where: str) -> str:
    """The sentence about a key that does not exist."""
    close = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean {where}{close[0]}?" if close else f"known: {', '.join(known)}"
    return f"there is no option {where}{key}; {hint}"


def to_values(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, every option resolved."""
    values: dict[str, Any] = {"name": recipe.name, "seed": recipe.seed}
    for key in ("corpus", "objective", "model", "train", "distil"):
        values[key] = dataclasses.asdict(getattr(recipe, key))
    values["objective"] = {"name": recipe.objective.name, **values["objective"]}
    return values


def to_yaml(recipe: Recipe) -> str:
    """A recipe as YAML, every option resolved; `load_recipe` reads it back."""
    return values_to_yaml(to_values(recipe))


def values_to_yaml(values: Mapping[str, Any]) -> str:
    """The values of a recipe, as `to_values` gives them, as YAML."""
    import yaml

    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
