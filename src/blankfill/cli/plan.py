"""`blankfill plan`: what a run would take, before it is started: parameters, memory, disk, tokens, hours.

The sums are `planning.estimate`'s, the judgement `planning.fit_check`'s, the measured steps `planning.timing`'s; here
they are put together for a recipe and a text, and printed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from blankfill.cli.recipes import RunArguments, parse

if TYPE_CHECKING:
    import torch

    from blankfill.config.recipe import Recipe
    from blankfill.data.sampler import Sampler
    from blankfill.model.config import TransformerConfig
    from blankfill.planning.estimate import Computing, Part
    from blankfill.planning.fit_check import Room
    from blankfill.planning.timing import Rehearsal
    from blankfill.pretraining.teacher import Teacher
    from blankfill.types import Vocabulary

SECONDS = 20.0
"""How long steps are measured."""
BYTES_PER_TOKEN = 4
"""Text that is not prepared yet is counted at so many bytes a token; prepared English and Chinese had 3 to 5."""


@dataclass(frozen=True)
class Text:
    """What a run reads. samplers: one for each phase. tokens: of the training text, None when there is none.

    exact: whether it was looked at, or only its size. rows: in an epoch, None when unknown. valid_rows: that a
    validation can have. disk: bytes of its token files.
    """

    told: str
    samplers: list[Sampler]
    vocabulary: Vocabulary
    counts: Any = None
    tokens: int | None = None
    exact: bool = False
    rows: int | None = None
    valid_rows: int | None = None
    disk: int = 0


@dataclass(frozen=True, kw_only=True)
class PlanArguments(RunArguments):
    """What a run would take: parameters, memory, disk, tokens and hours.

    Takes the arguments of `blankfill pretrain`. Given a folder made by `blankfill prepare`, it reads rows of that text;
    otherwise it generates rows. A run that will not fit ends with exit code 2 and with what would make it fit.
    """

    GROUPS: ClassVar[Mapping[str, str]] = {
        "Run": "recipe out teacher seed threads",
        "Output": "measure json",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "blankfill plan corpus --recipe bert-base",
        "blankfill plan --recipe glm-large --train.micro-batch 4 --no-measure --json",
    )

    measure: bool = True
    """Time some steps, for about 20 seconds."""
    json: bool = False
    """Print one JSON object."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises UserError: ConfigError with what keeps the run from fitting."""
    args, recipe = parse(PlanArguments, "plan", argv)

    from blankfill.attention.kernels import best_kernel
    from blankfill.errors import ConfigError
    from blankfill.planning import estimate, fit_check
    from blankfill.pretraining.teacher import open_teacher
    from blankfill.system.allocator import keep_freed_memory
    from blankfill.system.device import pick_device
    from blankfill.system.threads import use_threads
    from blankfill.training.precision import pick_dtype

    options = recipe.train
    use_threads(options.threads)
    keep_freed_memory()
    device = pick_device(options.device)
    room = fit_check.room(str(device), args.out)
    dtype = pick_dtype(options.precision, device)
    computing = estimate.Computing(dtype.itemsize, best_kernel(device, dtype), device.type)
    taught = open_teacher(args.teacher, device) if args.teacher else None
    if taught is not None:
        taught.check(recipe, taught.tokenizer)
        taught.loaded.model.use_kernel(computing.kernel)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="blankfill-", ignore_cleanup_errors=True)))
        text = look_at(args.paths, recipe, folder, taught)
        config = recipe.model_config(text.vocabulary.size)
        config = taught.student_config(config, recipe) if taught else config
        kept = estimate.distil_bytes(taught.config, config, recipe.distil) if taught else 0
        left = dataclasses.replace(room, memory=room.memory - kept)
        shapes = [
            estimate.row_shape(estimate.sampled_rows(one), text.vocabulary["pad"], text.counts) for one in text.samplers
        ]
        parts = estimate.parts(options, shapes, [one.objective.length for one in text.samplers])
        problems = fit_check.verdict(config, parts, options, computing, left, text.vocabulary.size)
        measured = None
        if args.measure and not fit_check.misfits(config, shapes, text.vocabulary.size):
            measured = rehearsals(config, parts, recipe, computing, device, dtype, left, text, taught)
        values = plan(recipe, config, parts, computing, room, text, measured, taught)
        values |= {"device": device.type, "compute": str(dtype).removeprefix("torch."), "problems": problems}
        text.samplers.clear()
    if args.json:
        from blankfill.system.console import show

        show(json.dumps(values, indent=1))
    else:
        show_plan(values)
    if problems:
        raise ConfigError(problems)
    return 0


