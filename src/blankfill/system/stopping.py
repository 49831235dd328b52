"""Reasons for which work ends early, and the exit codes that report them.

A shell, `make` and the script of a queue decide by the exit code whether to continue. Work that was stopped exits with
128 + the number of the signal, as usual in shells; a run that reached its time limit exits with 75, which <sysexits.h>
calls EX_TEMPFAIL: try again. Not here: what a run does when it is stopped (`training.loop`).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from types import FrameType

TIME_IS_UP = 75
"""EX_TEMPFAIL of <sysexits.h>; `os.EX_TEMPFAIL` is not there on Windows."""


class Stop(Enum):
    """Reason for which work ended early; the values are those in files."""

    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"
    TIME = "time is up"

    @property
    def exit_code(self) -> int:
        """Exit code of the command line."""
        if self is Stop.TIME:
            return TIME_IS_UP
        return 128 + (signal.SIGINT if self is Stop.INTERRUPTED else signal.SIGTERM)


def reason(signals: Sequence[int]) -> Stop | None:
    """Return the reason for these caught signals, None without signals."""
    if not signals:
        return None
    return Stop.INTERRUPTED if signals[0] == signal.SIGINT else Stop.TERMINATED


class StoppedError(Exception):
    """Several runs end early, since one of them was stopped; finished work is saved."""

    def __init__(self, why: Stop, message: str) -> None:
        super().__init__(message)
        self.why = why

    def __reduce__(self) -> tuple[type[StoppedError], tuple[Stop, str]]:
        return (type(self), (self.why, str(self)))


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived in work that does not handle signals; like KeyboardInterrupt, it passes through everything."""


@contextmanager
def termination_raises() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` in the block, so that half-made files are cleared away before the process ends.

    A handler of the caller, and an ignored signal, are left unchanged; so is everything off the main thread, where
    Python sets no handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
