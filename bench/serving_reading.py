"""Embeddings and blanks over HTTP: `blankfill serve` beside a plain handler of FastAPI and transformers, and beside
infinity-emb where its program is given.

    python bench/serving_reading.py embeddings --ours runs/minilm --theirs minilm_hf --texts sentences.txt
    python bench/serving_reading.py fill --ours runs/mlm --theirs mlm_hf --texts sentences.txt

Every server runs alone on one core with one thread, the clients on another. Each of N connections sends a text, waits
for its answer, and sends the next (a closed loop). Servers take turns, a few seconds each, over several rounds, so that
other load on the machine meets all alike; the ratios are medians over rounds. The processor time of the server for each
text is measured too: it does not depend on other load.

The plain handler computes one request at a time, without padding, in the event loop (`async def`): in threads it would
be slower on one core.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
SERVER_CORE, CLIENT_CORE = "0", "1"
WORDS = "the boat lamp river house stone letter garden winter morning old red small quiet long under near with and of"


@dataclass
class Server:
    """A running server. path, extra: of its requests. times: of answers, seconds; rates: texts by second of each round;
    processor: seconds of the server for a text, of each round."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    path: str
    extra: dict[str, Any]
    times: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def used(self) -> float:
        """Processor time of the process, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def plain_app(kind: str, path: str) -> Any:
    """The handler that a user would write: one forward pass for a request."""
    import torch
    from fastapi import FastAPI
    from pydantic import BaseModel
    from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = (AutoModel if kind == "embeddings" else AutoModelForMaskedLM).from_pretrained(path).eval()
    app = FastAPI()

    class Body(BaseModel):
        model: str = ""
        input: str

    Body.model_rebuild()

    async def embeddings(body: Body) -> dict[str, Any]:
        encoded = tokenizer(body.input, return_tensors="pt", truncation=True, max_length=512)
        with torch.inference_mode():
            vector = model(**encoded).last_hidden_state[0].mean(0)
        return {"data": [{"index": 0, "embedding": torch.nn.functional.normalize(vector, dim=0).tolist()}]}

    async def fill(body: Body) -> dict[str, Any]:
        encoded = tokenizer(body.input, return_tensors="pt", truncation=True, max_length=512)
        with torch.inference_mode():
            logits = model(**encoded).logits[0]
        place = int((encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0])
        best = logits[place].softmax(-1).topk(5)
        words = tokenizer.convert_ids_to_tokens(best.indices.tolist())
        return {"data": [{"candidates": list(zip(words, best.values.tolist(), strict=True))}]}

    embeddings.__annotations__["body"] = fill.__annotations__["body"] = Body
    app.post("/v1/embeddings")(embeddings)
    app.post("/v1/fill")(fill)
    return app


@contextlib.contextmanager
def started(name: str, command: Sequence[str], port: int, path: str, extra: dict[str, Any]) -> Iterator[Server]:
    """A server in a process of its own, on its core, that answers."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            ["taskset", "-c", SERVER_CORE, *command], env=environment, stdout=log, stderr=log
        )  # fmt: skip
        try:
            body = json.dumps({**extra, "input": "the old [MASK]"}).encode()
            for _ in range(600):
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"{name} ended: {log.read().decode()[-2000:]}")
                with contextlib.suppress(OSError):
                    request = urllib.request.Request(
                        f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"}
                    )
                    urllib.request.urlopen(request, timeout=60).read()
                    break
                time.sleep(0.2)
            else:
                raise SystemExit(f"{name} does not answer")
            yield Server(name, process, port, path, extra)
        finally:
            process.terminate()
            process.wait()