def look_at(paths: Sequence[str], recipe: Recipe, work: Path, taught: Teacher | None = None) -> Text:
    """What a run of this recipe would read: a prepared corpus, or made-up text of the same size."""
    own = taught.tokenizer if taught else None
    from blankfill.corpus.folder import is_prepared
    from blankfill.pretraining import data_setup

    if len(paths) == 1 and is_prepared(Path(paths[0])):
        corpus = data_setup.open_corpus(paths, recipe, work, own, (own,) if own else ())
        phases = data_setup.phases(corpus, recipe)
        valid = phases[-1].valid
        return Text(
            f"{corpus.folder}: {len(corpus.train.tokens):,} training tokens, vocabulary {corpus.vocabulary.size:,}",
            [one.new for one in phases], corpus.vocabulary, corpus.unigram, len(corpus.train.tokens), True,
            phases[-1].train.rows_in_epoch(0), valid.rows_in_epoch(0) if valid is not None else 0,
            sum(path.stat().st_size for path in corpus.folder.glob("*.bin")),
        )  # fmt: skip
    size = source_bytes(paths, recipe) if paths else None
    vocabulary = taught.loaded.vocabulary if taught else expected_vocabulary(recipe, size)
    samplers = made_up(recipe, vocabulary, work)
    if size is None:
        return Text(f"no text given; rows are of made-up text, vocabulary {vocabulary.size:,}", samplers, vocabulary)
    tokens = size // BYTES_PER_TOKEN
    told = f"{size:,} bytes of text, not prepared yet; very roughly {tokens:,} tokens (at {BYTES_PER_TOKEN} bytes each)"
    return Text(
        f"{told}, vocabulary {vocabulary.size:,}", samplers, vocabulary, None, tokens,
        disk=tokens * (2 if vocabulary.size < 1 << 16 else 4),
    )  # fmt: skip


def source_bytes(paths: Sequence[str], recipe: Recipe) -> int:
    """The size of the text at these paths, as far as it can be known without reading it."""
    from blankfill.corpus.prepare import EXPANSION
    from blankfill.corpus.sources import SourceOptions, discover
    from blankfill.errors import UserError

    if "-" in paths:
        raise UserError("plan cannot look at standard input; give files, or a folder made by `blankfill prepare`")
    corpus = recipe.corpus
    sources = discover(paths, SourceOptions(corpus.documents, corpus.text_field, corpus.encoding, corpus.strip))
    return int(sum(source.size * (EXPANSION if source.compression else 1) for source in sources))


def expected_vocabulary(recipe: Recipe, size: int | None) -> Vocabulary:
    """The vocabulary that a run would have: that of a given tokenizer, or a stand-in of the size that is asked for."""
    import numpy as np

    from blankfill.corpus.options import KINDS
    from blankfill.corpus.tokenizer import Tokenizer
    from blankfill.corpus.tokenizer_train import LARGEST_AUTOMATIC, automatic_size
    from blankfill.types import ROLES, Vocabulary

    if recipe.corpus.tokenizer not in KINDS:
        tokenizer = Tokenizer.load(Path(recipe.corpus.tokenizer))
        return tokenizer.with_roles(recipe.objective.roles, recipe.objective.sentinels()).vocabulary()
    asked = recipe.corpus.vocab_size or (LARGEST_AUTOMATIC if size is None else automatic_size(size))
    count = max(asked, 2 * len(ROLES))
    roles = {role: number for number, role in enumerate(ROLES)}
    size = count + recipe.objective.sentinels()
    sentinels = tuple(reversed(range(count, size)))
    special = frozenset([*roles.values(), *sentinels])
    return Vocabulary(size, roles, special, np.ones(size, np.bool_), sentinels=sentinels)


def made_up(recipe: Recipe, vocabulary: Vocabulary, folder: Path) -> list[Sampler]:
    """Rows of text that means nothing: documents of 100 to 1,500 tokens in sentences of 5 to 45, drawn evenly."""
    import numpy as np

    from blankfill.corpus.indexed import IndexedCorpus, IndexedWriter
    from blankfill.data.sampler import Sampler
    from blankfill.planning.estimate import SAMPLED_ROWS

    options, objective = recipe.train, recipe.objective
    rng = np.random.default_rng(recipe.seed)
    ordinary = np.setdiff1d(np.arange(vocabulary.size), list(vocabulary.special))
    with IndexedWriter(folder / "train", np.uint16 if vocabulary.size < 1 << 16 else np.int32) as writer:
        written = 0
        while written < 2 * SAMPLED_ROWS * objective.length:
            sentences = rng.integers(5, 46, int(rng.integers(4, 60))).tolist()
            writer.add_document(rng.choice(ordinary, sum(sentences)), sentences)
            written += sum(sentences)
    corpus = IndexedCorpus(folder / "train")
    lengths = [options.phase1_length, objective.length] if options.long_from else [objective.length]
    return [Sampler(corpus, dataclasses.replace(objective, length=n), vocabulary, recipe.seed) for n in lengths]


