"""Recording a run's numbers: `metrics.jsonl`, `events.jsonl`, `samples.jsonl`, TensorBoard, and a progress bar.

Each line is a JSON object; those of the metrics have at least step and split, and where a loss was measured also loss,
lr, tokens and tokens_per_s. A resumed run drops the lines after its checkpoint, so that no step occurs twice; events
stay, since they did happen.

These files are for readers, so an error in them does not end a run: when a run is resumed, damaged lines are skipped
and counted, and the original file is renamed to `NAME.damaged`; a file that cannot be written is reported once.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from blankfill.errors import UserError, in_keys
from blankfill.system.console import Bar, say
from blankfill.system.files import write_file
from blankfill.system.reading import UnreadableError, read_json_lines

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

    from blankfill.training.loop import Metrics

MOST_ASIDE = 100
"""Largest number of damaged versions of one file; later ones replace the last."""


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a file of JSON lines for readers; none when it is missing or cannot be read."""
    try:
        return read_json_lines(path)[0]
    except UserError:
        return []


def has_step(line: dict[str, Any]) -> bool:
    """Return whether a line has its step."""
    step = line.get("step")
    return isinstance(step, int) and not isinstance(step, bool)


def of_step(path: Path, step: int) -> list[dict[str, Any]]:
    """Return the lines of a file with a step."""
    return [line for line in read_lines(path) if has_step(line) and line["step"] == step]


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that its content is preserved; returns its new name. Raises OSError."""
    names = [path.with_name(f"{path.name}.damaged{f'-{k}' if k > 1 else ''}") for k in range(1, MOST_ASIDE + 1)]
    aside = next((name for name in names if not (name.exists() or name.is_symlink())), names[-1])
    path.rename(aside)
    return aside


def cut_lines(path: Path, step: int) -> None:
    """Remove the lines of a file after `step`, and damaged lines, whose file is preserved. Raises DiskError."""
    try:
        lines, bad = read_json_lines(path)
        numbered = [line for line in lines if has_step(line)]
        bad += len(lines) - len(numbered)
        damage = f"{bad} damaged lines" if bad > 1 else "a damaged line"
    except UnreadableError as error:  # not a regular file
        numbered, bad, damage = [], 1, str(error)
    lines_kept = [line for line in numbered if line["step"] <= step]
    if bad:
        try:
            aside = set_aside(path)
        except OSError as error:
            say(f"{path}: {damage}; it could not be put aside ({error.strerror or error})")
            return
        say(f"{path}: {damage}, skipped; the original file is now {aside.name}")
    write_file(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines_kept))


class RunRecorder:
    """Writes metrics to a run folder and updates a progress bar.

    step: the step from which the run continues; later lines are dropped.
    """

    def __init__(self, folder: Path, bar: Bar, step: int = 0) -> None:
        self.path = folder / "metrics.jsonl"
        self.bar = bar
        self.step = step
        self.samples = folder / "samples.jsonl"
        self.events = folder / "events.jsonl"
        self.board = self._board(folder / "tensorboard")
        self._failed: set[Path] = set()
        if step == 0:
            for path in (self.events, self.samples):
                self._try(path, path.unlink, missing_ok=True)
        self._cut(step)

    def _board(self, folder: Path) -> SummaryWriter | None:
        from torch.utils.tensorboard.writer import SummaryWriter

        try:
            return SummaryWriter(str(folder), purge_step=self.step)
        except OSError as error:
            say(f"{folder}: nothing is recorded for TensorBoard ({error.strerror or error})")
            return None

    def _try(self, path: Path, action: Callable[..., object], *args: Any, **options: Any) -> None:
        """Call a function on a file for readers; a failure is reported once for each file, and the run continues."""
        try:
            action(*args, **options)
        except (OSError, UserError) as error:
            if path not in self._failed:
                reason = error.strerror or error if isinstance(error, OSError) else error
                say(f"{path}: cannot be written ({reason}); the run continues without it")
            self._failed.add(path)

    def _append(self, path: Path, lines: Sequence[dict[str, Any]]) -> None:
        def write() -> None:
            if path not in self._failed:
                with open(path, "a", encoding="utf-8", newline="\n") as file:
                    file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

        self._try(path, write)

    def _cut(self, step: int) -> None:
        self._try(self.path, cut_lines, self.path, step or -1)  # step 0 is validated again
        self._try(self.samples, cut_lines, self.samples, step)
        self._try(self.events, cut_lines, self.events, sys.maxsize)

    def rewind(self, step: int) -> None:
        """Return to a step: records after it are dropped."""
        self._cut(step)
        self.bar.advance(step - self.step)
        self.step = step

    def __enter__(self) -> RunRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.board is not None:
            self.board.close()

    def record(self, metrics: Metrics) -> None:
        """Record one line of metrics."""
        plain = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in metrics.items()
        }
        self._append(self.path, [plain])
        split, step = str(metrics["split"]), int(metrics["step"])
        for name, value in metrics.items():
            if self.board is not None and name not in ("step", "split") and not isinstance(value, str):
                self.board.add_scalar(f"{name}/{split}", value, step)
        if split == "valid":
            self.bar.set(valid_loss=float(metrics["loss"]))

    def event(self, step: int, kind: str, text: str) -> None:
        """Record an event that a user should know about, and print it."""
        say(text)
        text = in_keys(text)
        line = {"step": step, "kind": kind, "text": text, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        self._append(self.events, [line])
        if self.board is not None:
            self.board.add_text(f"event/{kind}", text, step)

    def sample(self, step: int, lines: list[dict[str, Any]]) -> None:
        """Record the samples of a step: fills and continuations from `generation.samples`."""
        self._append(self.samples, lines)
        shown = [
            f"{line['text']} → {', '.join(line['fills'])}" if "text" in line else line["prompt"] + line["continuation"]
            for line in lines
        ]
        if shown and self.board is not None:
            self.board.add_text("samples", "\n\n".join(shown), step)

    def advance(self, step: int, fields: Metrics) -> None:
        """Record that `step` steps are done."""
        self.bar.advance(
            step - self.step, loss=float(fields["loss"]), tokens_per_s=round(float(fields["tokens_per_s"]))
        )
        self.step = step
