"""Many clients of one server at once: every answer is compared with the one that the server gave before, alone.

    python bench/serving_load.py clients --model reader=runs/bert writer=runs/gpt --clients 500 --seconds 300
    python bench/serving_load.py malformed --model reader=runs/bert writer=runs/gpt --requests 10000
    python bench/serving_load.py memory --model reader=runs/bert --requests 100000

`clients`: each client asks in turn for vectors, filled blanks and texts of its own (as far as the models can), and
compares what it gets with the answer to the same request alone: an answer of another client would differ. Counted are
answers by status, wrong answers, and the memory of the server every five seconds. `malformed`: requests with damaged
bodies, heads and paths; counted are answers by status, and tracebacks in the log. `memory`: many small requests of
eight clients, and the memory of the server after each tenth of them.

The server runs on one core and the clients on another, where there are two. Figures: requests per second, p50, p95 and
p99 in milliseconds, resident memory in MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

WORDS = [
    "the",
    "old",
    "boat",
    "lamp",
    "sings",
    "sleeps",
    "on",
    "near",
    "sea",
    "red",
    "list",
    "value",
    "class",
    "module",
    "function",
    "returns",
    "object",
]
SAME = 1e-3
"""Largest difference of a number from that of the answer alone: the batch of a text changes its last bits."""


@dataclass(frozen=True)
class Answer:
    """An answer of the server. status: 0 for a connection that was closed without one."""

    status: int
    body: bytes


class Connection:
    """One connection that is kept open."""

    def __init__(self, port: int, key: str = "") -> None:
        self.port, self.key = port, key
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: Any) -> Answer:
        """Send a JSON body; returns the answer."""
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        return await self.send(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)

    async def send(self, request: bytes) -> Answer:
        """Send bytes; returns the answer to them."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self.port, limit=2**24)
            reader, writer = self._streams
            writer.write(request)
            await writer.drain()
            return await self._answer(reader)
        except (OSError, EOFError, ValueError):
            await self.close()
            return Answer(0, b"")

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split(" ", 2)[1])
        if "transfer-encoding: chunked" in head:
            parts = []
            while size := int((await reader.readline()).split(b";")[0], 16):
                parts.append(await reader.readexactly(size))
                await reader.readexactly(2)
            await reader.readexactly(2)
            body = b"".join(parts)
        else:
            length = next((line[15:] for line in head.split("\r\n") if line.startswith("content-length:")), "0")
            body = await reader.readexactly(int(length))
        if "connection: close" in head:
            await self.close()
        return Answer(status, body)

    async def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass(frozen=True)
class Task:
    """A request and what its answer says, as a comparable value."""

    path: str
    body: dict[str, Any]
    expected: Any = None


def meaning(path: str, answer: Answer) -> Any:
    """Return what an answer says: vectors, candidates with probabilities, or texts."""
    if path.endswith("completions") and answer.body.startswith(b"data:"):
        events = [line[6:] for line in answer.body.decode().split("\n\n") if line.startswith("data: {")]
        chunks = [json.loads(event) for event in events]
        if failed := next((chunk["error"] for chunk in chunks if "error" in chunk), None):
            return failed
        return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    values = json.loads(answer.body)
    if path == "/v1/embeddings":
        return [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in values["data"]]
    if path == "/v1/fill":
        return [
            {candidate["text"]: candidate["probability"] for candidate in blank["candidates"]}
            for row in values["data"] for blank in row["blanks"]
        ]  # fmt: skip
    return [choice["text"] for choice in values["choices"]]


def same(first: Any, other: Any) -> bool:
    """Return whether two answers say the same, up to the last bits of their numbers."""
    if isinstance(first, list):
        return isinstance(other, list) and len(first) == len(other) and all(map(same, first, other))
    if isinstance(first, np.ndarray):
        return isinstance(other, np.ndarray) and bool(np.abs(first - other).max() < SAME)
    if isinstance(first, dict):
        shared = [text for text in first if text in other]  # the last candidates may change places
        return bool(shared) and all(abs(first[text] - other[text]) < SAME for text in shared)
    return bool(first == other)


