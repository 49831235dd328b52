"""The models of a server: opened from their folders, found by name, and opened again without a gap."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from blankfill.checkpoint.dtypes import WeightType
from blankfill.errors import UserError
from blankfill.inference import Model, load
from blankfill.serving.abilities import Ability, abilities_of
from blankfill.serving.engine import Engine
from blankfill.serving.errors import ApiError
from blankfill.serving.settings import ServeSettings

Part = TypeVar("Part")


@dataclass(frozen=True)
class ModelSource:
    """A model to serve: its name in requests, its folder, and how it is opened."""

    name: str
    path: Path
    adapter: Path | None = None
    dtype: WeightType = "auto"
    device: str = "auto"
    threads: int = 0

    def open(self) -> Model:
        """Open the model. Raises UserError."""
        return load(
            self.path, self.device, None if self.dtype == "auto" else self.dtype, threads=self.threads,
            adapter=self.adapter,
        )  # fmt: skip


class ServedModel:
    """An opened model with its thread. created: when it was opened, in seconds of Unix time."""

    def __init__(self, source: ModelSource, model: Model, settings: ServeSettings) -> None:
        self.source, self.model, self.settings = source, model, settings
        self.name, self.created = source.name, int(time.time())
        self.abilities = abilities_of(model)
        self.engine = Engine(source.name, settings)
        self._parts: dict[Hashable, Any] = {}

    def part(self, key: Hashable, make: Callable[[ServedModel], Part]) -> Part:
        """Return a part that belongs to the model, such as the kind of a job, made on first use in the event loop."""
        if key not in self._parts:
            self._parts[key] = make(self)
        part: Part = self._parts[key]
        return part

    def check(self, ability: Ability) -> None:
        """Raise ApiError (400) when the model does not have an ability."""
        if ability not in self.abilities:
            have = ", ".join(sorted(known.value for known in self.abilities))
            raise ApiError(
                400, f"the model {self.name} cannot {ability.value}; it can: {have}", "unsupported_model", "model"
            )


class ModelSet:
    """The models of a server, by name; the first one is the default."""

    def __init__(self, sources: Mapping[str, ModelSource], settings: ServeSettings) -> None:
        self.sources, self.settings = dict(sources), settings
        self._models: dict[str, ServedModel] = {}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(list(self._models.values()))

    def open_all(self) -> None:
        """Open every model. Raises UserError for one that cannot be opened."""
        for source in self.sources.values():
            self._models[source.name] = ServedModel(source, source.open(), self.settings)

    def reload(self) -> list[str]:
        """Open every model again, and use the new ones for the requests to come; the old ones finish their work.

        Returns the sentences of those that could not be opened, which stay as they were.
        """
        problems = []
        for name, source in self.sources.items():
            try:
                model = ServedModel(source, source.open(), self.settings)
            except UserError as error:
                problems.append(f"{name}: {error.sentence}")
                continue
            before, self._models[name] = self._models.get(name), model
            if before is not None:
                before.engine.close()
        return problems

    def close(self, timeout: float | None = None) -> None:
        """End the threads of all models."""
        for model in self:
            model.engine.close(timeout)

    def named(self, name: str | None, ability: Ability) -> ServedModel:
        """Return the model of a request. name: None for the first one that has the ability.

        Raises ApiError: 404 for a name that there is not, 400 for a model without the ability.
        """
        if name is None:
            for model in self:
                if ability in model.abilities:
                    return model
            raise ApiError(400, f"no model of this server can {ability.value}", "unsupported_model", "model")
        model_named = self._models.get(name)
        if model_named is None:
            names = ", ".join(self._models)
            raise ApiError(404, f"there is no model {name!r}; the models are: {names}", "model_not_found", "model")
        model_named.check(ability)
        return model_named
