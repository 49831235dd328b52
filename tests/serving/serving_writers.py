"""Servers of small models that write, in the process of the test; and gates at which their threads wait."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi.testclient import TestClient

from blankfill.inference import Model
from blankfill.serving.app import create_app
from blankfill.serving.openai import writing_of
from blankfill.serving.served import ModelSet, ModelSource
from blankfill.serving.settings import ServeSettings
from blankfill.serving.state import Phase, ServerState
from blankfill.serving.writing import Answer, Writing
from generate_models import byte_level, loaded, random_model

LONG = 120
"""Seconds after which a test that waits for ever fails."""
TEXTS = ["the cat sat on the mat", "a dog ran", "猫在垫子上，狗在跑。", "naïve café 🙂 ok", "one\ntwo  three\n"]
BYTES = byte_level(TEXTS * 3, 300)


@dataclass(frozen=True)
class Given(ModelSource):
    """A model that the test has made."""

    model: Model = field(default_factory=Model)

    def open(self) -> Model:
        return self.model


def writer(objective: str = "gpt", seed: int = 3, length: int = 512, sharp: float = 4.0) -> Model:
    """A random model of bytes, or of words for objectives that need special tokens; it never ends a text soon."""
    if objective == "gpt":
        made = loaded("gpt", random_model("gpt", seed, BYTES.size, length, sharp), BYTES, length)
    else:
        made = loaded(objective, random_model(objective, seed, 34, length, sharp), length=length)
    return Model(made)


def state_of(models: Mapping[str, Model | Path], settings: Mapping[str, Any]) -> ServerState:
    """A server that is ready."""
    chosen = ServeSettings(**settings)
    chosen.check()
    sources = {
        name: Given(name, Path(name), model=model) if isinstance(model, Model) else
        ModelSource(name, model, device="cpu", threads=1)
        for name, model in models.items()
    }  # fmt: skip
    state = ServerState(ModelSet(sources, chosen), chosen)
    state.models.open_all()
    state.phase = Phase.READY
    return state


@dataclass
class Server:
    """A server with its client, in process or at `url`."""

    state: ServerState
    client: TestClient
    url: str = ""

    def writing(self, name: str) -> Writing:
        """What writes with a pretrained model."""
        served = self.state.models._models[name]
        loaded = served.model.loaded
        return writing_of(served, loaded.model, loaded.vocabulary.roles.get("pad", 0))

    def post(self, path: str, **body: Any) -> Any:
        """The body of an answer, which must not be an error."""
        answer = self.client.post(f"/v1/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        """The status and the error of a request that is refused."""
        answer = self.client.post(f"/v1/{path}", json=body)
        assert answer.status_code >= 400, answer.text
        return answer.status_code, answer.json()["error"]


@contextmanager
def in_process(models: Mapping[str, Model | Path], **settings: Any) -> Iterator[Server]:
    """A server without a socket."""
    state = state_of(models, settings)
    with TestClient(create_app(state), "http://127.0.0.1", raise_server_exceptions=False) as client:
        yield Server(state, client)
    state.models.close(30)


@contextmanager
def listening(models: Mapping[str, Model | Path], **settings: Any) -> Iterator[Server]:
    """A server at a free port, in a thread."""
    state = state_of(models, settings)
    app = create_app(state)
    door = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, args=([door],))
    thread.start()
    try:
        yield Server(state, TestClient(app, "http://127.0.0.1"), f"http://127.0.0.1:{door.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join(LONG)
        state.models.close(30)


class Watched(deque[Answer]):
    """Answers on their way to the thread of a model, with a wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self._arrived = threading.Semaphore(0)

    def extend(self, answers: Iterable[Answer], /) -> None:
        for answer in answers:
            self.append(answer)
            self._arrived.release()

    def wait(self, count: int = 1) -> None:
        """Wait for the next answers."""
        for _ in range(count):
            assert self._arrived.acquire(timeout=LONG)


class ByHand:
    """What writes with a model, whose steps the test takes instead of the thread of the model."""

    busy = False
    """What the thread of the model sees."""

    def __init__(self, writing: Writing) -> None:
        self.writing, self.come, self.gone = writing, Watched(), Watched()
        writing._incoming, writing._gone = self.come, self.gone

    @property
    def waiting(self) -> int:
        return self.writing.waiting

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.writing.step()


@contextmanager
def by_hand(server: Server, name: str) -> Iterator[ByHand]:
    """Take the steps of a model that is idle by hand."""
    engine, writing = server.state.models._models[name].engine, server.writing(name)
    hand = ByHand(writing)
    engine.steppers[:] = [hand]
    try:
        yield hand
    finally:
        engine.steppers[:] = [writing]
        engine.wake()


def texts(answer: Any) -> list[str]:
    """The texts of an answer, of completions or of chat."""
    return [choice["text"] if "text" in choice else choice["message"]["content"] for choice in answer["choices"]]