def rehearsals(
    config: TransformerConfig,
    parts: list[Part],
    recipe: Recipe,
    computing: Computing,
    device: torch.device,
    dtype: torch.dtype,
    room: Room,
    text: Text,
    taught: Teacher | None = None,
) -> list[Rehearsal] | None:
    """Timed steps of each phase; None when not even one layer fits."""
    from blankfill.data.batching import collate
    from blankfill.planning.estimate import SAMPLED_ROWS, sampled_rows
    from blankfill.planning.timing import rehearse
    from blankfill.system.console import say
    from blankfill.types import Batch

    say(f"timing some steps on {device.type}, about {SECONDS:.0f} s")
    found = []
    for part, sampler in zip(parts, text.samplers, strict=True):

        def batch(rows: int, sampler: Sampler = sampler) -> Batch:
            some = sampled_rows(sampler, max(rows, SAMPLED_ROWS))
            widest = sorted(some, key=lambda row: sum(map(len, row)), reverse=True)[:rows]
            return collate(widest, text.vocabulary["pad"])

        one = rehearse(
            config, part, recipe.train, computing, device, dtype, room.memory, batch, SECONDS / len(parts),
            taught.distillation(recipe) if taught else None,
        )  # fmt: skip
        if one is None:
            return None
        found.append(one)
    return found


def plan(
    recipe: Recipe,
    config: TransformerConfig,
    parts: list[Part],
    computing: Computing,
    room: Room,
    text: Text,
    measured: list[Rehearsal] | None,
    taught: Teacher | None = None,
) -> dict[str, Any]:
    """All figures, as JSON values. Memory and disk in bytes, time in seconds."""
    from blankfill.planning import estimate
    from blankfill.planning.timing import run_seconds

    options = recipe.train
    weights = estimate.parameters(config)
    count = sum(weights.values())
    needs = [
        estimate.memory(config, p.shape, options, computing, p.micro, options.gradient_checkpointing) for p in parts
    ]
    worst = max(range(len(parts)), key=lambda k: needs[k].peak)
    tokens = sum(part.rows * part.shape.tokens for part in parts)
    row_flops = [estimate.training_flops(config, part.shape) for part in parts]
    memory = {**dataclasses.asdict(needs[worst]), "rows_at_a_time": parts[worst].micro, "free": room.memory}
    if taught is not None:
        row_flops = [
            own + estimate.distil_flops(taught.config, config, recipe.distil, part.shape)
            for own, part in zip(row_flops, parts, strict=True)
        ]
        kept = estimate.distil_bytes(taught.config, config, recipe.distil)
        memory = {"teacher": kept, **memory, "peak": needs[worst].peak + kept}
    flops = sum(part.rows * one for part, one in zip(parts, row_flops, strict=True))
    rows = sum(part.rows for part in parts)
    full = parts[-1].shape
    epochs = None
    if text.tokens:
        epochs = rows / text.rows if text.rows and len(parts) == 1 else tokens / text.tokens
    values: dict[str, Any] = {
        "recipe": recipe.name,
        "text": text.told,
        "parameters": {**weights, "total": count},
        "rows": [
            {**{k: v for k, v in dataclasses.asdict(p.shape).items() if k not in ("ids", "positions")},
             "rows": p.rows, "at_a_time": p.micro} for p in parts
        ],
        "memory": memory,
        "disk": {
            "checkpoint": estimate.checkpoint_bytes(config, options),
            "checkpoints": estimate.disk_bytes(config, options),
            "token_files": text.disk,
            "free": room.disk,
        },
        "run": {
            "steps": options.steps,
            "rows": rows,
            "tokens_per_step": options.batch_size * full.tokens,
            "tokens": tokens,
            "epochs": epochs,
            "epochs_exact": text.exact,
            "tokens_per_parameter": tokens / count,
            "flops_per_step": options.batch_size * row_flops[-1],
            "flops": flops,
        },
        "time": None,
        "remarks": remarks(recipe, tokens / count, text, bool(measured)),
    }  # fmt: skip
    if measured:
        available = options.eval_rows if text.valid_rows is None else min(options.eval_rows, text.valid_rows)
        training, validation = run_seconds(measured, parts, options, available)
        last = measured[-1]
        values["time"] = {
            "training": training,
            "validation": validation,
            "step": options.batch_size / parts[-1].micro * last.micro_seconds + last.update_seconds,
            "tokens_per_second": tokens / training,
            "flops_per_second": flops / training,
            "matmul_rate": last.peak,
            "measured": [dataclasses.asdict(one) for one in measured],
            "layers": config.num_layers,
        }
    return values


