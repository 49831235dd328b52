"""The wiring of a run: corpus, sampler, model, loop, checkpoints. The only place where all of them meet."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blankfill.console import progress, say
from blankfill.corpus import summary
from blankfill.corpus.indexed import IndexedCorpus
from blankfill.corpus.prepare import PrepareConfig, prepare
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.data.sampler import VALIDATION_SEED, Sampler
from blankfill.errors import ConfigError, UserError
from blankfill.recipe import Recipe, load_recipe, to_values, to_yaml
from blankfill.types import Vocabulary

if TYPE_CHECKING:
    from blankfill.types import Batch

BASELINE_ROWS = 512


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus, opened: token files, tokenizer with the roles an objective needs, unigram counts."""

    folder: Path
    train: IndexedCorpus
    valid: IndexedCorpus | None
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    unigram: np.ndarray


def is_prepared(folder: Path) -> bool:
    """Whether a folder is a finished corpus made by `prepare`."""
    return (folder / summary.FILE).is_file()


@dataclass(frozen=True)
class RunResult:
    """How a run ended. Losses in nats per answer."""

    folder: Path
    steps: int
    tokens: int
    valid_loss: float
    baseline: float
    seconds: float


def open_corpus(paths: Sequence[str | Path], recipe: Recipe, work: Path) -> Corpus:
    """Open a prepared folder, or prepare text (none: the embedded `python-docs`) under `work` first."""
    folder = Path(paths[0]) if len(paths) == 1 and is_prepared(Path(paths[0])) else work
    if folder is work:
        try:
            prepare([str(path) for path in paths] or ["python-docs"], work, recipe.corpus)
        except UserError as error:
            raise in_recipe_terms(error) from error
    tokenizer = Tokenizer.load(folder)
    lacking = tokenizer.vocabulary().missing(recipe.objective.roles)
    if lacking:
        say(f"the tokenizer has no token for {', '.join(lacking)}; added at the end of the vocabulary")
        tokenizer = tokenizer.with_roles(lacking)
    valid = folder / "valid"
    return Corpus(
        folder,
        IndexedCorpus(folder / "train"),
        IndexedCorpus(valid) if valid.with_suffix(".idx").exists() else None,
        tokenizer,
        tokenizer.vocabulary(),
        np.load(folder / "unigram.npy"),
    )


def in_recipe_terms(error: UserError) -> UserError:
    """An error of `prepare`, its flags named as a recipe's command has them: `--vocab-size` → `--corpus.vocab-size`."""
    names = "|".join(field.name.replace("_", "-") for field in dataclasses.fields(PrepareConfig))
    problems = error.problems if isinstance(error, ConfigError) else [str(error)]
    renamed = [re.sub(rf"--({names})\b", r"--corpus.\1", problem) for problem in problems]
    return ConfigError(renamed) if isinstance(error, ConfigError) else UserError(renamed[0])


def samplers(corpus: Corpus, recipe: Recipe) -> tuple[Sampler, Sampler | None]:
    """The training rows of a run, and the validation rows, which are the same for every run of the objective."""
    objective = recipe.objective
    if objective.needs_words() and corpus.vocabulary.word_start is None:
        raise UserError(
            f"objective.whole_word needs a tokenizer that tells where words begin, and the one of {corpus.folder} does "
            "not; use a wordpiece, bpe or unigram tokenizer or turn whole_word off"
        )
    train = Sampler(corpus.train, objective, corpus.vocabulary, recipe.seed, corpus.folder / "plans")
    valid = None
    if corpus.valid is not None and len(corpus.valid):
        valid = Sampler(corpus.valid, objective, corpus.vocabulary, VALIDATION_SEED, corpus.folder / "plans")
    return train, valid


