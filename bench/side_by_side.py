"""Contenders in processes of their own, taking turns, so that what disturbs one disturbs the other.

Each contender is a worker process: it builds what it has to, then answers each request for some repetitions with the
seconds of each, by the wall clock and by the processor's, and at the end with the most memory that it held. Turns go
round: a few repetitions of each contender, then the next round. Times are medians over all rounds; the spread is that
of the ratios within a round. Not for single figures of this program alone: that is `blankfill bench`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MACHINE_BUSY = 0.5
"""Load, in processes per core, above which a note is printed."""


@dataclass
class Contender:
    """A worker process and its answers. unable: why it cannot run here."""

    name: str
    process: subprocess.Popen[str]
    rounds: list[list[float]] = field(default_factory=list)
    processor: list[list[float]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    unable: str = ""

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self.process.stdout.readline()
        if not answer:
            return {"unable": f"the process ended with code {self.process.wait()}"}
        parsed: dict[str, Any] = json.loads(answer)
        return parsed

    def end(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    @property
    def median(self) -> float:
        """Return the median wall-clock seconds of one repetition."""
        return statistics.median(second for times in self.rounds for second in times)


def start(program: Path, name: str, spec: dict[str, Any]) -> Contender:
    """Start a worker: `program --worker NAME` with its specification as JSON in the environment."""
    variables = {**os.environ, "BENCH_SPEC": json.dumps(spec), "OMP_NUM_THREADS": str(spec.get("threads", 1))}
    process = subprocess.Popen(
        [sys.executable, str(program), "--worker", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=variables,
    )
    return Contender(name, process)


def compete(
    program: Path, names: Sequence[str], spec: dict[str, Any], rounds: int, repetitions: int
) -> list[Contender]:
    """Let contenders take turns; one repetition of each warms up. The others are held against the first name."""
    contenders = [start(program, name, spec) for name in names]
    for contender in contenders:
        answer = contender.ask({"repeat": 1})
        contender.unable = answer.get("unable", "")
    able = [contender for contender in contenders if not contender.unable]
    for number in range(rounds):
        for contender in able if number % 2 == 0 else reversed(able):
            answer = contender.ask({"repeat": repetitions})
            if "unable" in answer:
                contender.unable = answer["unable"]
                continue
            contender.rounds.append(answer["seconds"])
            contender.processor.append(answer["processor"])
    for contender in contenders:
        if not contender.unable:
            contender.facts = contender.ask({"facts": True})
        contender.end()
    return contenders


def serve(build: Callable[[str, dict[str, Any]], tuple[Callable[[], Any], dict[str, Any]]]) -> None:
    """Be a worker: build what `--worker NAME` asks for, then answer requests until standard input ends.

    build: (name, specification) → (one repetition, facts to tell at the end); it raises `UnableError` when it cannot.
    """
    name = sys.argv[sys.argv.index("--worker") + 1]
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    repeat: Callable[[], Any] | None = None
    facts: dict[str, Any] = {}
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any]
        try:
            if repeat is None:
                repeat, facts = build(name, json.loads(os.environ["BENCH_SPEC"]))
            if "repeat" in question:
                answer = timed(repeat, question["repeat"])
            else:
                answer = {**facts, "memory": peak_memory()}
        except UnableError as error:
            answer = {"unable": str(error)}
        out.write(json.dumps(answer) + "\n")
        out.flush()


class UnableError(Exception):
    """A contender cannot run here; the text says why."""


def timed(repeat: Callable[[], Any], count: int) -> dict[str, Any]:
    """Return the seconds of each of `count` repetitions."""
    seconds, processor = [], []
    for _ in range(count):
        wall, own = time.perf_counter(), time.process_time()
        repeat()
        seconds.append(time.perf_counter() - wall)
        processor.append(time.process_time() - own)
    return {"seconds": seconds, "processor": processor}


def peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compared(contenders: Sequence[Contender], clock: str) -> list[dict[str, Any]]:
    """Return a line for each contender: seconds, how many times longer than the first one took, memory beside the
    first's.

    ratio: of the medians; low and high: the smallest and largest ratio of a round.
    """
    first = contenders[0]
    lines: list[dict[str, Any]] = []
    for contender in contenders:
        line: dict[str, Any] = {"contender": contender.name}
        if contender.unable:
            lines.append(line | {"unable": contender.unable})
            continue
        rounds, own = (contender.rounds, first.rounds) if clock == "wall" else (contender.processor, first.processor)
        line |= {"seconds": statistics.median(s for part in rounds for s in part), **contender.facts}
        if contender is not first and not first.unable:
            ratios = [statistics.median(a) / statistics.median(b) for a, b in zip(rounds, own, strict=True)]
            line |= {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
            line["memory_share"] = first.facts["memory"] / contender.facts["memory"]
        lines.append(line)
    return lines


def load_note() -> str:
    """Return a note when other programs use the cores, which makes times longer and ratios less certain."""
    try:
        load = os.getloadavg()[0]
    except OSError:
        return ""
    if load <= MACHINE_BUSY * (os.cpu_count() or 1):
        return ""
    return f"the load was {load:.1f} on {os.cpu_count()} cores before the start: other work is going on"


def write(path: Path | None, results: Any) -> None:
    """Keep the results as JSON, when a path is given."""
    if path is not None:
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"written to {path}")
