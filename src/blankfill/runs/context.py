"""The context of one process of a run: folder, device, compute type, threads, rank, and recorder.

It is opened once, when the run's folder is locked and its start is known, and passed down. Pretraining and fine-tuning
share it. Not here: how a run starts (`runs.start`), and its training (`pretraining`, `finetuning`).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from blankfill.runs.folder import note_failure, note_machine
from blankfill.runs.recorder import RunRecorder
from blankfill.runs.start import Start
from blankfill.system.console import progress as progress_bar
from blankfill.system.console import say
from blankfill.system.stopping import Stop, reason
from blankfill.training.agree import ALONE, Group

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from blankfill.training.machine import Conditions, Machine, MachineOptions
    from blankfill.training.progress import Progress

T = TypeVar("T")


class RunContext:
    """One process of a run.

    folder: the run folder, locked by this process. conditions: device, types and threads. group: the processes that
    train together. stop_at: time (`time.monotonic`) at which the run saves and ends.
    """

    recorder: RunRecorder
    """The recorder of numbers and events, available after `record`."""

    def __init__(
        self, folder: Path, conditions: Conditions, group: Group = ALONE, stop_at: float | None = None
    ) -> None:
        self.folder, self.conditions, self.group, self.stop_at = folder, conditions, group, stop_at
        self._signals: Sequence[int] = ()
        self._stack = ExitStack()

    def __enter__(self) -> RunContext:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]
        if error[0] is not None and self.rank == 0 and hasattr(self, "recorder"):  # a refused run stays as it was
            note_failure(self.folder)

    @property
    def machine(self) -> Machine:
        """The properties of the machine that change the last bits of numbers."""
        return self.conditions.machine

    @property
    def device(self) -> torch.device:
        """The device of the run."""
        return self.conditions.device

    @property
    def dtype(self) -> torch.dtype:
        """The compute type."""
        return self.conditions.dtype

    @property
    def threads(self) -> int:
        """The number of CPU threads."""
        return self.machine.threads

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return self.group.rank

    @property
    def world_size(self) -> int:
        """The number of processes that train together."""
        return self.group.world_size

    def enter(self, manager: AbstractContextManager[T]) -> T:
        """Enter a context that ends with the run."""
        return self._stack.enter_context(manager)

    def record(self, what: str, steps: int, step: int) -> RunRecorder:
        """Start to handle signals and to record; returns the recorder.

        Args:
            what: Name of the progress bar, such as "training".
            steps: Number of steps of the whole run.
            step: Number of steps done; later lines in the files of the run are dropped.
        """
        self._signals = self.enter(stop_signals())
        bar = self.enter(progress_bar(what, steps, "steps", step))
        self.recorder = self.enter(RunRecorder(self.folder, bar, step))
        return self.recorder

    def note_conditions(self, done: Progress) -> None:
        """Record the remarks on the machine, and write `machine.json`."""
        for remark in self.conditions.remarks:
            self.recorder.event(done.step, "machine", remark)
        note_machine(self.folder, self.machine)

    def watch(self) -> Callable[[int, float, int], bool]:
        """Return the `pace` of a trainer: it halves the threads when steps have become far slower, and records it."""

        def changed(step: int, kind: str, text: str) -> None:
            self.recorder.event(step, kind, text)
            note_machine(self.folder, self.machine)

        return self.conditions.watch(changed)

    def should_stop(self) -> bool:
        """Return whether a signal has come, or the time of the run is up."""
        return bool(self._signals) or (self.stop_at is not None and time.monotonic() > self.stop_at)

    def stop_reason(self, stopped: bool) -> Stop | None:
        """Return what stopped the run: a signal, even one after the last step; else the time, if `stopped`."""
        return reason(self._signals) or (Stop.TIME if stopped else None)


def open_context(
    out: Path,
    start: Start,
    options: MachineOptions,
    stop_at: float | None = None,
    shared: Machine | None = None,
    group: Group = ALONE,
) -> RunContext:
    """Settle what a run computes with, and let torch compute so.

    Args:
        out: The run folder, locked.
        start: How the run starts; a resumed run keeps to what its checkpoint notes.
        options: The options that the machine is chosen by.
        stop_at: The time (`time.monotonic`) at which the run saves and ends.
        shared: For a run among several, what all of them compute with where their options leave it free.
        group: The processes that train together.

    Raises:
        UserError: The device is not there.
    """
    from blankfill.system.allocator import keep_freed_memory
    from blankfill.training.machine import settle, settle_again

    if start.checkpoint is None:
        conditions = settle(options, shared, group)
    else:
        conditions = settle_again(options, start.machine, start.changes, group)
    conditions.begin()
    keep_freed_memory()
    return RunContext(out, conditions, group, stop_at)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield a list to which SIGINT and SIGTERM are appended, so that a run ends after its step; a second SIGINT
    interrupts."""
    caught: list[int] = []
    own = os.getpid()

    def handle(number: int, frame: object) -> None:
        if os.getpid() != own:  # a loader process gets the terminal's signals too, and the run decides for it
            return
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)
        say("stopping after this step; the run can be resumed")

    try:
        old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # outside the main thread, the caller handles its own signals
        yield caught
        return
    try:
        yield caught
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
