"""Where a run's numbers go: `metrics.jsonl`, `events.jsonl`, TensorBoard, and a progress bar.

One JSON object a line; those of the metrics have at least step, split, loss, lr, tokens, tokens_per_s. A resumed run
drops the lines after its checkpoint, so that no step stands twice; events stay, since they did happen.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from blankfill.console import Bar, say
from blankfill.train.loop import Metrics


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, none when it does not exist; a half-written last line is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            found.append(json.loads(line))
        except ValueError:
            if line:
                break
    return found


def cut_lines(path: Path, step: int) -> None:
    """Drop the lines of a file after `step`."""
    kept = [line for line in read_lines(path) if line["step"] <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept), encoding="utf-8")
    temporary.replace(path)


class RunRecorder:
    """Writes metrics under a run folder and moves a progress bar.

    step: the step from which the run goes on; later lines of an earlier try are dropped.
    """

    def __init__(self, folder: Path, bar: Bar, step: int = 0) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.path = folder / "metrics.jsonl"
        self.bar = bar
        self.step = step
        self.samples = folder / "samples.jsonl"
        self.events = folder / "events.jsonl"
        self.file = self.path.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        if step == 0:
            self.events.unlink(missing_ok=True)
            self.samples.unlink(missing_ok=True)
        self._cut(step)

    def _cut(self, step: int) -> None:
        self.file.close()
        cut_lines(self.path, step or -1)  # step 0 is validated again
        cut_lines(self.samples, step)
        self.file = self.path.open("a", encoding="utf-8")

    def rewind(self, step: int) -> None:
        """Go back to a step: what was recorded after it is dropped."""
        self._cut(step)
        self.bar.advance(step - self.step)
        self.step = step

    def __enter__(self) -> RunRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self.board.close()

    def record(self, metrics: Metrics) -> None:
        """Take one line of metrics."""
        plain = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in metrics.items()
        }
        self.file.write(json.dumps(plain) + "\n")
        self.file.flush()
        split, step = str(metrics["split"]), int(metrics["step"])
        for name, value in metrics.items():
            if name not in ("step", "split") and not isinstance(value, str):
                self.board.add_scalar(f"{name}/{split}", value, step)
        if split == "valid":
            self.bar.set(valid_loss=float(metrics["loss"]))

    def event(self, step: int, kind: str, text: str) -> None:
        """Take note of something that a user should know of, and say it."""
        say(text)
        line = {"step": step, "kind": kind, "text": text, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        with open(self.events, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.board.add_text(f"event/{kind}", text, step)

    def sample(self, step: int, lines: list[dict[str, Any]]) -> None:
        """Take the samples of a step: fills and continuations, as `generate.samples` makes them."""
        with open(self.samples, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        shown = [
            f"{line['text']} → {', '.join(line['fills'])}" if "text" in line else line["prompt"] + line["continuation"]
            for line in lines
        ]
        if shown:
            self.board.add_text("samples", "\n\n".join(shown), step)

    def advance(self, step: int, fields: Metrics) -> None:
        """Take note that `step` steps are done."""
        self.bar.advance(
            step - self.step, loss=float(fields["loss"]), tokens_per_s=round(float(fields["tokens_per_s"]))
        )
        self.step = step
