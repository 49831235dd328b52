"""Text in any shape → a folder of token files: `train` and `valid`, the tokenizer, counts, and a report.

Four stages, each made of tasks that run in worker processes and leave a marker, so that a run that was killed at any
instant resumes when the same command is repeated:

1. extract   sources → cleaned sentences in compressed text shards (`stages.extract`, `shards`)
2. decide    duplicates, repeated lines, the split of each document (`decide`); the tokenizer, from a sample
3. encode    text shards → token shards (`stages.encode`)
4. merge     token shards in order → `train.bin/.idx`, `valid.bin/.idx`, `unigram.npy`, `tokenizer.json`

The work folder `OUT/.prepare` names the result of each stage by a hash of its inputs (sources with size and time,
options, earlier stages), so that a change of options repeats only the stages that depend on them. `corpus.json` is
written last: a folder without it is never taken for a finished corpus. Memory grows by some 40 bytes a document and not
with the text. Nothing depends on the number of workers.

Not here: formats of sources (`sources`), sentence rules (`sentences`), training of vocabularies (`tokenizer_train`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blankfill.corpus import summary
from blankfill.corpus.balance import balance
from blankfill.corpus.decide import OUTCOMES, Decision, decide
from blankfill.corpus.encodings import grouped_remarks
from blankfill.corpus.folder import OURS, WORK, clear_work, locked, look_at, plain_errors, refuse_other
from blankfill.corpus.identity import corpus_marks
from blankfill.corpus.indexed import IndexedCorpus, path_of
from blankfill.corpus.inputs import estimated_bytes, extract_tasks, found_sources, identity_of, names_of, source_options
from blankfill.corpus.inventory import read_sources
from blankfill.corpus.markers import is_done, read_marker, write_marker
from blankfill.corpus.merge import Merged, merge
from blankfill.corpus.options import KINDS, PrepareConfig
from blankfill.corpus.pool import run_tasks
from blankfill.corpus.scripts import Writing, advice
from blankfill.corpus.shards import Shard
from blankfill.corpus.stages import TRAIN, VALID, EncodeTask, encode, extract
from blankfill.corpus.summary import CorpusReport
from blankfill.corpus.unknown import MOST, counting
from blankfill.errors import Problem, UserError, setting, template_of
from blankfill.system import console, files
from blankfill.system.loader import build

if TYPE_CHECKING:
    from blankfill.corpus.sources import Source, SourceOptions
    from blankfill.corpus.tokenizer import Tokenizer

FORMAT = 2
"""Version of the stages' results; a work folder of an older version is not continued."""
SAMPLE_BYTES = {"wordpiece": 32_000_000, "bpe": 32_000_000, "unigram": 16_000_000, "bilingual": 32_000_000}
"""Bytes of text that a tokenizer is trained on at most: more text changes a vocabulary little and takes longer."""
MANY_UNKNOWN = 0.02
CHECKED_BYTES = 1_000_000
"""Bytes of text in which unknown tokens are counted before all of it is encoded."""
FEW = 200
"""Number of tasks below which the bytes written are shown while a task runs, as is useful for one large source."""