def remarks(recipe: Recipe, ratio: float, text: Text, measured: bool) -> list[str]:
    """What a user should know of these figures, a sentence each."""
    from blankfill.planning.estimate import CHINCHILLA

    found = []
    if recipe.objective.name == "gpt":
        found.append(
            f"{ratio:,.1f} tokens a parameter; for a left-to-right model Hoffmann et al. 2022 found about {CHINCHILLA} "
            "best for a given amount of computing: with fewer a smaller model would do as well, with more a larger one"
        )
    if recipe.corpus.vocab_size and not recipe.corpus.vocab_exact and not text.exact:
        found.append("the size of the vocabulary is a wish; a small text gets a smaller one, and so a smaller model")
    if measured and hasattr(os, "getloadavg") and os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1):
        found.append("other programs keep this machine busy, so the times are longer than they need be")
    return found


def show_plan(values: dict[str, Any]) -> None:
    """Print the figures as tables."""
    from blankfill.system.console import amount, show, table

    show(f"Plan of {values['recipe']} on {values['device']}, computing in {values['compute']}")
    show(f"  text: {values['text']}")
    table("Parameters", [(name, f"{count:,}") for name, count in values["parameters"].items()])
    rows = [
        (f"{part['rows']:,}", f"{part['columns']:,}", f"{part['tokens']:.1f}", f"{part['targets']:.1f}", part["mask"],
         f"{part['at_a_time']:,}") for part in values["rows"]
    ]  # fmt: skip
    table("Rows", rows, ("rows in the run", "columns", "tokens", "answers", "mask", "rows at a time"))
    memory = dict(values["memory"])
    at_a_time = memory.pop("rows_at_a_time")
    names = {
        "loss": "loss (gradients made ahead)", "working": "temporaries", "batches": "batches ready",
        "saving": "copy to save from", "peak": "at the worst moment", "free": "free here",
    }  # fmt: skip
    table(
        f"Memory in training, {at_a_time:,} rows at a time",
        [(names.get(name, name), amount(size, "B")) for name, size in memory.items()],
    )
    disk = values["disk"]
    kept = round(disk["checkpoints"] / disk["checkpoint"])
    table("Disk", [
        ("one checkpoint", amount(disk["checkpoint"], "B")),
        ("at the worst moment", f"{amount(disk['checkpoints'], 'B')} ({kept}: kept, best and being written)"),
        ("token files", amount(disk["token_files"], "B")),
        ("free here", amount(disk["free"], "B")),
    ])  # fmt: skip
    run = values["run"]
    about = "" if run["epochs_exact"] else "very roughly "
    table("Run", [
        ("steps", f"{run['steps']:,}"),
        ("tokens a step", f"{run['tokens_per_step']:,.0f}"),
        ("tokens in all", f"{run['tokens']:,.0f}"),
        *([("times through the text", f"{about}{run['epochs']:,.3g}")] if run["epochs"] is not None else []),
        ("FLOPs a step", f"{run['flops_per_step']:.3g}"),
        ("FLOPs in all", f"{run['flops']:.3g}"),
    ])  # fmt: skip
    if values["time"]:
        show_time(values["time"])
    for remark in values["remarks"]:
        show(f"Note: {remark}")


def show_time(time: dict[str, Any]) -> None:
    """Print how long the run would take, and what that was measured with."""
    from blankfill.system.console import show, table

    share = time["flops_per_second"] / time["matmul_rate"]
    table("Time on this machine", [
        ("a step", spoken(time["step"])),
        ("tokens a second", f"{time['tokens_per_second']:,.0f}"),
        ("training", spoken(time["training"])),
        ("validation", spoken(time["validation"])),
        ("in all", spoken(time["training"] + time["validation"])),
        ("FLOP/s", f"{time['flops_per_second']:.3g}, {share:.0%} of the rate of matrix products alone"),
    ])  # fmt: skip
    trials = [trial for one in time["measured"] for trial in one["trials"]]
    for trial in trials:
        told = f"{trial['layers']} of {time['layers']} layers, rows at a time {trial['rows']}, steps {trial['steps']}"
        show(f"  timed: {told}: {spoken(trial['seconds'])} each")
    if len(trials) > len(time["measured"]):
        show("  the whole model with all its rows is reckoned from these")


def spoken(seconds: float) -> str:
    """A time in the unit that fits."""
    for unit, size, limit in (("ms", 1e-3, 1.0), ("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("hours", 3600.0, 259200.0)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    days = seconds / 86400
    return f"{days:,.0f} days" if days < 800 else f"{days / 365.25:,.1f} years"
