"""Opening the inputs of a pretraining run: recipe, corpus, old text, warm start, teacher, tokenizer.

A new run records them in its folder; a resumed run first compares them with its records. Not here: rows of text
(`pretraining.data_setup`), the model (`pretraining.model_setup`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blankfill.config.recipe import Recipe, to_yaml
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.pretraining.data_setup import Corpus, open_corpus, prepared_in
from blankfill.pretraining.notes import check_inputs, check_teacher, check_words, pretraining_note
from blankfill.pretraining.teacher import FILE as TEACHER
from blankfill.pretraining.teacher import Teacher, open_teacher, read_teacher
from blankfill.pretraining.warm_start import FILE as WARM_START
from blankfill.pretraining.warm_start import InitFrom, WarmStart, open_warm_start, read_warm_start
from blankfill.prompts.sets import check_sets
from blankfill.runs.folder import is_empty, note_corpus
from blankfill.runs.inputs import Note, begin_note, check_run_tokenizer, resume_note, verify
from blankfill.system.files import write_file

if TYPE_CHECKING:
    from blankfill.runs.context import RunContext
    from blankfill.runs.start import Start


@dataclass(frozen=True)
class Inputs:
    """The inputs of a run. recipe: with the sizes of the model that the run starts from, if there is one.

    old: the corpus of old text, whose loss is measured and which may be replayed. note: the run's record of its inputs.
    """

    recipe: Recipe
    corpus: Corpus
    old: Corpus | None
    warm_start: WarmStart | None
    teacher: Teacher | None
    note: Note

    @property
    def replay_ratio(self) -> float:
        """The share of rows that come from the old text."""
        return self.warm_start.replay_ratio if self.warm_start else 0.0


def open_inputs(
    paths: Sequence[str | Path],
    recipe: Recipe,
    context: RunContext,
    start: Start,
    init_from: InitFrom | None = None,
    teacher: str | Path | None = None,
    verify_corpus: bool = False,
) -> Inputs:
    """Open the inputs of a run, and prepare texts that are not prepared yet.

    Args:
        paths: Text sources or one prepared folder; none means the embedded corpus.
        recipe: The recipe.
        context: The process and its folder.
        start: How the run starts.
        init_from: The model that a new run starts from.
        teacher: The model to learn from; for a resumed run, the present path of its teacher.
        verify_corpus: Compare all bytes of prepared corpora with the checksums that were noted.

    Raises:
        UserError: An input cannot be read, or is not what a resumed run was begun with.
        ConfigError: The recipe does not fit the model to start from, or the teacher.
    """
    out = context.folder
    warm_start = read_warm_start(out) if start.resumed else None
    if init_from is not None and not start.resumed:
        warm_start, recipe = open_warm_start(init_from, recipe)
    if recipe.prompts.files:  # so that the run can be resumed from another folder
        files = tuple(str(Path(file).absolute()) for file in recipe.prompts.files)
        recipe = dataclasses.replace(recipe, prompts=dataclasses.replace(recipe.prompts, files=files))
    if start.resumed:
        check_inputs(out, start.notes, recipe, prepared_in(paths, out / "corpus"), warm_start)
        taught = read_teacher(out, teacher, context.device)
        check_teacher(out, start.notes, taught)
    else:
        check_sets(recipe.prompts)  # before the text is prepared
        taught = open_teacher(teacher, context.device) if teacher else None
    corpus, old = open_texts(paths, recipe, out, warm_start, taught)
    if start.resumed and is_empty(out / "tokenizer.json"):
        corpus.tokenizer.save(out)
    note = pretraining_note(recipe, corpus, old, warm_start, taught)
    if start.resumed:
        check_words(out, start.notes, note)
        note = resume_note(out, start.notes, note, corpus.tokenizer, str(corpus.folder))
        note_corpus(out, corpus.folder)
    if verify_corpus:
        verify(note, {"corpus": corpus.folder} | ({"replay": old.folder} if old else {}))
    return Inputs(recipe, corpus, old, warm_start, taught, note)


def check_finished(
    paths: Sequence[str | Path],
    recipe: Recipe,
    out: Path,
    start: Start,
    teacher: str | Path | None = None,
    verify_corpus: bool = False,
) -> None:
    """Raise UserError when the inputs of a finished run are not those it was begun with; no text is opened for it."""
    corpus, warm_start = prepared_in(paths, out / "corpus"), read_warm_start(out)
    check_inputs(out, start.notes, recipe, corpus, warm_start)
    check_teacher(out, start.notes, read_teacher(out, teacher))
    check_run_tokenizer(out, start.notes, Tokenizer.load(out), str(out))
    if verify_corpus and start.notes:
        replay = {"replay": Path(warm_start.replay)} if warm_start and warm_start.replay else {}
        verify(start.notes[0], {"corpus": corpus, **replay})


def begin(inputs: Inputs, out: Path) -> Inputs:
    """Write what a new run was begun with into its folder; returns the inputs with their whole note."""
    corpus = inputs.corpus
    corpus.tokenizer.save(out)
    note = begin_note(out, inputs.note, corpus.tokenizer)
    if inputs.warm_start is not None:
        write_file(out / WARM_START, inputs.warm_start.write(out, inputs.old.folder if inputs.old else None))
    if inputs.teacher is not None:
        write_file(out / TEACHER, inputs.teacher.write(out))
    note_corpus(out, corpus.folder)
    write_file(out / "recipe.yaml", to_yaml(inputs.recipe))  # the last: with it, the folder is a run to resume
    return dataclasses.replace(inputs, note=note)


def open_texts(
    paths: Sequence[str | Path], recipe: Recipe, out: Path, warm_start: WarmStart | None, teacher: Teacher | None = None
) -> tuple[Corpus, Corpus | None]:
    """Return the corpus of a run, and that of old text for a run that starts from a model and was given one.

    A run with a teacher has its tokenizer; ConfigError when it cannot learn from it.
    """
    if teacher is not None:
        teacher.check(recipe, warm_start.tokenizer if warm_start else teacher.tokenizer, begun=warm_start is not None)
    if warm_start is None:
        own = teacher.tokenizer if teacher else None
        return open_corpus(paths, recipe, out / "corpus", own, (own,) if own else ()), None
    tokenizer, earlier = warm_start.tokenizer, warm_start.original_tokenizer
    corpus = open_corpus(paths, recipe, out / "corpus", tokenizer, (tokenizer,) if earlier else ())
    if warm_start.replay is None:
        return corpus, None
    # old text may lie prepared for the model as it was: nothing in it needs the new words
    accepted = (tokenizer, earlier) if earlier else ()
    return corpus, open_corpus([warm_start.replay], recipe, out / "replay", tokenizer, accepted)
