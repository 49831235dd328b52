"""How runs start and what they run in: resolved once, shared by pretraining and fine-tuning."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from blankfill.checkpoint import store
from blankfill.errors import UserError
from blankfill.runs.context import open_context
from blankfill.runs.start import finished_progress, resolve_start
from blankfill.system.stopping import Stop
from blankfill.training.agree import Decision
from blankfill.training.machine import NOTED
from blankfill.training.options import TrainOptions
from blankfill.training.progress import Progress

OPTIONS = TrainOptions(device="cpu", threads=1, precision="fp32")


class Second:
    """The second of two processes."""

    rank, world_size = 1, 2

    def gather(self, decision: Decision, value: Any) -> Sequence[Any]:
        return [value, value]


def saved(out: Path, step: int, **state: Any) -> None:
    """A checkpoint of a small layer."""
    weights = torch.nn.Linear(2, 2).state_dict()
    progress = Progress(step=step, tokens=7 * step, parts=2).state()
    store.save(out / "checkpoints", step, weights, {}, {"progress": progress, **state})


def test_the_three_ways_to_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fresh, from_model = resolve_start(tmp_path, False), resolve_start(tmp_path, False, from_checkpoint=True)
    assert (fresh.kind, from_model.kind) == ("fresh", "from checkpoint")
    assert not fresh.resumed and fresh.restore(torch.nn.Linear(2, 2), torch.optim.SGD([torch.zeros(1)])) == Progress()
    early = resolve_start(tmp_path, True)
    assert early.resumed and not early.trained and "no checkpoint yet" in capsys.readouterr().err
    saved(tmp_path, 3)
    resumed = resolve_start(tmp_path, True, {"micro_batch": 2})
    model = torch.nn.Linear(2, 2)
    assert resumed.kind == "resumed" and resumed.trained and resumed.checkpoint is not None
    expected = resumed.checkpoint.model["weight"]
    done = resumed.restore(model, torch.optim.SGD(model.named_parameters()))
    assert (done.step, done.tokens, done.parts) == (3, 21, 1)  # rows at a time were chosen anew
    assert torch.equal(model.weight, expected) and resumed.checkpoint is None and resumed.trained


def test_a_finished_run_is_one_whose_whole_newest_checkpoint_has_all_steps(tmp_path: Path) -> None:
    assert finished_progress(tmp_path, 4) is None
    saved(tmp_path, 3)
    assert finished_progress(tmp_path, 4) is None
    progress = finished_progress(tmp_path, 3)
    assert progress is not None and progress.tokens == 21
    start = resolve_start(tmp_path, True, steps=3)
    assert start.finished == progress and start.checkpoint is None
    assert resolve_start(tmp_path, True, steps=4).finished is None
    weights = tmp_path / "checkpoints" / "step-3" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert finished_progress(tmp_path, 3) is None
    with pytest.raises(UserError, match="none of its checkpoints is whole"):
        resolve_start(tmp_path, True, steps=3)


def test_a_context_says_where_and_among_whom_a_run_computes(tmp_path: Path) -> None:
    with open_context(tmp_path, resolve_start(tmp_path, False), OPTIONS, group=Second()) as context:
        assert (context.rank, context.world_size, context.threads) == (1, 2, 1)
        assert (context.device, context.dtype) == (torch.device("cpu"), torch.float32)
    with open_context(tmp_path, resolve_start(tmp_path, False), OPTIONS) as alone:
        assert (alone.rank, alone.world_size) == (0, 1)
    noted = alone.machine.values()
    saved(tmp_path, 1, **{NOTED: {**noted, "threads": 3}})
    options = TrainOptions(device="cpu", precision="fp32")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            patch.delenv(name, raising=False)
        with open_context(tmp_path, resolve_start(tmp_path, True), options) as context:
            assert context.threads == 3  # those of the checkpoint


def test_signals_and_time_stop_a_run(tmp_path: Path) -> None:
    start = resolve_start(tmp_path, False)
    with open_context(tmp_path, start, OPTIONS, stop_at=time.monotonic() - 1) as context:
        assert context.should_stop() and context.stop_reason(True) is Stop.TIME and context.stop_reason(False) is None
    with open_context(tmp_path, start, OPTIONS, stop_at=time.monotonic() + 3600) as context:
        context.record("training", 4, 0)
        assert not context.should_stop()
        signal.raise_signal(signal.SIGTERM)
        assert context.should_stop() and context.stop_reason(False) is Stop.TERMINATED
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