async def _connection(server: Server, texts: Iterator[str], end: float, times: list[float]) -> None:
    """One client: a request after the other over one connection until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        while time.perf_counter() < end:
            body = json.dumps({**server.extra, "input": next(texts)}).encode()
            begun = time.perf_counter()
            writer.write(
                b"POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (server.path.encode(), server.port, len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"{server.name}: {head.decode()}")
            size = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            )
            await reader.readexactly(size)
            times.append(time.perf_counter() - begun)
    finally:
        writer.close()


async def _round(server: Server, texts: Sequence[str], connections: int, seconds: float, seed: int) -> None:
    rng = random.Random(seed)
    times: list[float] = []
    stream = iter(lambda: rng.choice(texts), None)
    used, begun = server.used(), time.perf_counter()
    clients = (_connection(server, stream, begun + seconds, times) for _ in range(connections))
    await asyncio.gather(*clients)
    server.rates.append(len(times) / (time.perf_counter() - begun))
    server.processor.append((server.used() - used) / len(times))
    server.times += times


def _texts(path: Path | None, kind: str) -> list[str]:
    """The texts: lines of a file, or sentences of mixed lengths from a few words."""
    rng = random.Random(0)
    if path is not None:
        texts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        sizes = (min(90, max(3, int(rng.lognormvariate(2.8, 0.7)))) for _ in range(2000))
        texts = [" ".join(rng.choices(WORDS.split(), k=size)) for size in sizes]
    if kind == "embeddings":
        return texts
    blanked = []
    for text in texts:
        words = text.split()
        words[rng.randrange(len(words))] = "[MASK]"
        blanked.append(" ".join(words))
    return blanked


def measure(kind: str, args: argparse.Namespace) -> None:
    """Run the servers by turns and print a table, the first one as the measure of the others."""
    texts = _texts(args.texts, kind)
    path = f"/v1/{kind}"
    extra: dict[str, Any] = {"encoding_format": "base64"} if kind == "embeddings" and args.base64 else {}
    if args.texts is not None:
        extra["allow_unknown"] = True
    os.sched_setaffinity(0, {int(CLIENT_CORE)})
    with contextlib.ExitStack() as stack:
        servers = []
        if args.theirs:
            command = [sys.executable, str(HERE), "plain", kind, str(args.theirs), str(args.port)]
            servers.append(stack.enter_context(started("plain handler", command, args.port, path, {})))
        for number, ours in enumerate(args.ours):
            port = args.port + 1 + number
            command = [
                sys.executable, "-m", "blankfill", "serve", "--model", f"m={ours}", "--port", str(port), "--threads",
                "1",
                "--batch-tokens", str(args.batch_tokens),
            ]  # fmt: skip
            name = f"blankfill, {Path(ours).name}"
            servers.append(stack.enter_context(started(name, command, port, path, extra)))
        if args.infinity and kind == "embeddings":
            port = args.port + 90
            command = [
                str(args.infinity), "v2", "--model-id", str(args.theirs), "--port", str(port), "--device", "cpu",
                "--engine", "torch", "--url-prefix", "/v1", "--served-model-name", "m", "--no-bettertransformer",
            ]  # fmt: skip
            servers.append(stack.enter_context(started("infinity-emb", command, port, path, {"model": "m"})))
        for turn in range(args.rounds + 1):  # the first round warms up
            for server in servers:
                asyncio.run(_round(server, texts, args.connections, args.seconds, turn))
                if not turn:
                    server.times, server.rates, server.processor = [], [], []
        _show(servers, args)


def _show(servers: Sequence[Server], args: argparse.Namespace) -> None:
    first = servers[0]
    print(f"{args.connections} connections, {args.rounds} rounds of {args.seconds:g} s")
    print(f"{'':28}{'texts/s':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'cpu ms':>9}{'texts/s ×':>11}{'cpu ×':>8}")
    for server in servers:
        cuts = statistics.quantiles(server.times, n=100)
        ratio = statistics.median(a / b for a, b in zip(server.rates, first.rates, strict=True))
        cheaper = statistics.median(b / a for a, b in zip(server.processor, first.processor, strict=True))
        print(
            f"{server.name:28}{statistics.median(server.rates):9.1f}{cuts[49] * 1e3:9.1f}{cuts[94] * 1e3:9.1f}"
            f"{cuts[98] * 1e3:9.1f}{statistics.median(server.processor) * 1e3:9.2f}{ratio:11.2f}{cheaper:8.2f}"
        )


def embeddings(args: argparse.Namespace) -> None:
    """Compare servers of vectors."""
    measure("embeddings", args)


def fill(args: argparse.Namespace) -> None:
    """Compare servers that fill blanks."""
    measure("fill", args)


def main() -> None:
    """Run the program."""
    if sys.argv[1:2] == ["plain"]:
        import uvicorn

        kind, path, port = sys.argv[2:5]
        uvicorn.run(plain_app(kind, path), port=int(port), log_level="warning", access_log=False)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["embeddings", "fill"])
    parser.add_argument("--ours", nargs="+", default=[], help="folders of models for blankfill")
    parser.add_argument("--theirs", help="the same model as a folder of transformers")
    parser.add_argument("--infinity", type=Path, help="the program infinity_emb")
    parser.add_argument("--texts", type=Path, help="file with a text on each line")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--port", type=int, default=8650)
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--base64", action="store_true", help="vectors as base64, as OpenAI's client asks for them")
    args = parser.parse_args()
    {"embeddings": embeddings, "fill": fill}[args.kind](args)


if __name__ == "__main__":
    main()