def prepare(
    paths: Sequence[str | Path], out: str | Path, config: PrepareConfig | None = None, force: bool = False
) -> CorpusReport:
    """Prepare text for pretraining: clean it, drop duplicates, train a tokenizer, and write token files.

    A finished corpus in `out` that was made from the same sources with the same options is reused. An interrupted run
    is resumed.

    Args:
        paths: files, folders, "-" for standard input, or "python-docs" for the documentation of this Python.
        out: the folder to write `train.bin/.idx`, `valid.bin/.idx`, the tokenizer and `corpus.json` to.
        config: how to clean, split and tokenise the text; without it, the options of `PrepareConfig()`.
        force: prepare the corpus again even if `out` holds a finished one.

    Returns:
        The counts and findings that `corpus.json` holds.

    Raises:
        UserError: when a source cannot be read, an option does not fit the text, `out` holds other files or another
            corpus, or the disk is full.
    """
    config = config or PrepareConfig()
    config.check()
    began = time.monotonic()
    out = Path(out)
    refuse_other(out, force)
    options = source_options(config)
    skipped: list[str] = []
    sources = found_sources([str(path) for path in paths], out, options, skipped)
    identity = identity_of(sources)
    if (finished := look_at(out, _recorded(config), identity, force)) is not None:
        if (out / WORK).exists():
            with plain_errors(out, 0), locked(out):
                pass
            clear_work(out)
        console.say(f"{out} already holds this corpus: it is reused ({setting('force', True)} makes it again).")
        return replace(finished, reused=True)
    need = int(1.6 * sum(estimated_bytes(source) for source in sources))
    with plain_errors(out, need), locked(out):
        if (free := shutil.disk_usage(out).free) < need:
            wanted, left = console.amount(need, "B"), console.amount(free, "B")
            console.say(f"Note: this takes about {wanted} in {out}, where only {left} is free.")
        try:
            report = _Run(out, config, options, sources, identity, skipped).go(began)
        except KeyboardInterrupt:
            console.say(f"Stopped. The finished work is kept in {out}; the same command resumes from there.")
            raise
    clear_work(out)
    return report


