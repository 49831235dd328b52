"""The batches of a run, step by step, made in the background.

Arithmetic gives the rows of a step (`data.rows`); they are split into micro-batches, and each rank takes its share. A
background thread (or worker processes) prepares a few steps in advance; the batches do not depend on the number.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch.utils.data

from blankfill.data.batching import AHEAD, collate, prefetch
from blankfill.data.interleave import Interleaved
from blankfill.data.rows import RowSchedule
from blankfill.data.sampler import Sampler
from blankfill.errors import UserError, setting
from blankfill.types import Batch

TENSORS = 16
"""Upper limit of the number of tensors in a batch."""
MOST_PARTS = 16
"""Number of micro-batches of a step for which files are reserved."""
OWN_FILES = 64
"""Number of other open files of a run."""


@dataclass(frozen=True)
class Phase:
    """A phase of a run with rows of one kind. start: its first step; micro: largest number of rows of a micro-batch."""

    start: int
    sampler: Sampler | Interleaved
    micro: int


class Steps(torch.utils.data.Dataset[list[Batch]]):
    """The micro-batches of each step. phases: in order, the first from step 0."""

    def __init__(self, phases: Sequence[Phase], schedule: RowSchedule, rank: int = 0, ranks: int = 1) -> None:
        self.phases = phases
        self.schedule = schedule
        self.rank = rank
        self.ranks = ranks

    def phase(self, step: int) -> Phase:
        """Return the phase of a step."""
        return self.phases[bisect_right([phase.start for phase in self.phases], step) - 1]

    def __getitem__(self, step: int) -> list[Batch]:
        phase, rows = self.phase(step), self.schedule.rows(step)
        share = rows[self.rank :: self.ranks]
        pad = phase.sampler.vocabulary["pad"]
        return [
            collate([phase.sampler.row(i) for i in share[k : k + phase.micro]], pad)
            for k in range(0, len(share), phase.micro)
        ]


class _ErrorsAsValues(torch.utils.data.Dataset[list[Batch] | UserError]):
    """Passes a UserError on as a value: DataLoader would add a worker's traceback to its sentence."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def __getitem__(self, step: int) -> list[Batch] | UserError:
        try:
            return self.steps[step]
        except UserError as error:
            return error


def allow_files(workers: int, ahead: int) -> None:
    """Raise the limit of open files to what batches from worker processes need, one for each tensor in transit.

    Raises UserError when the system allows too few: a worker that cannot open a file reports nothing, and the run would
    wait for its batch for ever.
    """
    try:
        import resource
    except ImportError:  # Windows passes tensors in another way
        return
    least, wanted = OWN_FILES + workers * TENSORS, OWN_FILES + workers * ahead * MOST_PARTS * TENSORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < wanted:
        soft = wanted if hard == unlimited else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft != unlimited and soft < least:
        raise UserError(
            f"this process may have {soft} files open, and {workers} workers need {least}; allow more (ulimit -n 1024) "
            f"or set {setting('train.workers')} to 0"
        )


def load(
    steps: Steps, first: int, stop: int, workers: int = 0, ahead: int = AHEAD
) -> Generator[tuple[int, list[Batch]], None, None]:
    """Yield (step, its micro-batches) for first ≤ step < stop, a few prepared ahead.

    workers: processes that prepare them; 0 uses a thread of this process. An error in preparing a step is raised here.
    """
    if workers:
        allow_files(workers, max(2, ahead // workers))
        loader = torch.utils.data.DataLoader(
            _ErrorsAsValues(steps),
            batch_size=None,
            sampler=range(first, stop),
            num_workers=workers,
            prefetch_factor=max(2, ahead // workers),
            persistent_workers=False,
            # torch's workers end when their parent is killed; a fork server in between would keep them alive for ever
            multiprocessing_context="fork" if sys.platform == "linux" else None,
        )
        try:
            for step, batches in zip(range(first, stop), loader, strict=True):
                if isinstance(batches, UserError):
                    raise batches
                yield step, batches
        except Exception as error:
            # Its frames here hold the loader, whose workers would then be waited for at exit; those of the worker,
            # which matter, are in the message.
            raise error.with_traceback(None) from None
        return
    yield from prefetch(((step, steps[step]) for step in range(first, stop)), ahead)