def tasks_of(models: Sequence[dict[str, Any]], count: int, seed: int) -> list[Task]:
    """Return different requests to the models, of every kind that they can."""
    chance = random.Random(seed)
    tasks: list[Task] = []
    for number in range(count):
        model = models[number % len(models)]
        kind = chance.choice([able for able in ("embed", "fill", "complete") if able in model["abilities"]])
        text = " ".join(chance.choices(WORDS, k=chance.choice((4, 8, 8, 16, 60))))
        body: dict[str, Any] = {"model": model["id"]}
        if kind == "embed":
            texts = [f"{text} {number} {k}" for k in range(chance.choice((1, 1, 1, 4)))]
            tasks.append(
                Task("/v1/embeddings", {**body, "input": texts, "encoding_format": "base64", "allow_unknown": True})
            )
        elif kind == "fill":
            tasks.append(Task("/v1/fill", {**body, "input": f"{text} ____ {number}.", "allow_unknown": True}))
        else:
            stream = bool(chance.getrandbits(1))
            more = {"max_tokens": 16, "seed": number, "stream": stream, "temperature": 0.7, "allow_unknown": True}
            tasks.append(Task("/v1/completions", {**body, "prompt": text, **more}))
    return tasks


@dataclass
class Count:
    """What the clients saw. statuses: answers by status. milliseconds: of the answers with 200."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    milliseconds: list[float] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    def show(self, seconds: float) -> None:
        """Print the figures."""
        p50, p95, p99 = np.percentile(self.milliseconds or [0.0], (50, 95, 99))
        total = sum(self.statuses.values())
        print(f"{total:,} answers in {seconds:.0f} s ({total / seconds:.0f}/s), by status {dict(self.statuses)}")
        print(f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms; {self.wrong} wrong answers")
        for example in self.examples:
            print(f"  {example}")


async def expected_of(port: int, tasks: Sequence[Task]) -> list[Task]:
    """Return the requests with the answers that the server gives to each alone."""
    connection, done = Connection(port), []
    for task in tasks:
        answer = await connection.post(task.path, task.body)
        if answer.status != 200:
            raise SystemExit(f"{task.path} {task.body}: {answer.status} {answer.body[:300]!r}")
        done.append(Task(task.path, task.body, meaning(task.path, answer)))
    return done


async def client(port: int, tasks: Sequence[Task], until: float, count: Count, seed: int) -> None:
    """Ask for one task after the other until a time, and compare the answers."""
    connection, chance = Connection(port), random.Random(seed)
    while time.monotonic() < until:
        task = chance.choice(tasks)
        begin = time.perf_counter()
        answer = await connection.post(task.path, task.body)
        count.statuses[answer.status] += 1
        if answer.status == 200:
            count.milliseconds.append(1000 * (time.perf_counter() - begin))
            if not same(task.expected, said := meaning(task.path, answer)):
                count.wrong += 1
                if len(count.examples) < 5:
                    count.examples.append(f"{task.body}: {str(task.expected)[:150]} ≠ {str(said)[:150]}")
        elif answer.status == 429:
            await asyncio.sleep(chance.random())
    await connection.close()


async def clients(port: int, process: psutil.Process, arguments: argparse.Namespace) -> None:
    """Run many clients for some time."""
    tasks = await expected_of(port, tasks_of(await models_of(port), arguments.tasks, arguments.seed))
    count, begin = Count(), time.monotonic()
    until = begin + arguments.seconds
    running = [asyncio.ensure_future(client(port, tasks, until, count, k)) for k in range(arguments.clients)]
    memory = [resident(process)]
    while time.monotonic() < until:
        await asyncio.sleep(5)
        memory.append(resident(process))
    await asyncio.gather(*running)
    count.show(time.monotonic() - begin)
    print(f"resident memory every 5 s, MiB: {' '.join(f'{value:.0f}' for value in memory)}")


async def memory(port: int, process: psutil.Process, arguments: argparse.Namespace) -> None:
    """Send many requests, and show the memory after each tenth."""
    tasks = await expected_of(port, tasks_of(await models_of(port), arguments.tasks, arguments.seed))
    count, begin = Count(), time.monotonic()
    left = [arguments.requests // 10]

    async def ask(number: int) -> None:
        connection, chance = Connection(port), random.Random(number)
        while left[0] > 0:
            left[0] -= 1
            task = chance.choice(tasks)
            answer = await connection.post(task.path, task.body)
            count.statuses[answer.status] += 1
            count.wrong += answer.status == 200 and not same(task.expected, meaning(task.path, answer))
        await connection.close()

    values = [resident(process)]
    for tenth in range(10):
        left[0] = arguments.requests // 10
        await asyncio.gather(*(ask(8 * tenth + k) for k in range(8)))
        values.append(resident(process))
    count.show(time.monotonic() - begin)
    print(f"resident memory after each tenth, MiB: {' '.join(f'{value:.0f}' for value in values)}")


PATHS = ("/v1/embeddings", "/v1/fill", "/v1/completions", "/v1/chat/completions", "/v1/score", "/tokenize",
         "/detokenize", "/rerank", "/v1/classify", "/v1/tag", "/v1/answer", "/v1/inspect", "/v1/models", "/",
         "/health", "/v1/nothing")  # fmt: skip
FIELDS = ("model", "input", "prompt", "messages", "query", "documents", "ids", "top_k", "max_tokens", "n", "stop",
          "stream", "logprobs", "seed", "temperature", "dimensions", "lengths", "use", "encoding_format")  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 1e308, 0.5, "", "a text", "\ud800", "\0", "a" * 5000, [], [""], ["a", 1], [[1, 2], [3]],
    [-1, 10**9], {}, {"role": "user"}, [{"role": "user", "content": "hello"}], [{"role": "tool", "content": None}],
    "[MASK] " * 50, "reader", "writer", [[[[[[]]]]]],
)  # fmt: skip


ODD_PATHS = ("/v1/../etc/passwd", "/..%2f..%2fetc/passwd", "/v1/%66ill", "/v1/fill%00", "/v1//fill", "/%ff%fe", "/%",
             "/v1/models/%2e%2e/%2e%2e/", "/v1/models/%E7%8C%AB", "/v1/fill?model=reader&input=%00", "//v1/fill", "*",
             "http://example.org/v1/fill", "/v1/fill#x", "/v1/models/" + "x" * 70_000, "/?" + "x=1&" * 20_000, "\\v1",
             "/v1/fill/", "/V1/FILL", "/v1/models/\x01", "")  # fmt: skip
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
"""What a client of HTTP/2 sends first."""


def damaged(chance: random.Random) -> bytes:
    """Return a request that is wrong in one way or another; some are right by chance."""
    path, method = chance.choice(PATHS), chance.choices(("POST", "GET", "PUT", "BREW", "post"), (20, 2, 1, 1, 1))[0]
    body = {name: chance.choice(VALUES) for name in chance.sample(FIELDS, chance.randint(0, 6))}
    data = json.dumps(body).encode()
    kind = chance.randrange(22)
    if kind == 12:
        return PREFACE
    if kind == 13:
        path = chance.choice(ODD_PATHS)
    elif kind == 14:
        return chance.randbytes(chance.randrange(1, 300)) + b"\r\n\r\n"
    if kind == 0:
        data = data[: chance.randrange(len(data) + 1)]
    elif kind == 1:
        data = chance.randbytes(chance.randrange(200))
    elif kind == 2:
        data = b"[" * chance.choice((10, 1000, 100_000))
    elif kind == 3:
        data = b'{"input": ' + b"9" * chance.choice((20, 5000)) + b"}"
    elif kind == 4:
        data = data.replace(b'"', b"\xff", 1)
    media = chance.choices(("application/json", "text/plain", "", "application/json; charset=utf-16"), (20, 1, 1, 1))[0]
    if kind == 15:
        media = "multipart/form-data; boundary=b"
        data = b'--b\r\nContent-Disposition: form-data; name="input"\r\n\r\nthe\r\n--b--\r\n'
    length = len(data) if kind != 5 else chance.choice((0, max(0, len(data) - 3)))
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {media}\r\nContent-Length: {length}\r\n"
    if kind == 6:
        head = head.replace("HTTP/1.1", chance.choice(("HTTP/9.9", "HTTP/1.1 x", "")))
    elif kind == 7:
        head += f"X: {'x' * chance.choice((10, 100_000))}\r\n"
    elif kind == 8:
        head = head.replace("Content-Length: ", "Content-Length: -")
    elif kind == 16:
        name = chance.choice(
            (f"Content-Length: {length + 1}", "Content-Type: text/html", "Host: example.org", "Host: ")
        )
        head += f"{name}\r\n"
    elif kind == 17:  # in chunks, and with a length
        size = chance.choice((f"{len(data):x}", "-1", "zz", "ffffffffffffffffff", f"{len(data):x};x=y"))
        data = f"{size}\r\n".encode() + data + b"\r\n0\r\n\r\n"
        head += "Transfer-Encoding: chunked\r\n"
    elif kind == 18:  # a second request behind the first
        data += health() * chance.choice((1, 100))
    elif kind == 19:
        head += "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        head += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    elif kind == 20:
        head += chance.choice((
            "Expect: 100-continue\r\n", "Content-Encoding: gzip\r\n", "X-Request-ID: a\x01b\r\n",
            "Authorization: \xff\r\n", " folded\r\n", "no colon\r\n", ": no name\r\n",
            "Transfer-Encoding: gzip\r\n", "Origin: null\r\n",
        ))  # fmt: skip
    elif kind == 21:
        head = head.replace("\r\n", "\n")
    return head.encode("latin-1", "replace") + b"\r\n" + data


async def malformed(port: int, process: psutil.Process, arguments: argparse.Namespace) -> None:
    """Send damaged requests."""
    count, left = Count(), [arguments.requests]

    async def ask(number: int) -> None:
        chance = random.Random(f"{arguments.seed} {number}")
        while left[0] > 0:
            left[0] -= 1
            connection, request = Connection(port), damaged(chance)
            try:
                answer = await asyncio.wait_for(connection.send(request), 30)
            except TimeoutError:
                answer = Answer(-1, b"")
            count.statuses[answer.status] += 1
            if (answer.status >= 500 or answer.status < 0) and len(count.examples) < 10:
                count.examples.append(f"{answer.status}: {request[:300]!r} → {answer.body[:200]!r}")
            await connection.close()

    begin = time.monotonic()
    await asyncio.gather(*(ask(number) for number in range(16)))
    count.show(time.monotonic() - begin)
    print(f"the server still answers: {(await Connection(port).send(health())).status}")


def health() -> bytes:
    """Return a request for the health of the server."""
    return b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def models_of(port: int) -> list[dict[str, Any]]:
    """Return the models of the server."""
    answer = await Connection(port).send(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    models: list[dict[str, Any]] = json.loads(answer.body)["data"]
    return [model for model in models if {"embed", "fill", "complete"} & set(model["abilities"])]


def resident(process: psutil.Process) -> float:
    """Return the memory of a process in MiB."""
    return float(process.memory_info().rss) / 2**20


@contextmanager
def server(models: Sequence[str], log: Path, more: Sequence[str] = ()) -> Iterator[tuple[int, psutil.Process]]:
    """Start a server on the first core, and yield its port and its process."""
    cores = sorted(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "blankfill", "--json", "serve", "--model", *models, "--port", "0", *more]
    with log.open("wb") as errors:
        begun = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        os.sched_setaffinity(begun.pid, cores[:1])
        os.sched_setaffinity(0, cores[1:] or cores)
        try:
            assert begun.stdout is not None
            line = begun.stdout.readline()
            if not line:
                raise SystemExit(f"the server did not start: {log.read_text()[-2000:]}")
            yield json.loads(line)["port"], psutil.Process(begun.pid)
        finally:
            begun.send_signal(signal.SIGTERM)
            begun.wait()


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description="Many clients of one server at once.")
    parser.add_argument("what", choices=["clients", "malformed", "memory"])
    parser.add_argument("--model", nargs="+", required=True, help="NAME=DIR")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--tasks", type=int, default=400, help="different requests of the clients")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--server", nargs=argparse.REMAINDER, default=[], help="further options of blankfill serve")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with server(arguments.model, log, arguments.server) as (port, process):
            run = {"clients": clients, "malformed": malformed, "memory": memory}[arguments.what]
            asyncio.run(run(port, process, arguments))
        lines = log.read_text(errors="replace").splitlines()
        print(f"tracebacks in the log of the server: {sum(line.startswith('Traceback') for line in lines)}")
        for number, line in enumerate(lines):
            if line.startswith("Traceback"):
                print("\n".join(lines[max(0, number - 2) : number + 40]))
                break


if __name__ == "__main__":
    main()
