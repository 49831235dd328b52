"""How a run starts: fresh, resumed from its own newest checkpoint, or from the checkpoint of another model.

The start is resolved once, under the lock of the run folder, and passed down. Not here: the model that a run starts
from, and changes to that model (`pretraining.warm_start`, `finetuning.model_setup`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from blankfill.errors import UserError
from blankfill.runs.folder import newest_whole
from blankfill.runs.inputs import Note, read_notes
from blankfill.system.environment import usable_memory
from blankfill.system.marks import checksum

if TYPE_CHECKING:
    import torch

    from blankfill.checkpoint.store import Checkpoint
    from blankfill.training.machine import Machine
    from blankfill.training.progress import Progress

Kind = Literal["fresh", "resumed", "from checkpoint"]


@dataclass
class Start:
    """The start of a run.

    kind: a resumed run continues from its own checkpoint, or from the beginning if it ended before its first
    checkpoint. checkpoint: the run's own newest complete one, until `restore` has loaded it. notes: records of the
    run's inputs. changes: options of `training.machine.CHANGEABLE` that the user changed. free_memory: free bytes of
    main memory before the checkpoint was read, since its pages count as used. finished: the progress of a run whose
    steps are all done; nothing else of such a run is read.
    """

    kind: Kind
    checkpoint: Checkpoint | None = None
    notes: Sequence[Note] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    free_memory: int = 0
    finished: Progress | None = None

    def __post_init__(self) -> None:
        self.trained = self.checkpoint is not None
        """Whether the run has a checkpoint of its own."""

    @property
    def resumed(self) -> bool:
        """Whether the run started before."""
        return self.kind == "resumed"

    @property
    def machine(self) -> Machine | None:
        """The properties of the machine that wrote the checkpoint, as stored in it."""
        from blankfill.training.machine import NOTED, machine_from

        return machine_from(self.checkpoint.state.get(NOTED)) if self.checkpoint else None

    def restore(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Load the run's checkpoint into the model and the optimiser, and free its tensors.

        Args:
            model: The model, with weights of any kind.
            optimizer: The optimiser of its weights.

        Returns:
            The progress of the checkpoint, or the initial progress without a checkpoint.

        Raises:
            UserError: The checkpoint is of another model, or has no progress.
        """
        from blankfill.training.progress import Progress

        if self.checkpoint is None:
            return Progress()
        done = restore(self.checkpoint, model, optimizer)
        self.checkpoint = None
        if "micro_batch" in self.changes:
            done.parts = 1
        return done


def resolve_start(
    out: Path,
    resume: bool,
    changes: Mapping[str, Any] | None = None,
    from_checkpoint: bool = False,
    steps: int | None = None,
) -> Start:
    """Determine how a run starts; messages name skipped checkpoints.

    Args:
        out: The run folder, locked.
        resume: Whether to resume the run in it.
        changes: For a resumed run, changed machine options.
        from_checkpoint: For a new run, whether it starts from the weights of another model.
        steps: Number of steps of the whole run, to recognise a finished run; None reads the checkpoint in any case.

    Raises:
        UserError: The run had checkpoints, and none of them is complete.
    """
    if not resume:
        return Start("from checkpoint" if from_checkpoint else "fresh", changes=changes or {})
    if steps is not None and (done := finished_progress(out, steps)) is not None:
        return Start("resumed", None, read_notes(out), changes or {}, finished=done)
    free = usable_memory()
    checkpoint = newest_whole(out)
    return Start("resumed", checkpoint, read_notes(out), changes or {}, free)


def finished_progress(out: Path, steps: int) -> Progress | None:
    """Return the progress of a run whose newest checkpoint is complete and has all steps; None for any other run.

    The checkpoint's files are compared with their checksums; tensors are not read.
    """
    from blankfill.checkpoint import store
    from blankfill.training.progress import Progress

    newest = max(store.steps_in(out / "checkpoints"), default=-1)
    if newest < steps:
        return None
    path = out / "checkpoints" / f"step-{newest}"
    try:
        state, sums = store.read_state(path)
        done = Progress.from_state(state.get("progress"), f"{path / store.STATE}: `progress`")
        whole = all(checksum(path / name) == noted for name, noted in sums.items())
    except (UserError, OSError):
        return None
    return done if whole and done.step >= steps else None


def restore(checkpoint: Checkpoint, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Load a checkpoint's tensors into the model and the optimiser; returns its progress.

    Raises UserError when the checkpoint does not fit, or has no progress.
    """
    from blankfill.checkpoint import store
    from blankfill.training.progress import Progress

    done = Progress.from_state(checkpoint.state.get("progress"), f"{checkpoint.path / store.STATE}: `progress`")
    store.put_weights(model, checkpoint.model, checkpoint.path, partial=checkpoint.partial)
    store.restore_optimizer(optimizer, checkpoint.optimizer)
    return done
