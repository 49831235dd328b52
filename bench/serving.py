"""The server under load: `python bench/serving.py writing`.

Server and client have a core each (`taskset`), and what is compared takes turns in one run, so that ratios
can be compared while the machine is busy. Models have random weights.

writing: GPT-2 of 124M parameters writes for streams one at a time, and for several at once. Prints the tokens a second
of both, their ratio, and the time between two events of a stream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from side_by_side import load_note

SERVER_CORE, CLIENT_CORE = 0, 1
WORDS = 50_257


def write_gpt2(folder: Path, layers: int, width: int, heads: int) -> None:
    """Write a folder with a random GPT-2 whose tokens are words, as a run of pretraining writes it."""
    from dataclasses import replace

    from blankfill.checkpoint import store
    from blankfill.checkpoint.hf_layout import hf_layout_of
    from blankfill.config.recipe import load_recipe
    from blankfill.model.config import config_values
    from blankfill.model.transformer import build
    from blankfill.objectives import Gpt

    changes = {"model.hidden_size": width, "model.num_layers": layers, "model.num_heads": heads}
    objective = Gpt(1024)
    config = replace(load_recipe("gpt2", changes), objective=objective).model_config(WORDS)
    tokenizer = word_tokenizer()
    folder.mkdir(parents=True)
    tokenizer.save(folder)
    state = {"model": config_values(config), "objective": {"name": objective.name, **asdict(objective)}}
    store.write_files(
        folder, 1, build(config, seed=1).state_dict(), {}, state, hf_layout_of(config, objective, tokenizer)
    )


def word_tokenizer() -> Any:
    """Return a tokenizer of bytes and of words that only the model writes."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    from blankfill.corpus.tokenizer import Tokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    syllables = [first + second for first in "bdfgklmnprst" for second in "aeiou"]
    words = [f"Ġ{a}{b}{c}" for a in syllables for b in syllables for c in syllables[:14]]
    vocabulary = {token: id for id, token in enumerate(["<|endoftext|>", *letters, *words][:WORDS])}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>"])
    return Tokenizer(made)


@contextmanager
def server_of(*flags: str) -> Iterator[str]:
    """A server on its core; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "blankfill", "serve", "--port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, *flags], env=environment, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    import httpx

    while process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise SystemExit("the server did not start")


@dataclass(frozen=True)
class Written:
    """What streams have got. tokens: of all; seconds: for all; gaps: seconds between two events of a stream."""

    tokens: int
    seconds: float
    gaps: list[float]

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


async def write(url: str, streams: int, at_once: bool, prompt: int, new: int) -> Written:
    """Let streams write, one after another or at once."""
    import httpx

    async with httpx.AsyncClient(timeout=600) as client:
        begun = time.perf_counter()
        if at_once:
            parts = await asyncio.gather(*(_stream(client, url, k, prompt, new) for k in range(streams)))
        else:
            parts = [await _stream(client, url, k, prompt, new) for k in range(streams)]
    seconds = time.perf_counter() - begun
    return Written(sum(tokens for tokens, _ in parts), seconds, [gap for _, gaps in parts for gap in gaps])


async def _stream(client: Any, url: str, number: int, prompt: int, new: int) -> tuple[int, list[float]]:
    body = {
        "prompt": [300 + (number * 97 + 31 * k) % 40_000 for k in range(prompt)], "max_tokens": new, "seed": number,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    tokens, times = 0, []
    async with client.stream("POST", f"{url}/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                times.append(time.perf_counter())
                if usage := json.loads(line.removeprefix("data: ")).get("usage"):
                    tokens = usage["completion_tokens"]
    return tokens, [after - before for before, after in pairwise(times[:-1])]


def writing(args: argparse.Namespace) -> None:
    """Measure streams one at a time and at once."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "gpt2"
        write_gpt2(folder, args.layers, args.width, args.heads)
        with server_of("--model", str(folder), "--threads", "1", "--slots", str(args.streams)) as url:
            os.sched_setaffinity(0, {CLIENT_CORE})
            asyncio.run(write(url, args.streams, True, args.prompt, 4))
            rounds: list[tuple[Written, Written]] = []
            for number in range(args.rounds):
                alone, together = (
                    asyncio.run(write(url, args.streams, at_once, args.prompt, args.new)) for at_once in (False, True)
                )
                rounds.append((alone, together))
                print(
                    f"round {number + 1}: {alone.rate:.1f} tokens/s one at a time, {together.rate:.1f} tokens/s with "
                    f"{args.streams} at once, {together.rate / alone.rate:.2f} times",
                    flush=True,
                )
    ratio = statistics.median(together.rate / alone.rate for alone, together in rounds)
    print(f"median of {len(rounds)} rounds: {ratio:.2f} times the tokens/s")
    for name, made in (
        ("one at a time", [alone for alone, _ in rounds]),
        ("at once", [together for _, together in rounds]),
    ):
        gaps = sorted(gap for written in made for gap in written.gaps)
        at = [1000 * gaps[min(len(gaps) - 1, int(share * len(gaps)))] for share in (0.5, 0.95, 0.99)]
        print(f"between two events, {name}: p50 {at[0]:.1f} ms, p95 {at[1]:.1f} ms, p99 {at[2]:.1f} ms")
    print(load_note())


def main() -> None:
    """Run a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("writing", help="streams of GPT-2 at once and one at a time")
    command.set_defaults(run=writing)
    for name, value in {
        "layers": 12, "width": 768, "heads": 12, "streams": 8, "prompt": 32, "new": 48, "rounds": 3,
    }.items():  # fmt: skip
        command.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
