"""The folder of a run of any kind: its lock, its small files, checkpoints and report.

Pretraining (`blankfill.pretraining.run`) and fine-tuning (`blankfill.finetuning.run`) share it and add files of their
own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.errors import UserError, setting
from blankfill.system import files
from blankfill.system.console import quoted, say
from blankfill.system.reading import UnreadableError, read_json, read_path
from blankfill.system.stopping import Stop

if TYPE_CHECKING:
    from blankfill.checkpoint.store import Checkpoint
    from blankfill.training.machine import Machine
    from blankfill.training.progress import Progress

LOCK = ".lock"
CORPUS = "corpus_path.txt"
"""File with the path of the token files."""
WORK = ("checkpoints", "corpus", "replay", "tensorboard")
"""Folders that only runs write to."""
APPENDED = (LOCK, "metrics.jsonl", "events.jsonl", "samples.jsonl")
"""Files that are opened in place; all others are replaced."""

OTHERS = {
    "corpus.json": "a prepared corpus",
    "model.safetensors": "a model",
    "pytorch_model.bin": "a model",
    "results.json": "the results of several runs",
}
"""Files whose presence refuses a new run: it would replace them, or they would no longer match."""
INFORMING = (*APPENDED[1:], "run.json", "machine.json", "report.html", "loss.png")
"""Files for readers only; no run reads them."""


@contextmanager
def run_folder(out: Path, resume: bool) -> Iterator[None]:
    """Lock the folder of a run while it lasts; a folder that was made for a run that cannot start is removed."""
    new = not out.exists()
    prepare_folder(out, resume)
    try:
        with only_run(out), files.disk_errors(out, only=files.FULL):
            yield
    except UserError:
        if new and [path.name for path in out.iterdir()] == [LOCK]:
            files.remove(out)
        raise


def prepare_folder(out: Path, resume: bool) -> None:
    """Make the run folder; UserError when it holds a run already or cannot be written."""
    if not resume:
        if (out / "recipe.yaml").exists() or (out / "checkpoints").exists():
            raise UserError(
                f"{out} holds a run already; resume it with {setting('resume', True, f'resume {quoted(out)}')}, "
                f"or give another {setting('out')}"
            )
        for name, what in OTHERS.items():
            if (out / name).exists():
                raise UserError(
                    f"{out} holds {what} ({name}), which the run would damage; give another {setting('out')}"
                )
    with files.disk_errors(out, f"give another {setting('out')}"):
        files.make_folder(out)
        for name in (*WORK, *APPENDED):
            files.refuse_link(out / name)
        clear_of_pipes(out)
        files.remove_parts(out)
        files.write_file(out / ".writable", "", f"give another {setting('out')}")
        (out / ".writable").unlink()


def clear_of_pipes(out: Path) -> None:
    """Raise UserError when a pipe, a device or a socket is in a run folder, where a write would block for ever.

    In place of a file for readers it is renamed.
    """
    for path in sorted(out.iterdir()):
        before, damaged, _ = path.name.partition(".damaged")
        if not files.is_special(path) or (damaged and before in INFORMING):  # a file renamed earlier stays
            continue
        if path.name not in INFORMING:
            raise UserError(f"{path} is no file, but a pipe, a device or a socket, and a run writes there; remove it")
        keep_aside(path, UserError(f"{path} is no file, but a pipe, a device or a socket"))


def refuse_sources(out: Path, paths: Sequence[str | Path]) -> None:
    """Raise UserError when a run's folder is one of its sources, before anything is written.

    paths: text sources or folders of data; names that are no paths, such as `python-docs`, are ignored.
    """
    target = out.resolve()
    for path in map(Path, paths):
        if path.exists() and target in (path.resolve(), *([path.resolve().parent] if path.is_file() else [])):
            raise UserError(f"{out} is the folder of {path}, which the run reads; give another {setting('out')}")


@contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Prevent a second process from training in the same folder; the lock ends with the process in any case."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        yield
        return
    with open(out / LOCK, "w", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited by loader processes
        except (BlockingIOError, PermissionError) as error:
            raise UserError(
                f"{out}: another process is training there; wait for it or give another {setting('out')}"
            ) from error
        except OSError:  # a file system without locks
            pass
        yield


def note_facts(out: Path, noted: Mapping[str, Any], resumed: bool) -> None:
    """Write facts to a run's `run.json`; those of a resumed run are updated."""
    path = out / "run.json"
    before: dict[str, Any] = {}
    if resumed:
        try:
            before = read_json(path)
        except UnreadableError as error:
            if not error.missing:
                keep_aside(path, error)
        except UserError as error:
            keep_aside(path, error)
    files.write_file(path, json.dumps({**before, **noted}, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def informing(path: Path) -> Iterator[None]:
    """Report an error of the block and continue: a file for readers (`path`) must not end a run."""
    try:
        yield
    except UserError as error:
        say(str(error))
    except Exception as error:
        say(f"{path} could not be made ({type(error).__name__}: {error}); the run continues without it")


def keep_aside(path: Path, error: UserError) -> None:
    """Rename a file for readers that cannot be read, and report it."""
    from blankfill.runs.recorder import set_aside

    try:
        say(f"{error}; a new file is started, and the old one is now {set_aside(path).name}")
    except OSError as failure:
        say(f"{error}; it could not be renamed ({failure.strerror or failure})")


def note_machine(out: Path, machine: Machine) -> None:
    """Write the machine's properties for readers; a resumed run takes them from its checkpoint."""
    from blankfill.training.machine import FILE

    files.write_file(out / FILE, json.dumps(machine.values(), indent=1) + "\n")


def noted_machine(out: Path) -> Machine | None:
    """Return the properties that `note_machine` wrote; None when they are missing or cannot be read."""
    from blankfill.training.machine import FILE, machine_from

    try:
        return machine_from(read_json(out / FILE))
    except UserError:
        return None


def note_step(out: Path, done: Progress, stop: Stop | None = None) -> None:
    """Write the progress of a run to `run.json`, and why it ended before its last step, if it did.

    Metrics contain the progress only every `log_every` steps.
    """
    note_facts(out, {"step": done.step, "tokens": done.tokens, "stopped": stop.value if stop else None}, True)


def renew_report(out: Path, live: bool = False) -> None:
    """Write `report.html` for the current state; an error of any kind does not end the run. live: whether the run
    trains and will write it again."""
    from blankfill.report.page import write_page

    with informing(out / "report.html"):
        write_page(out, live=live)


def note_failure(out: Path) -> None:
    """Note that an error has ended a run, in `run.json` and on its page, which would otherwise wait for news."""
    from blankfill.report.page import write_page

    with suppress(Exception):  # the error itself is about to be reported
        note_facts(out, {"stopped": "an error"}, True)
        write_page(out)


def is_empty(path: Path) -> bool:
    """Return whether a file exists and is empty, as after a power cut."""
    return path.is_file() and not path.stat().st_size


def note_corpus(out: Path, corpus: Path) -> None:
    """Write the path of a run's token files, relative to its folder, unless the file exists."""
    path, text = out / CORPUS, files.path_from(out, corpus) + "\n"
    if not path.is_file() or path.read_bytes() != os.fsencode(text):
        files.write_file(path, text)


def corpus_of(out: Path) -> Path:
    """Return the folder of a run's token files. Raises UserError when it is gone."""
    from blankfill.corpus.folder import is_prepared

    path = out / CORPUS
    if is_empty(path):
        raise UserError(f"{path} is empty; name the prepared corpus: {_with_corpus(out)}")
    corpus = files.path_seen_from(out, read_path(path)) if path.exists() else out / "corpus"
    if not is_prepared(corpus):
        raise UserError(
            f"the token files of {out} are gone from {corpus}; put them back, or say where they are now: "
            f"{_with_corpus(out)}"
        )
    return corpus


def text_columns_of(out: Path) -> tuple[str, ...]:
    """Return the columns of text that the tables of a run's corpus were read by, where they were named and the corpus
    is there still."""
    from blankfill.corpus.folder import load_json
    from blankfill.corpus.tables.options import roles_of, split_names

    try:
        options = load_json(corpus_of(out) / "corpus.json").get("config")
    except (UserError, OSError):
        return ()
    columns = options.get("columns") if isinstance(options, dict) else None
    names = [name for name in columns if isinstance(name, str)] if isinstance(columns, list) else []
    return split_names(roles_of(names).get("text", ()), ())


def given_corpus(out: Path, paths: Sequence[str | Path]) -> Path:
    """Return the prepared corpus given for a resumed run, when it was moved. Raises UserError for any other path.

    The later comparison of inputs checks that it is the corpus of the run.
    """
    from blankfill.corpus.folder import is_prepared

    if len(paths) != 1 or not is_prepared(Path(paths[0])):
        named = paths[0] if len(paths) == 1 else f"{len(paths)} paths"
        raise UserError(
            f"{out} resumes with the text that it was started on; leave out {named}, or name the one prepared corpus "
            "of that text, if it was moved"
        )
    return Path(paths[0])


def _with_corpus(out: Path) -> str:
    return f"blankfill pretrain CORPUS --resume {quoted(out)}"


def mend_recipe(out: Path) -> None:
    """Write a run's missing or empty recipe again, from its newest checkpoint.

    Raises UserError when no checkpoint has it.
    """
    from blankfill.checkpoint import store
    from blankfill.config.recipe import values_to_yaml

    path = out / "recipe.yaml"
    if path.exists() and not is_empty(path):
        return
    for step in sorted(store.steps_in(out / "checkpoints"), reverse=True):
        values = store.state_of(out / "checkpoints" / f"step-{step}").get("recipe")
        if isinstance(values, dict):
            files.write_file(path, values_to_yaml(values))
            say(f"{path} was missing or empty; it is written again as the checkpoint of step {step} has it")
            return
    if path.exists():
        raise UserError(f"{path} is empty and no checkpoint has a copy of it; write the recipe of the run there again")
    if not out.exists():
        raise UserError(f"{out} does not exist; give the folder of a run that was begun")
    raise UserError(f"{out}: not a run folder (it has no recipe.yaml); give one that `blankfill pretrain` made")


def newest_whole(out: Path) -> Checkpoint | None:
    """Return the newest complete checkpoint of a run; None when there is none yet. Damaged ones are reported and
    skipped.

    Raises UserError when a run had checkpoints and none of them is left: a new start would replace them.
    """
    from blankfill.checkpoint import store

    damaged: list[str] = []
    checkpoint = store.newest(out / "checkpoints", damaged=damaged)
    for sentence in damaged:
        say(f"skipped: {sentence}")
    if checkpoint is None:
        if damaged:
            raise UserError(f"{out}: none of its checkpoints is whole; train it again, into another {setting('out')}")
        if os.path.lexists(out / "latest"):
            raise UserError(
                f"{out / 'latest'} says that this run had checkpoints, and {out / 'checkpoints'} holds none; put them "
                f"back, or train it again, into another {setting('out')}"
            )
        say(f"{out} has no checkpoint yet; the run starts from the beginning")
    return checkpoint
