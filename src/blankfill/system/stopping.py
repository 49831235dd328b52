"""Why work ended before it was done, and the exit code that tells a shell so.

A shell, `make` and a queue's script decide by the exit code whether they go on. Work that was stopped ends with 128 +
the number of the signal, as every shell understands it; a run whose time was up ends with 75, which <sysexits.h> calls
EX_TEMPFAIL: try again. Not here: what a run does when it is stopped (`run_folder`, `training.loop`).
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
    """Why work ended early; the values are what files say."""

    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"
    TIME = "time is up"

    @property
    def exit_code(self) -> int:
        """What the command line ends with."""
        if self is Stop.TIME:
            return TIME_IS_UP
        return 128 + (signal.SIGINT if self is Stop.INTERRUPTED else signal.SIGTERM)


def reason(signals: Sequence[int]) -> Stop | None:
    """The reason that caught signals are, None when there are none."""
    if not signals:
        return None
    return Stop.INTERRUPTED if signals[0] == signal.SIGINT else Stop.TERMINATED


class StoppedError(Exception):
    """Several runs that end early, since one of them was stopped; what is done is saved."""

    def __init__(self, why: Stop, message: str) -> None:
        super().__init__(message)
        self.why = why

    def __reduce__(self) -> tuple[type[StoppedError], tuple[Stop, str]]:
        return (type(self), (self.why, str(self)))


class Terminated(KeyboardInterrupt):
    """SIGTERM met work that handles no signals itself; like an interruption, it passes through everything."""


@contextmanager
def termination_raises() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` in the block, so that half-made files are cleared away before the process ends.

    A handler of the caller's own, and a signal that is ignored, stay as they are; so does everything off the main
    thread, where Python sets no handlers.
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