class _Run:
    """State of one call of `prepare`: the folder of each stage, and the stages in order."""

    def __init__(
        self, out: Path, config: PrepareConfig, options: SourceOptions, sources: list[Source], identity: str,
        skipped: list[str],
    ) -> None:  # fmt: skip
        self.out, self.config, self.options, self.sources = out, config, options, sources
        self.identity, self.skipped = identity, skipped
        self.workers = config.workers or _cores()
        self.notices = grouped_remarks(
            (source.name or source.path, source.encoding) for source in sources if not source.start
        )
        self.normalization: dict[str, Any] = {}
        trained = config.tokenizer in KINDS
        tokenizer = (
            [config.tokenizer, config.vocab_size, config.lowercase, config.strip_accents, "by script"]
            if trained
            else _file_hash(config.tokenizer)
        )
        text = _key("extract", identity, asdict(options))
        chosen = _key("decide", text, config.dedup, config.min_chars, config.validation)
        vocabulary = _key("tokenizer", text, config.dedup, config.min_chars, tokenizer)
        tokens = _key("tokens", chosen, vocabulary)
        self.work = out / WORK
        keys = {"text": text, "chosen": chosen, "tokenizer": vocabulary, "tokens": tokens}
        self.folders = {name: self.work / f"{name}-{key}" for name, key in keys.items()}

    def go(self, began: float) -> CorpusReport:
        """Run all stages, skipping finished work; return the report."""
        continued = self._clear_others()
        for name in ("text", "chosen", "tokens"):
            folder = files.own_folder(self.folders[name])
            files.remove_parts(folder)
            if any(path.is_symlink() for path in files.entries(folder)):  # this program makes no links
                files.remove(folder)
                files.own_folder(folder)
        prefixes = self._extract()
        if not prefixes:
            reasons = f" ({'; '.join(template_of(line) for line in self.skipped[:3])})" if self.skipped else ""
            raise UserError(
                f"No text was found in {names_of(self.sources)}{reasons}: check the paths, or name its column with "
                f"{setting('columns', 'text=NAME')}."
            )
        decision = self._decide()
        if not decision.kept:
            raise UserError(
                f"None of the {decision.documents:,} documents has any text left ({_reasons(decision.dropped)}): give "
                "files with text; of a table, the column with the text."
            )
        tokenizer = self._tokenizer(prefixes)
        self._check_unknown(prefixes, tokenizer)
        marks = self._encode(prefixes)
        merged = self._merge(prefixes, decision, marks, tokenizer)
        report = self._report(merged, decision, marks, tokenizer, continued, began)
        return self._publish(report, tokenizer, merged.files)

    def _clear_others(self) -> bool:
        """Remove the results of other options or sources from the work folder; return whether any result of this run is
        there."""
        mine = {path.name for path in self.folders.values()} | {"lock.json"}
        others = [path for path in files.entries(self.work) if OURS.fullmatch(path.name) and path.name not in mine]
        ours = any(self.folders["text"].glob("*.json"))
        if others and not ours:
            console.say("The sources or the reading options changed since the interrupted run: starting over.")
        elif ours:
            console.say("Continuing an interrupted run.")
        for path in others:
            files.remove(path)
        files.remove_parts(self.work)
        return ours

    def _run(self, work: Callable[[Any], Any], tasks: Sequence[Any], description: str) -> None:
        """Run the tasks that are not done. A task has a `prefix`, and a `size` in bytes."""
        left = [task for task in tasks if not is_done(task.prefix)]
        if not left:
            return
        total = sum(task.size for task in tasks)
        with console.progress(description, total, "B", total - sum(task.size for task in left)) as bar:
            for outcome in run_tasks(work, left, self.workers):
                if outcome is not None:
                    bar.advance(outcome[0].size)
                elif len(tasks) < FEW:
                    written = sum(path.stat().st_size for path in left[0].prefix.parent.glob("*.*"))
                    bar.set(written=console.amount(written, "B"))

    def _extract(self) -> list[Path]:
        tasks = extract_tasks(self.sources, self.folders["text"], self.options)
        self._run(extract, tasks, "1/4 reading")
        self.text_bytes: dict[Path, int] = {}
        tallies: list[dict[str, Any]] = []
        for task in tasks:
            mark = read_marker(task.prefix)
            tallies += mark["read"]
            self.skipped += map(Problem, mark["skipped"])
            self.notices += map(Problem, mark["notes"])
            for number, size in enumerate(mark["shards"]):
                self.text_bytes[path_of(task.prefix, f"-{number:04}")] = size
        self.inventory = read_sources(tallies)
        return list(self.text_bytes)

    def _decide(self) -> Decision:
        folder = self.folders["chosen"]
        marker = folder / "decide"
        if not is_done(marker):
            config = self.config
            decided = decide(self.text_bytes, folder, config.dedup, config.validation, config.min_chars, self._run)
            made = [path_of(folder / prefix.name, name) for prefix in self.text_bytes for name in OUTCOMES]
            write_marker(marker, asdict(decided), [path for path in made if path.exists()])
        return build(Decision, read_marker(marker), path_of(marker, ".json"))

    def _tokenizer(self, prefixes: Sequence[Path]) -> Tokenizer:
        from blankfill.corpus.tokenizer import Tokenizer

        if self.config.tokenizer not in KINDS:
            path = Path(self.config.tokenizer)
            tokenizer = Tokenizer.load(path)
        else:
            path = self.folders["tokenizer"]
            files.refuse_link(path)
            if not is_done(path / "done"):
                files.remove(path)
                self._train(prefixes, path)
            self.normalization = read_marker(path / "done")
            tokenizer = Tokenizer.load(path)
        self.tokenizer_path = path
        return tokenizer

    def _train(self, prefixes: Sequence[Path], path: Path) -> None:
        from blankfill.corpus.tokenizer_train import TokenizerConfig, train_tokenizer

        kind: Any = self.config.tokenizer
        config = TokenizerConfig(
            kind=kind, vocab_size=self.config.vocab_size, exact=self.config.vocab_exact,
            lowercase=self.config.lowercase, strip_accents=self.config.strip_accents,
        )  # fmt: skip
        share = min(1.0, SAMPLE_BYTES[kind] / sum(self.text_bytes.values()))
        sample = list(_sample(prefixes, self.folders["chosen"], share))
        writing = Writing.of(sample)
        normalization = config.normalization(writing)
        with console.progress(f"2/4 training a {kind} tokenizer", None, "tokens") as bar, _ticking(bar):
            tokenizer = train_tokenizer(sample, config, writing, bar.advance)
        if kind == "wordpiece":
            console.say(f"Normalization: {normalization.words}.")
        with files.whole_folder(path) as made:
            tokenizer.save(made)
            noted = {
                "scripts": {name: round(share, 4) for name, share in writing.shares.items()},
                **(asdict(normalization) if kind == "wordpiece" else {}),
                "advice": advice(writing) if kind == "wordpiece" else "",
                **({"balance": balance(tokenizer, sample)} if kind == "bilingual" else {}),
            }
            write_marker(made / "done", noted, list(made.iterdir()))

    def _check_unknown(self, prefixes: Sequence[Path], tokenizer: Tokenizer) -> None:
        """Encode a sample of the text; raises UserError where too many of its tokens are unknown."""
        share = min(1.0, CHECKED_BYTES / sum(self.text_bytes.values()))
        help_ = ""
        if self.config.tokenizer in KINDS:
            help_ = (
                f"give a larger {setting('vocab_size')}, or {setting('tokenizer', 'unigram')}, which spells every "
                "character"
            )
        with counting("this text", allow=self.config.allow_unknown, advice=help_):
            tokenizer.encode_plain(list(_sample(prefixes, self.folders["chosen"], share)))

    def _encode(self, prefixes: Sequence[Path]) -> list[dict[str, Any]]:
        chosen, tokens = self.folders["chosen"], self.folders["tokens"]
        lines = self.config.dedup == "lines"
        tasks = [
            EncodeTask(
                shard=prefix, prefix=tokens / prefix.name, actions=path_of(chosen / prefix.name, ".actions.npy"),
                skip=path_of(chosen / prefix.name, ".skip.npy") if lines else None,
                tokenizer=self.tokenizer_path, validation=self.config.validation, size=self.text_bytes[prefix],
            )
            for prefix in prefixes
        ]  # fmt: skip
        self._run(encode, tasks, "3/4 encoding")
        return [read_marker(task.prefix) for task in tasks]

    def _merge(
        self, prefixes: Sequence[Path], decision: Decision, marks: Sequence[dict[str, Any]], tokenizer: Tokenizer
    ) -> Merged:
        final = self.work / "final"
        files.remove(final)
        final.mkdir()
        tokens = [self.folders["tokens"] / prefix.name for prefix in prefixes]
        merged = merge(tokens, marks, decision.joined, tokenizer.size, final)
        if merged.swapped:
            self.notices.append(
                "all of the text fell to validation by chance, so all of it goes to training and none to validation; "
                "give more text."
            )
        elif not merged.splits[VALID].tokens and self.config.validation:
            self.notices.append(
                f"no document fell to validation (the share is {self.config.validation:g}), so there is no valid.bin: "
                f"give more text, or a larger {setting('validation')}."
            )
        return merged

    def _report(
        self, merged: Merged, decision: Decision, marks: Sequence[dict[str, Any]], tokenizer: Tokenizer,
        continued: bool, began: float,
    ) -> CorpusReport:  # fmt: skip
        corpus, train = IndexedCorpus(merged.files["train.idx"]), merged.splits[TRAIN]
        unknown = tokenizer.vocabulary().roles.get("unk")
        dropped = {**decision.dropped, "left empty by dropping lines": sum(mark["emptied"] for mark in marks)}
        unknowns = 0 if unknown is None else int(merged.unigram[unknown])
        if MANY_UNKNOWN * train.tokens < unknowns <= MOST * train.tokens:  # above, a notice or an error came before
            remedy = f"give a larger {setting('vocab_size')}, or {setting('tokenizer', 'unigram')}, which has none."
            if self.config.tokenizer not in KINDS:
                remedy = "the vocabulary of the given tokenizer lacks their characters."
            self.notices.append(f"{unknowns / train.tokens:.1%} of the tokens are unknown: {remedy}")
        if why := self.normalization.pop("advice", ""):
            self.notices.append(
                f"{why}, so wordpiece looks for pieces in runs of it: consider {setting('tokenizer', 'unigram')}, "
                "which keeps the spaces of such text and has no unknown tokens."
            )
        return CorpusReport(
            folder=self.out, documents=decision.documents, train=train, valid=merged.splits[VALID],
            vocabulary=tokenizer.size, tokenizer=self.config.tokenizer, unknown=unknowns,
            dropped=dropped, repeated_line_count=decision.repeated_line_count,
            dropped_lines=sum(mark["dropped_paragraphs"] for mark in marks),
            repeated_lines=tuple((n, summary.shortened(line, 300)) for n, line in decision.repeated_lines),
            duplicates=tuple((a, b) for a, b in decision.duplicates), skipped=tuple(map(Problem, self.skipped)),
            samples=tuple(_samples(corpus, tokenizer)), notices=tuple(map(Problem, self.notices)),
            source_bytes=sum(source.size for source in self.sources),
            seconds=round(time.monotonic() - began, 2), continued=continued, config=_recorded(self.config),
            sources=self.identity, fingerprint=corpus.fingerprint, inventory=self.inventory,
            normalization=self.normalization,
        )  # fmt: skip

    def _publish(self, report: CorpusReport, tokenizer: Tokenizer, made: Mapping[str, Path]) -> CorpusReport:
        """Move the files into place, then write the report with their checksums, syncing each step before the next;
        return the report."""
        for name in (summary.FILE, summary.PAGE):
            (self.out / name).unlink(missing_ok=True)
        files.sync_folder(self.out)
        for name in ("train", "valid"):
            for suffix in (".bin", ".idx"):
                (self.out / f"{name}{suffix}").unlink(missing_ok=True)
        for name, path in made.items():
            path.replace(self.out / name)
        tokenizer.save(self.out)
        files.sync_folder(self.out)
        report = replace(report, files=corpus_marks(self.out, full=True))
        report.write(self.out)
        return report


