"""The folder of a run of whatever kind: one process's own while it lasts, its small files, checkpoints and report.

Shared by pretraining (`blankfill.run`) and fine-tuning (`blankfill.finetune`), which put different things into it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.console import say
from blankfill.errors import UserError
from blankfill.system.stopping import Stop

if TYPE_CHECKING:
    from blankfill.checkpoint.store import Checkpoint
    from blankfill.train.progress import Progress

LOCK = ".lock"


@contextmanager
def run_folder(out: Path, resume: bool) -> Iterator[None]:
    """A run's folder, this process's own while it lasts; one that was made for a run which is refused goes again."""
    new = not out.exists()
    prepare_folder(out, resume)
    try:
        with only_run(out):
            yield
    except UserError:
        if new and [path.name for path in out.iterdir()] == [LOCK]:
            shutil.rmtree(out, ignore_errors=True)
        raise


def prepare_folder(out: Path, resume: bool) -> None:
    """Make the run folder; UserError when it holds a run already or cannot be written."""
    if not resume and ((out / "recipe.yaml").exists() or (out / "checkpoints").exists()):
        raise UserError(f"{out} holds a run already; go on with --resume {out}, or give another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / ".writable", "")
        (out / ".writable").unlink()
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); give another --out") from error


@contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Keep a second process from training into the same folder; the lock ends with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        yield
        return
    with open(out / LOCK, "w", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited by loader processes
        except (BlockingIOError, PermissionError) as error:
            raise UserError(f"{out}: another process is training there; wait for it or give another --out") from error
        except OSError:  # a file system without locks
            pass
        yield


def write_text(path: Path, text: str) -> None:
    """Write a small file whole: a temporary name, then a rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def note_facts(out: Path, noted: Mapping[str, Any], resumed: bool) -> None:
    """Write facts to a run's `run.json`, over those that a resumed run has there."""
    path = out / "run.json"
    before = json.loads(path.read_text(encoding="utf-8")) if resumed and path.exists() else {}
    write_text(path, json.dumps({**before, **noted}, indent=1, ensure_ascii=False) + "\n")


def note_step(out: Path, done: Progress, stop: Stop | None = None) -> None:
    """Note in `run.json` how far a run is, and why it ended before its last step, if it did.

    The lines of metrics tell the same only every `log_every` steps.
    """
    note_facts(out, {"step": done.step, "tokens": done.tokens, "stopped": stop.value if stop else None}, True)


def renew_report(out: Path) -> None:
    """Write `report.html` as the run is now; one that cannot be written does not end the run."""
    from blankfill.report.page import write_page

    try:
        write_page(out)
    except UserError as error:
        say(str(error))


def newest_whole(out: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run, None when there is none yet; damaged ones are named and passed over."""
    from blankfill.checkpoint import store

    damaged: list[str] = []
    checkpoint = store.newest(out / "checkpoints", damaged=damaged)
    for sentence in damaged:
        say(f"passed over: {sentence}")
    if checkpoint is None:
        if damaged:
            raise UserError(f"{out}: none of its checkpoints is whole; train it again, into another --out")
        say(f"{out} has no checkpoint yet; starting from the beginning")
    return checkpoint


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM append to, so that a run ends after its step; a second SIGINT interrupts."""
    caught: list[int] = []
    own = os.getpid()

    def handle(number: int, frame: object) -> None:
        if os.getpid() != own:  # a loader process: it gets the terminal's signals too, and the run decides
            return
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)
        say("stopping after this step; the run can be resumed")

    try:
        old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the caller handles its own signals
        yield caught
        return
    try:
        yield caught
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
