"""Where a run's numbers go: `metrics.jsonl`, TensorBoard, and a progress bar.

One JSON object a line, each with at least step, split, loss, lr, tokens, tokens_per_s. A resumed run drops the lines
after its checkpoint, so that no step stands twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from blankfill.console import Bar
from blankfill.train.loop import Metrics


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a half-written last line is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


class RunRecorder:
    """Writes metrics under a run folder and moves a progress bar.

    step: the step from which the run goes on; later lines of an earlier try are dropped.
    """

    def __init__(self, folder: Path, bar: Bar, step: int = 0) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.path = folder / "metrics.jsonl"
        self.bar = bar
        self.step = step
        kept = [line for line in read_metrics(self.path) if step and line["step"] <= step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        temporary.replace(self.path)
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed in __exit__
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        self.shown: dict[str, float] = {}

    def __enter__(self) -> RunRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self.board.close()

    def record(self, metrics: Metrics) -> None:
        """Take one line of metrics."""
        self.file.write(json.dumps(metrics) + "\n")
        self.file.flush()
        split, step = str(metrics["split"]), int(metrics["step"])
        for name, value in metrics.items():
            if name not in ("step", "split") and not isinstance(value, str):
                self.board.add_scalar(f"{name}/{split}", value, step)
        if split == "valid":
            self.bar.set(valid_loss=float(metrics["loss"]))

    def advance(self, step: int, fields: Metrics) -> None:
        """Take note that `step` steps are done."""
        self.bar.advance(
            step - self.step, loss=float(fields["loss"]), tokens_per_s=round(float(fields["tokens_per_s"]))
        )
        self.step = step
