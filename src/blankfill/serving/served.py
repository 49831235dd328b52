"""The models of a server: opened from their folders, found by name, and opened again without a gap."""

from __future__ import annotations

import logging
import threading
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
from blankfill.serving.memory import check_fits, fingerprint, need_of
from blankfill.serving.metrics import Metrics
from blankfill.serving.requests import current
from blankfill.serving.settings import ServeSettings

Part = TypeVar("Part")

log = logging.getLogger("blankfill.serving")


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
    """An opened model with its thread. created: when it was opened, in seconds of Unix time.

    Requests hold the model while they use it (`requests.RunningRequest.hold`). One that was replaced ends its thread
    when the last request that holds it has ended.
    """

    def __init__(
        self, source: ModelSource, model: Model, settings: ServeSettings, metrics: Metrics | None = None
    ) -> None:
        self.source, self.model, self.settings = source, model, settings
        self.metrics = metrics or Metrics()
        self.name, self.created = source.name, int(time.time())
        self.abilities = abilities_of(model)
        self.engine = Engine(source.name, settings, self.metrics)
        self._parts: dict[Hashable, Any] = {}
        self._lock, self._users, self._replaced = threading.Lock(), 0, False

    @property
    def waiting(self) -> int:
        """Number of texts that wait."""
        return self.engine.waiting

    @property
    def slots_in_use(self) -> int:
        """Number of answers that are written now."""
        return self.engine.slots_in_use

    def acquire(self) -> None:
        """Count one more request that uses the model."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """Count one request less; the last one ends the thread of a model that was replaced."""
        with self._lock:
            self._users -= 1
            ends = self._replaced and self._users == 0
        if ends:
            self.engine.close(0)

    def replace(self) -> None:
        """End the thread once no request uses the model."""
        with self._lock:
            self._replaced = True
            ends = self._users == 0
        if ends:
            self.engine.close(0)

    def part(self, key: Hashable, make: Callable[[ServedModel], Part]) -> Part:
        """Return a part that belongs to the model, such as the kind of a job, made on first use; where two threads
        make it at once, both get the same one."""
        if key not in self._parts:
            self._parts.setdefault(key, make(self))
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

    def __init__(
        self, sources: Mapping[str, ModelSource], settings: ServeSettings, metrics: Metrics | None = None
    ) -> None:
        self.sources, self.settings = dict(sources), settings
        self.metrics = metrics or Metrics()
        self._models: dict[str, ServedModel] = {}
        self._fingerprints: dict[str, object] = {}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(list(self._models.values()))

    def open_all(self) -> None:
        """Open every model. Raises UserError for one that cannot be opened."""
        for source in self.sources.values():
            self._models[source.name] = self._opened(source)

    def reload(self) -> tuple[list[str], list[str]]:
        """Open the models whose files have changed again, and use the new ones for the requests to come.

        The old ones finish the requests that hold them. To be called in a thread, since it takes as long as opening the
        models. Returns the names of the models that were replaced, and a sentence for each one that could not be
        opened: it stays as it was.
        """
        replaced, problems = [], []
        for name, source in self.sources.items():
            try:
                if fingerprint(source.path, source.adapter) == self._fingerprints.get(name):
                    continue
                check_fits([need_of(name, source.path, source.dtype, source.adapter)], force=self.settings.force)
                model = self._opened(source)
            except Exception as error:
                self.metrics.loaded(name, 0.0, fits=False)
                if not isinstance(error, UserError):
                    log.error("the model %s cannot be opened again", name, exc_info=error)
                problems.append(f"{name}: {error.sentence if isinstance(error, UserError) else repr(error)}")
                continue
            before = self._models.get(name)
            self._models[name] = model
            replaced.append(name)
            if before is not None:
                before.replace()
        return replaced, problems

    def _opened(self, source: ModelSource) -> ServedModel:
        """Open a model, and note its files as they were before."""
        marks, begin = fingerprint(source.path, source.adapter), time.perf_counter()
        served = ServedModel(source, source.open(), self.settings, self.metrics)
        self.metrics.loaded(source.name, time.perf_counter() - begin)
        self._fingerprints[source.name] = marks
        return served

    def close(self, timeout: float | None = None) -> None:
        """End the threads of all models. timeout: seconds to wait for all of them."""
        end = None if timeout is None else time.monotonic() + timeout
        for model in self:
            model.engine.close(None if end is None else max(0.0, end - time.monotonic()))

    @property
    def busy(self) -> bool:
        """Whether the thread of a model has not ended."""
        return any(model.engine.alive for model in self)

    def named(self, name: str | None, ability: Ability) -> ServedModel:
        """Return the model of a request. name: None for the first one that has the ability.

        Raises ApiError: 404 for a name that there is not, 400 for a model without the ability.
        """
        while True:
            model = held(self._found(name, ability))
            if self._models.get(model.name) is model:  # else it was replaced before it was held, and is perhaps closed
                return model

    def _found(self, name: str | None, ability: Ability) -> ServedModel:
        if name is None:
            for model in self:
                if ability in model.abilities:
                    return model
            raise ApiError(400, f"no model of this server can {ability.value}", "unsupported_model", "model")
        model_named = self.by_name(name)
        model_named.check(ability)
        return model_named

    def by_name(self, name: str) -> ServedModel:
        """Return a model. Raises ApiError (404) for a name that there is not."""
        model = self._models.get(name)
        if model is None:
            names = ", ".join(self._models)
            raise ApiError(404, f"there is no model {name!r}; the models are: {names}", "model_not_found", "model")
        return model


def held(model: ServedModel) -> ServedModel:
    """Return a model, held by the running request until it ends."""
    if (request := current.get()) is not None:
        request.model = model.name
        request.hold(model)
    return model
