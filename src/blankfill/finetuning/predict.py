"""Predictions of a fine-tuned model on new items, and scores of predictions that lie in a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blankfill.errors import ConfigError, UserError
from blankfill.finetuning.run import adapter_of, answering, patterns_of, with_kept_patterns
from blankfill.runs.inputs import patterns_mark
from blankfill.system.console import say
from blankfill.system.loader import build, fitting
from blankfill.system.reading import field, of_kind, parse_json, read_json, shown
from blankfill.system.threads import use_threads
from blankfill.tasks.cloze.pattern import PATTERNS
from blankfill.tasks.cloze.soft_labels import combined, logs_of
from blankfill.tasks.datasets.files import UnusableError, joined_lines
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.datasets.row_formats import NEEDED, OWN_FORM, items_of_row, missing
from blankfill.tasks.items import ChoiceItem, GenerationItem, Item, MixedItem, QuestionItem, Split, TaggedItem, TextItem
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.run_files import CONFIG, RESULTS
from blankfill.tasks.task import Task
from blankfill.tasks.text.mixture import Mixture

if TYPE_CHECKING:
    from blankfill.tasks.adapter import Adapter, Prediction

FIELDS: dict[str, tuple[str, ...]] = {
    "classify": ("text", "second"), "regress": ("text", "second"), "multilabel": ("text", "second"),
    "choice": ("context", "choices"), "tag": ("words",), "answer": ("question", "context"),
    "generate": ("source", "second"),
}  # fmt: skip
"""The fields of a row, for each kind of task; `second` may be missing."""


class Predictor:
    """A fine-tuned model: the best checkpoint of a run, or a checkpoint folder of one."""

    def __init__(
        self,
        path: str | Path,
        device: str = "auto",
        threads: int = 0,
        n_best: int = 1,
        search: Mapping[str, Any] | None = None,
    ) -> None:
        """n_best: of a model that writes, how many texts of each item are told. search: its options that are other than
        when it was trained (beams, length_penalty, no_repeat_ngram).

        Raises UserError when the folder holds no fine-tuned model, or options are none of its.
        """
        import torch

        from blankfill.adapt.lora import add_lora, merge_lora
        from blankfill.attention.kernels import best_kernel
        from blankfill.checkpoint import store
        from blankfill.checkpoint.load import Loaded, check_vocabulary, with_roles_of
        from blankfill.corpus.identity import check_tokenizer
        from blankfill.corpus.tokenizer import Tokenizer
        from blankfill.model.layout import lay_out_to_write
        from blankfill.model.transformer import Transformer
        from blankfill.system.device import pick_device
        from blankfill.tasks.text.seq2seq_adapter import Write

        use_threads(threads)
        path = Path(path)
        run = path if not (path / store.STATE).exists() else path.parent.parent
        found = best_checkpoint(path)
        state = found.state
        config, objective = store.model_of(state, found.path), store.objective_of(state, found.path)
        told = field(state, "task", dict, where := found.path / store.STATE)
        self.task = task_named(field(told, "name", str, where))
        options = build(FinetuneOptions, field(told, "options", dict, where), f"{where}: `options`")
        if problems := options.problems():
            raise ConfigError([f"{where}: {problem}" for problem in problems])
        labels = fitting(field(told, "labels", list, where), tuple[str, ...], f"{where}: `labels`")
        tokenizer = Tokenizer.load(run)
        check_tokenizer(state, tokenizer, run, found.path)
        vocabulary = with_roles_of(tokenizer.vocabulary(), store.roles_of(state, found.path))
        check_vocabulary(vocabulary, config, run)
        with torch.device("meta"):
            encoder = Transformer(config)
            if options.lora_rank:
                add_lora(encoder, options.lora_rank)
        loaded = Loaded(encoder, tokenizer, vocabulary, objective, path)
        self.options = with_kept_patterns(options, run)
        self._search(n_best, search or {})
        self.adapter = adapter_of(self.task, labels, loaded, self.options)
        self.labels = self.adapter.labels
        noted = state["inputs"].get("patterns") if isinstance(state.get("inputs"), dict) else None
        if noted not in (None, patterns_mark(patterns_of(self.adapter))):
            raise UserError(f"{run / PATTERNS} is not what the model was trained with; put that file back")
        if isinstance(self.adapter, Write):
            self.adapter.n_best = n_best
        with torch.device("meta"):
            model = answering(encoder, self.adapter, self.options)
        store.put_weights(model, found.model, found.path, assign=True)
        if self.options.lora_rank:
            merge_lora(encoder)
        self.device, self.dtype = pick_device(device), torch.float32
        self.model = model.to(self.device).eval()
        self.model.encoder.use_kernel(best_kernel(self.device, self.dtype))
        if isinstance(self.adapter, Write):
            lay_out_to_write(self.model.encoder)
        self.pad = loaded.vocabulary.roles.get("pad", 0)
        if (run / RESULTS).exists() and hasattr(self.adapter, "threshold"):
            results = read_json(run / RESULTS)
            if results.get("threshold") is not None:
                self.adapter.threshold = field(results, "threshold", float, run / RESULTS)

    def _search(self, n_best: int, search: Mapping[str, Any]) -> None:
        """Take over what is asked of a search."""
        given = [*search, *(["n_best"] if n_best != 1 else [])]
        if given and self.task.kind != "generate" and self.options.method != "text":
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise UserError(f"{self.task.name} is a task of kind {self.task.kind}, not of writing; leave out {names}")
        self.options = dataclasses.replace(self.options, **search)
        problems = self.options.problems()
        if n_best < 1:
            problems.append(f"--n-best is {n_best}; it must be at least 1")
        if problems:
            raise ConfigError(problems)

    def predict(self, items: Sequence[Item]) -> list[Prediction]:
        """A prediction for each item."""
        from blankfill.tasks.text.writing import evaluator_for

        if not items:
            return []
        predictions, _ = evaluator_for(self.adapter, items, self.pad).predict(self.model, self.device, self.dtype)
        return predictions


class EnsemblePredictor:
    """The models of all patterns, which answer together as they are weighted (PET's ensemble)."""

    def __init__(self, members: Sequence[Predictor], weights: Sequence[float]) -> None:
        self.members, self.weights = members, weights
        self.task, self.labels = members[0].task, members[0].labels

    def logs(self, items: Sequence[Item]) -> list[NDArray[np.float64]]:
        """For each item the mean log-probability of its labels, float64[C]."""
        said = [[one.record["probabilities"] for one in member.predict(items)] for member in self.members]
        return [combined(logs_of(one), self.weights) for one in zip(*said, strict=True)]

    def predict(self, items: Sequence[Item]) -> list[Prediction]:
        """A prediction for each item."""
        from blankfill.tasks.heads.texts import chosen, classified

        joined = [one.astype(np.float32) for one in self.logs(items)]
        return [
            chosen(item, one) if isinstance(item, ChoiceItem) else classified(one, self.labels)
            for item, one in zip(items, joined, strict=True)
        ]


AnyPredictor = Predictor | EnsemblePredictor


def open_predictor(
    path: str | Path,
    device: str = "auto",
    threads: int = 0,
    n_best: int = 1,
    search: Mapping[str, Any] | None = None,
) -> AnyPredictor:
    """The model of a run or of a checkpoint folder; of a grid's folder its best run; of an ensemble's all together.

    n_best, search: of a model that writes; see `Predictor`.
    Raises UserError when the folder holds no fine-tuned model.
    """
    path = Path(path)
    results = _results(path)
    if results.get("patterns"):
        where = f"{path / RESULTS}: `patterns`"
        patterns = [of_kind(one, dict, where) for one in field(results, "patterns", list, path / RESULTS)]
        weights = [field(one, "untrained", float, where) for one in patterns]
        folders = [_inside(path, field(one, "folder", str, where)) for one in patterns]
        if min(weights) < 0:
            raise UserError(f"{where}: a weight is negative")
        say(f"{path}: {len(folders)} patterns answer together")
        threads = use_threads(threads)
        return EnsemblePredictor([Predictor(folder, device, threads, n_best, search) for folder in folders], weights)
    if isinstance(best := results.get("best"), dict) and "best_run" in best:
        run = field(best, "best_run", str, path / RESULTS)
        say(f"{path}: of its runs {run} answers, the best of the best setting ({best.get('setting')})")
        return Predictor(_inside(path, run), device, threads, n_best, search)
    return Predictor(path, device, threads, n_best, search)


def _inside(path: Path, name: str) -> Path:
    """A run of several, below their folder. Raises UserError for a name that leads out of it."""
    if Path(name).name != name or name == "..":
        raise UserError(f"{path / RESULTS} names the run {shown(name)}, which is not a folder beside it")
    return path / name


def _results(path: Path) -> dict[str, Any]:
    """The results of several runs below a folder, {} for a run of its own."""
    if (path / CONFIG).exists() or not (path / RESULTS).exists():
        return {}
    try:
        return read_json(path / RESULTS)
    except UserError as error:
        raise UserError(f"{error}; give the command that wrote it again") from error


def best_checkpoint(path: Path) -> Any:
    """The checkpoint of a fine-tuning run that did best on its dev set, or the one in the folder itself."""
    from blankfill.checkpoint import store

    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give a run made by `blankfill finetune`")
    if (path / store.STATE).exists():
        found: Any = store.read(path, with_optimizer=False)
    elif (path / "best").exists():
        found = store.read(store.named_by(path / "best"), with_optimizer=False)
    else:
        found = store.newest(path / "checkpoints", with_optimizer=False)
    if found is None or "task" not in found.state:
        raise UserError(f"{path}: not a fine-tuned model; train one with `blankfill finetune`")
    return found


def items_of(task: Task, rows: Iterator[tuple[str, str]]) -> Iterator[Item]:
    """Items from lines, (where it stands, line) each: JSON objects with the fields of the task, or plain lines.

    The rows of SuperGLUE and CLUE are those of their files, or flatter (`tasks.datasets.row_formats`); those of other
    tasks have the
    fields of their kind. A plain line is a text, or two parted by a tab; for tagging, words parted by spaces. Raises
    UserError that names the line which is neither.
    """
    for number, (where, line) in enumerate(rows):
        if not line.strip():
            raise UserError(f"{where}: the line is empty; leave it out")
        yield from _items(task, number, where, line)


def _items(task: Task, number: int, where: str, line: str) -> Sequence[Item]:
    if isinstance(task, Mixture):
        member = _member(task, where, line)
        return [MixedItem(item.id, member.name, item) for item in _items(member, number, where, line)]
    given: Any = None
    fields = NEEDED.get(task.name, FIELDS[task.kind])
    if line.lstrip().startswith("{"):
        given = parse_json(line, where)
    elif task.kind in ("choice", "answer") or task.name in OWN_FORM:
        raise UserError(f"{where}: give a JSON object with {', '.join(fields)}")
    elif task.kind == "tag":
        given = {"words": line.split()}
    else:
        first, _, second = line.partition("\t")
        given = {FIELDS[task.kind][0]: first, **({"second": second} if second else {})}
    if task.name in OWN_FORM or (task.name in NEEDED and "text" not in given):
        return _own_rows(task, given, number, where)
    return [_item(task.kind, given, _text(given, "id", where) if "id" in given else str(number), where)]


def _text(given: Mapping[str, Any], name: str, where: str) -> str:
    """A field of a row that is a text, or a number in its place; UserError for anything else."""
    value = given[name]
    return str(value) if type(value) in (int, float) else field(given, name, str, where)


def _texts(given: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    """A field of a row that is a list of texts, one at least."""
    found = tuple(_text({name: one}, name, where) for one in field(given, name, list, where))
    if not found:
        raise UserError(f"{where}: `{name}` is empty; leave the line out")
    return found


def _member(task: Mixture, where: str, line: str) -> Task:
    """The member of a mixture that a row is for."""
    try:
        name = field(parse_json(line, where), "task", str, where)
    except UserError as error:
        raise UserError(f'{where}: give a JSON object that says whose row it is: "task": one of {task.name}') from error
    if name not in (names := {one.name: one for one in task.members}):
        raise UserError(f"{where}: the task {name} is none of {task.name}, for which the model was fine-tuned")
    return names[name]


def _own_rows(task: Task, given: Mapping[str, Any], number: int, where: str) -> Sequence[Item]:
    """The items of a row in the form of its benchmark."""
    if lacking := missing(task.name, given):
        needed = ", ".join(NEEDED[task.name])
        raise UserError(f"{where}: there is no {' and no '.join(lacking)}; a row of {task.name} has {needed}")
    try:
        return items_of_row(task, given, number)
    except UnusableError as error:
        raise UserError(f"{where}: the row {error}; see docs/finetune.md for the fields of {task.name}") from error


def _item(kind: str, given: Mapping[str, Any], id: str, where: str) -> Item:
    needed = [name for name in FIELDS[kind] if name != "second"]
    if lacking := [name for name in needed if name not in given]:
        raise UserError(f"{where}: there is no {' and no '.join(lacking)}; its fields are {', '.join(given)}")
    if kind == "choice":
        return ChoiceItem(id, _text(given, "context", where), _texts(given, "choices", where))
    if kind == "answer":
        return QuestionItem(id, _text(given, "question", where), _text(given, "context", where))
    if kind == "tag":
        return TaggedItem(id, _texts(given, "words", where))
    beside = _text(given, "second", where) if given.get("second") is not None else None
    if kind == "generate":
        source = _text(given, "source", where)
        if not source.strip():
            raise UserError(f"{where}: the source is empty; give it a text, or leave the line out")
        return GenerationItem(id, source, (), beside)
    return TextItem(id, _text(given, "text", where), beside)


def score_predictions(
    task: Task, data: Path, split: str, predictions: Path, na_prob_file: Path | None = None
) -> dict[str, float]:
    """The task's metrics of a predictions file: JSON lines of `predict` or `finetune`, or SQuAD's JSON object.

    na_prob_file: for SQuAD 2.0, a JSON object of question id and how much likelier no answer is; the best exact match
    and F1 that a threshold reaches, and the threshold of each, are added, as the official script's `--na-prob-file`
    does.
    Raises UserError for items without a prediction, for unknown ids, and for rows that say nothing.
    """
    from blankfill.tasks.adapters import ADAPTERS

    if task.kind not in ADAPTERS:
        raise UserError(
            f"{task.name} is a task of kind {task.kind}, for which no file of predictions is scored; --model measures "
            "a model on wikitext2 and lambada"
        )
    taught = task.read(data, "train").labels if data.is_dir() and "train" in task.splits(data) else ()
    read = task.read(data, split, taught)
    adapter = ADAPTERS[task.kind](task, task.labels or taught or read.labels, FinetuneOptions())
    shown = read_predictions(predictions)
    known = [item.id for item in read.items]
    if missing := [id for id in known if id not in shown]:
        raise UserError(f"{predictions}: {len(missing)} of {len(known)} items have no prediction, such as {missing[0]}")
    if strange := sorted(shown.keys() - set(known)):
        raise UserError(f"{predictions}: {len(strange)} ids are not in {data}, such as {strange[0]}")
    parsed = [_parsed(adapter, shown[id], id, predictions) for id in known]
    best = {} if na_prob_file is None else _best_of_odds(task, read, {id: shown[id] for id in known}, na_prob_file)
    return adapter.measure(read.items, parsed) | best


def _best_of_odds(
    task: Task, read: Split, shown: Mapping[str, Mapping[str, Any]], na_prob_file: Path
) -> dict[str, float]:
    from blankfill.tasks.datasets.squad import read_null_odds
    from blankfill.tasks.metrics.questions import best_threshold

    if not any(name.startswith("no-answer") for name in task.metrics):
        raise UserError(f"--na-prob-file: every question of {task.name} has an answer; leave it out")
    odds = read_null_odds(na_prob_file)
    predicted = {id: str(one["answer"]) for id, one in shown.items()}
    found: dict[str, float] = {}
    for metric in ("exact", "f1"):
        value, threshold = best_threshold(read.questions(), predicted, odds, metric)
        found |= {f"best-{metric}": value, f"best-{metric}-threshold": threshold}
    return found


def _parsed(adapter: Adapter, shown: Mapping[str, Any], id: str, path: Path) -> Prediction:
    try:
        return adapter.parse(shown)
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{path}: the prediction for {id} cannot be read ({error}); see docs/finetune.md") from error


def read_predictions(path: Path) -> dict[str, Mapping[str, Any]]:
    """Predictions by the ids of their items."""
    text = joined_lines(path).strip()
    with suppress(UserError):  # several lines
        whole = parse_json(text, path)
        if "id" not in whole:
            return {str(id): {"answer": answer} for id, answer in whole.items()}
    found: dict[str, Mapping[str, Any]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        row = parse_json(line, f"{path}, line {number}")
        if type(row.get("id")) not in (str, int):
            raise UserError(f"{path}, line {number}: not a prediction (a JSON object with an id)")
        found[str(row["id"])] = row
    return found