def _sample(prefixes: Sequence[Path], chosen: Path, share: float) -> Iterator[str]:
    """Yield the sentences of evenly spaced blocks of all kept text, validation included; the choice is
    deterministic."""
    position = 0
    for prefix in prefixes:
        shard = Shard(prefix)
        blocks = shard.blocks
        wanted = [b for b in range(blocks) if int((position + b + 1) * share) > int((position + b) * share)]
        position += blocks
        if not wanted:
            continue
        keep = np.repeat(np.load(path_of(chosen / prefix.name, ".actions.npy")) != 0, shard.paragraphs)
        if (skip := path_of(chosen / prefix.name, ".skip.npy")).exists():
            keep[np.load(skip)] = False
        for block in wanted:
            for paragraph, sentences in shard.block(block):
                if keep[paragraph]:
                    yield from sentences


@contextmanager
def _ticking(bar: console.Bar) -> Iterator[None]:
    """Show the time that work takes which does not count what is done, every second while the block runs."""
    began, stopped = time.monotonic(), threading.Event()

    def tick() -> None:
        while not stopped.wait(1):
            bar.set(time=console.duration(time.monotonic() - began))

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _samples(corpus: IndexedCorpus, tokenizer: Tokenizer, tokens: int = 60) -> Iterator[str]:
    """Yield the decoded beginnings of three training documents, from three places of the corpus."""
    starts = corpus.document_tokens
    places = np.searchsorted(starts, [len(corpus.tokens) * k // 6 for k in (1, 3, 5)], "right") - 1
    for document in dict.fromkeys(places.tolist()):
        end = min(starts[document] + tokens, starts[document + 1])
        text = tokenizer.decode(corpus.tokens[starts[document] : end].tolist())
        yield summary.shortened(text + (" …" if end < starts[document + 1] else ""), 300)


def _recorded(config: PrepareConfig) -> dict[str, Any]:
    """Return the options that affect the result, as stored in the report."""
    values = asdict(config) | {"columns": list(config.columns)}
    del values["workers"], values["allow_unknown"]
    if config.strip_accents is None:  # as in the records of earlier versions
        del values["strip_accents"]
    if config.tokenizer not in KINDS:
        values["tokenizer"] = str(Path(config.tokenizer).resolve())
        values["tokenizer_hash"] = _file_hash(config.tokenizer)
        del values["vocab_size"], values["lowercase"]
    return values


def _key(*parts: Any) -> str:
    text = json.dumps([FORMAT, *parts], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _file_hash(path: str) -> str:
    """Return a hash of a tokenizer's files."""
    state = hashlib.blake2b(digest_size=16)
    root = Path(path)
    candidates = [root] if root.is_file() else root.iterdir()
    for file in sorted(file for file in candidates if file.suffix in (".json", ".txt", ".model")):
        state.update(file.name.encode() + file.read_bytes())
    return state.hexdigest()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reasons(dropped: dict[str, int]) -> str:
    return ", ".join(f"{why}: {count:,}" for why, count in dropped.items() if count)
