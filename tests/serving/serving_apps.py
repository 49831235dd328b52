"""Applications of small models for the tests of the server, in the process of the test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from blankfill.serving.app import create_app
from blankfill.serving.served import ModelSet, ModelSource
from blankfill.serving.settings import ServeSettings
from blankfill.serving.state import Phase, ServerState
from head_models import fine_tuned

TUNED: dict[str, Path] = {}
TASKS: Mapping[str, dict[str, Any]] = {"sst2": {}, "stsb": {}, "copa": {}, "conll": {"epochs": 12}, "squad2": {}}
"""Tasks of each kind with a head, with options; a tagger learns until it finds something."""


def tuned_models(made: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The runs of models that were fine-tuned for `TASKS`, once in a process."""
    if not TUNED:
        root = made.mktemp("tuned")
        TUNED.update({task: fine_tuned(root / task, "bert", task, options) for task, options in TASKS.items()})
    return TUNED


def state_of(models: Mapping[str, Path], **settings: object) -> ServerState:
    """The state of a server with some models, which are not opened yet; settings: those of `ServeSettings`."""
    chosen = ServeSettings(**settings)  # type: ignore[arg-type]
    chosen.check()
    sources = {name: ModelSource(name, path, device="cpu", threads=1) for name, path in models.items()}
    return ServerState(ModelSet(sources, chosen), chosen)


@contextmanager
def client_of(models: Mapping[str, Path], **settings: object) -> Iterator[TestClient]:
    """A client of a server with some models; settings: those of `ServeSettings`."""
    state = state_of(models, **settings)
    state.models.open_all()
    state.phase = Phase.READY
    with client(state) as made:
        yield made
    state.models.close(30)


def client(state: ServerState) -> TestClient:
    """A client of a server in this process, under the name of this machine."""
    return TestClient(create_app(state), "http://127.0.0.1", raise_server_exceptions=False)