def pretrain(paths: Sequence[str | Path], recipe: Recipe, out: str | Path, resume: bool = False) -> RunResult:
    """Train a model from text, as a recipe says, into a run folder. UserError for whatever the user can mend.

    paths: text sources or one prepared folder; none means the embedded corpus. resume: go on from the newest whole
    checkpoint of `out`.
    """
    import torch

    from blankfill.attention.kernels import best_kernel
    from blankfill.checkpoint import store
    from blankfill.checkpoint.load import Loaded
    from blankfill.data.loader import Steps, load
    from blankfill.generate.samples import Samples
    from blankfill.model.transformer import build
    from blankfill.report.plots import loss_plot
    from blankfill.train.loop import Progress, Trainer
    from blankfill.train.optimizer import build_optimizer
    from blankfill.train.precision import pick_device, pick_dtype
    from blankfill.train.record import RunRecorder

    recipe.check()
    out = Path(out)
    prepare_folder(out, resume)
    options = recipe.train
    torch.set_num_threads(options.threads or os.cpu_count() or 1)
    device = pick_device(options.device)
    dtype = pick_dtype(options.precision, device)
    corpus = open_corpus(paths, recipe, out / "corpus")
    train, valid = samplers(corpus, recipe)
    config = recipe.model.config(
        corpus.vocabulary.size,
        recipe.objective.position_sizes(),
        pairs=getattr(recipe.objective, "next_sentence", True),
    )
    model = build(config, recipe.seed, device)
    model.use_kernel(best_kernel(device, dtype))
    optimizer = build_optimizer(
        model, (options.beta1, options.beta2), options.eps, options.weight_decay, options.decay_all, options.word_lr
    )
    done = Progress()
    if resume:
        damaged: list[str] = []
        checkpoint = store.newest(out / "checkpoints", damaged=damaged)
        for sentence in damaged:
            say(f"passed over: {sentence}")
        if checkpoint is None:
            raise UserError(f"{out}: there is no checkpoint to resume from; start it without --resume")
        if checkpoint.state["model"] != _plain(config):
            raise UserError(f"{checkpoint.path}: the checkpoint is of another model than the recipe asks for")
        model.load_state_dict(checkpoint.model)
        store.restore_optimizer(optimizer, checkpoint.optimizer)
        done = Progress(**checkpoint.state["progress"])
    else:
        corpus.tokenizer.save(out)
        write_text(out / "recipe.yaml", to_yaml(recipe))
        write_text(out / "corpus_path.txt", os.path.relpath(corpus.folder, out) + "\n")

    validation = validation_batches(valid, options.eval_rows, options.micro_batch or options.batch_size)
    baseline = target_baseline(corpus, train, validation)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    kind = str(dtype).removeprefix("torch.")
    say(
        f"{recipe.name}: {parameters:,} parameters, vocabulary {corpus.vocabulary.size:,}, "
        f"{len(corpus.train.tokens):,} training tokens, {train.rows_in_epoch(0):,} rows an epoch, "
        f"{options.steps:,} steps of {options.batch_size} rows, {device.type} {kind}"
    )
    if not validation:
        say("there is no validation text, so nothing is held against the baseline; prepare with --validation 0.1")
    else:
        say(f"unigram baseline on the validation answers: {baseline:.3f} nats (a model that learns goes below it)")

    fixed = Samples(Loaded(model, corpus.tokenizer, corpus.vocabulary, recipe.objective, out), corpus.valid, out)
    before = fixed.fill(done.step)
    values = to_values(recipe)

    def save(now: Progress) -> None:
        state = {"model": _plain(config), "objective": values["objective"], "progress": dataclasses.asdict(now)}
        keep = frozenset({now.best_step})
        store.save(out / "checkpoints", now.step, model.state_dict(), optimizer, state, options.keep, keep)

    steps = Steps(train, options.batch_size, options.micro_batch or options.batch_size)
    with (
        progress("training", options.steps, "steps", done.step) as bar,
        RunRecorder(out, bar, done.step) as recorder,
        stop_signals() as stopping,
    ):
        trainer = Trainer(
            model, optimizer, options, recipe.seed, device, dtype, recorder, validation, save, lambda: bool(stopping)
        )
        done = trainer.train(load(steps, done.step, options.steps, options.workers), done)
    after = fixed.fill(done.step)
    loss_plot(out / "metrics.jsonl", out / "loss.png", None if math.isnan(baseline) else baseline, recipe.name)
    if stopping:
        say(f"stopped at step {done.step}; go on with: blankfill pretrain --resume {out}")
    fixed.compare(before, after)
    return RunResult(out, done.step, done.tokens, done.valid_loss, baseline, done.seconds)


def resume(out: str | Path) -> RunResult:
    """Go on with a run from its newest whole checkpoint, with its own recipe and corpus."""
    out = Path(out)
    if not (out / "recipe.yaml").exists():
        raise UserError(f"{out}: not a run folder (it has no recipe.yaml)")
    corpus = out / (out / "corpus_path.txt").read_text(encoding="utf-8").strip()
    if not is_prepared(corpus):
        raise UserError(f"{out}: its token files are gone from {corpus}; prepare them there again to resume")
    return pretrain([str(corpus)], load_recipe(out / "recipe.yaml"), out, resume=True)


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


def write_text(path: Path, text: str) -> None:
    """Write a small file whole: a temporary name, then a rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _plain(config: Any) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def validation_batches(valid: Sampler | None, rows: int, micro: int) -> list[Batch]:
    """The fixed validation rows, spread over the whole validation set, in batches."""
    from blankfill.data.packing import collate

    if valid is None:
        return []
    available = valid.rows_in_epoch(0)
    chosen = np.unique(np.linspace(0, available - 1, min(rows, available)).astype(int)).tolist()
    pad = valid.vocabulary["pad"]
    return [collate([valid.row(i) for i in chosen[k : k + micro]], pad) for k in range(0, len(chosen), micro)]


def target_baseline(corpus: Corpus, train: Sampler, validation: list[Batch]) -> float:
    """The unigram baseline of a run, in nats per answer."""
    from blankfill.train.baseline import unigram_baseline

    some = np.unique(np.linspace(0, train.rows_in_epoch(0) - 1, BASELINE_ROWS).astype(int)).tolist()
    answers = (example.target_ids for i in some for example in train.row(i))
    return unigram_baseline(corpus.unigram, answers, (b.target_ids.numpy() for b in validation), corpus.vocabulary)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM append to, so that a run ends after its step; a second SIGINT interrupts."""
    caught: list[int] = []

    def handle(number: int, frame: object) -> None:
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
