"""Predictions of a fine-tuned model on new items, and scores of predictions that lie in a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blankfill.console import say
from blankfill.errors import ConfigError, UserError
from blankfill.finetune import adapter_of, answering, patterns_of, with_kept_patterns
from blankfill.inputs import patterns_mark
from blankfill.tasks.given import NEEDED, OWN_FORM, items_of_row, missing
from blankfill.tasks.items import ChoiceItem, GenerationItem, Item, MixedItem, QuestionItem, Split, TaggedItem, TextItem
from blankfill.tasks.mixture import Mixture
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.pattern import PATTERNS
from blankfill.tasks.registry import task_named
from blankfill.tasks.rows import UnusableError, joined_lines
from blankfill.tasks.run_files import ASKED, RESULTS
from blankfill.tasks.task import Task
from blankfill.tasks.together import combined, logs_of
from blankfill.threads import use_threads

if TYPE_CHECKING:
    from blankfill.tasks.adapter import Adapter, Decided

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
        from blankfill.checkpoint.load import Loaded, with_roles_of
        from blankfill.corpus.identity import check_tokenizer
        from blankfill.corpus.tokenizer import Tokenizer
        from blankfill.model.config import config_from_values
        from blankfill.model.layout import lay_out_to_write
        from blankfill.model.transformer import Transformer
        from blankfill.objectives import OBJECTIVES
        from blankfill.tasks.seq2seq_adapter import Write
        from blankfill.train.precision import pick_device

        use_threads(threads)
        path = Path(path)
        run = path if not (path / store.STATE).exists() else path.parent.parent
        found = best_checkpoint(path)
        state = found.state
        config = config_from_values(state["model"])
        values = dict(state["objective"])
        objective = OBJECTIVES[values.pop("name")](**values)
        tokenizer = Tokenizer.load(run)
        check_tokenizer(state, tokenizer, run, found.path)
        with torch.device("meta"):
            encoder = Transformer(config)
            if rank := state["task"]["options"]["lora_rank"]:
                add_lora(encoder, rank)
        loaded = Loaded(encoder, tokenizer, with_roles_of(tokenizer.vocabulary(), state), objective, path)
        self.task = task_named(state["task"]["name"])
        self.options = with_kept_patterns(FinetuneOptions(**state["task"]["options"]), run)
        self._search(n_best, search or {})
        self.adapter = adapter_of(self.task, tuple(state["task"]["labels"]), loaded, self.options)
        self.labels = self.adapter.labels
        noted = state["inputs"].get("patterns") if isinstance(state.get("inputs"), dict) else None
        if noted not in (None, patterns_mark(patterns_of(self.adapter))):
            raise UserError(f"{run / PATTERNS} is not what the model was trained with; put that file back")
        if isinstance(self.adapter, Write):
            self.adapter.shown = n_best
        with torch.device("meta"):
            model = answering(encoder, self.adapter, self.options)
        model.load_state_dict(found.model, assign=True)
        if self.options.lora_rank:
            merge_lora(encoder)
        self.device, self.dtype = pick_device(device), torch.float32
        self.model = model.to(self.device).eval()
        self.model.encoder.use_kernel(best_kernel(self.device, self.dtype))
        if isinstance(self.adapter, Write):
            lay_out_to_write(self.model.encoder)
        self.pad = loaded.vocabulary.roles.get("pad", 0)
        if (run / RESULTS).exists() and hasattr(self.adapter, "threshold"):
            self.adapter.threshold = json.loads((run / RESULTS).read_text(encoding="utf-8")).get("threshold")

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

    def predict(self, items: Sequence[Item]) -> list[Decided]:
        """A prediction for each item."""
        from blankfill.tasks.writing import examiner

        if not items:
            return []
        decided, _ = examiner(self.adapter, items, self.pad).decide(self.model, self.device, self.dtype)
        return decided


class TogetherPredictor:
    """The models of all patterns, which answer together as they are weighted (PET's ensemble)."""

    def __init__(self, members: Sequence[Predictor], weights: Sequence[float]) -> None:
        self.members, self.weights = members, weights
        self.task, self.labels = members[0].task, members[0].labels

    def logs(self, items: Sequence[Item]) -> list[NDArray[np.float64]]:
        """For each item the mean log-probability of its labels, float64[C]."""
        said = [[one.shown["probabilities"] for one in member.predict(items)] for member in self.members]
        return [combined(logs_of(one), self.weights) for one in zip(*said, strict=True)]

    def predict(self, items: Sequence[Item]) -> list[Decided]:
        """A prediction for each item."""
        from blankfill.tasks.text_adapters import chosen, classified

        joined = [one.astype(np.float32) for one in self.logs(items)]
        return [
            chosen(item, one) if isinstance(item, ChoiceItem) else classified(one, self.labels)
            for item, one in zip(items, joined, strict=True)
        ]


AnyPredictor = Predictor | TogetherPredictor


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
    if patterns := results.get("patterns"):
        try:
            weights = [float(one["untrained"]) for one in patterns]
            folders = [path / str(one["folder"]) for one in patterns]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path / RESULTS}: its list of patterns cannot be read ({error})") from error
        say(f"{path}: {len(folders)} patterns answer together")
        threads = use_threads(threads)
        return TogetherPredictor([Predictor(folder, device, threads, n_best, search) for folder in folders], weights)
    if isinstance(best := results.get("best"), dict) and "best_run" in best:
        run = str(best["best_run"])
        say(f"{path}: of its runs {run} answers, the best of the best setting ({best.get('setting')})")
        return Predictor(path / run, device, threads, n_best, search)
    return Predictor(path, device, threads, n_best, search)


def _results(path: Path) -> dict[str, Any]:
    """The results of several runs below a folder, {} for a run of its own."""
    if (path / ASKED).exists() or not (path / RESULTS).exists():
        return {}
    try:
        found = json.loads((path / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path / RESULTS}: not readable ({error}); give the command that wrote it again") from error
    return found if isinstance(found, dict) else {}


def best_checkpoint(path: Path) -> Any:
    """The checkpoint of a fine-tuning run that did best on its dev set, or the one in the folder itself."""
    from blankfill.checkpoint import store

    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give a run made by `blankfill finetune`")
    if (path / store.STATE).exists():
        found: Any = store.read(path, with_optimizer=False)
    elif (path / "best").exists():
        name = (path / "best").read_text(encoding="utf-8").strip()
        found = store.read(path / "checkpoints" / name, with_optimizer=False)
    else:
        found = store.newest(path / "checkpoints", with_optimizer=False)
    if found is None or "task" not in found.state:
        raise UserError(f"{path}: not a fine-tuned model; train one with `blankfill finetune`")
    return found


def items_of(task: Task, rows: Iterator[tuple[str, str]]) -> Iterator[Item]:
    """Items from lines, (where it stands, line) each: JSON objects with the fields of the task, or plain lines.

    The rows of SuperGLUE and CLUE are those of their files, or flatter (`tasks.given`); those of other tasks have the
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
        try:
            given = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not a JSON object ({error}); is the line whole?") from error
    elif task.kind in ("choice", "answer") or task.name in OWN_FORM:
        raise UserError(f"{where}: give a JSON object with {', '.join(fields)}")
    elif task.kind == "tag":
        given = {"words": line.split()}
    else:
        first, _, second = line.partition("\t")
        given = {FIELDS[task.kind][0]: first, **({"second": second} if second else {})}
    if task.name in OWN_FORM or (task.name in NEEDED and "text" not in given):
        return _own_rows(task, given, number, where)
    return [_item(task.kind, given, str(given.get("id", number)), where)]


def _member(task: Mixture, where: str, line: str) -> Task:
    """The member of a mixture that a row is for."""
    try:
        given = json.loads(line)
        name = given["task"]
    except (ValueError, TypeError, KeyError) as error:
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
        return ChoiceItem(id, str(given["context"]), tuple(map(str, given["choices"])))
    if kind == "answer":
        return QuestionItem(id, str(given["question"]), str(given["context"]))
    if kind == "tag":
        return TaggedItem(id, tuple(map(str, given["words"])))
    beside = str(given["second"]) if given.get("second") is not None else None
    if kind == "generate":
        if not str(given["source"]).strip():
            raise UserError(f"{where}: the source is empty; give it a text, or leave the line out")
        return GenerationItem(id, str(given["source"]), (), beside)
    return TextItem(id, str(given["text"]), beside)


def score_predictions(
    task: Task, data: Path, split: str, predictions: Path, null_odds: Path | None = None
) -> dict[str, float]:
    """The task's metrics of a predictions file: JSON lines of `predict` or `finetune`, or SQuAD's JSON object.

    null_odds: for SQuAD 2.0, a JSON object of question id and how much likelier no answer is; the best exact match and
    F1 that a threshold reaches, and the threshold of each, are added, as the official script's `--na-prob-file` does.
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
    decided = [_parsed(adapter, shown[id], id, predictions) for id in known]
    best = {} if null_odds is None else _best_of_odds(task, read, {id: shown[id] for id in known}, null_odds)
    return adapter.measure(read.items, decided) | best


def _best_of_odds(task: Task, read: Split, shown: Mapping[str, Mapping[str, Any]], null_odds: Path) -> dict[str, float]:
    from blankfill.tasks.question_metrics import best_threshold
    from blankfill.tasks.squad import read_null_odds

    if not any(name.startswith("no-answer") for name in task.metrics):
        raise UserError(f"--null-odds: every question of {task.name} has an answer; leave it out")
    odds = read_null_odds(null_odds)
    predicted = {id: str(one["answer"]) for id, one in shown.items()}
    found: dict[str, float] = {}
    for metric in ("exact", "f1"):
        value, threshold = best_threshold(read.questions(), predicted, odds, metric)
        found |= {f"best-{metric}": value, f"best-{metric}-threshold": threshold}
    return found


def _parsed(adapter: Adapter, shown: Mapping[str, Any], id: str, path: Path) -> Decided:
    try:
        return adapter.parse(shown)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: the prediction for {id} cannot be read ({error}); see docs/finetune.md") from error


def read_predictions(path: Path) -> dict[str, Mapping[str, Any]]:
    """Predictions by the ids of their items."""
    text = joined_lines(path).strip()
    try:
        whole = json.loads(text)
        if isinstance(whole, dict) and "id" not in whole:
            return {str(id): {"answer": answer} for id, answer in whole.items()}
    except ValueError:
        pass  # several lines
    found: dict[str, Mapping[str, Any]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        try:
            row = json.loads(line)
            found[str(row["id"])] = row
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: not a prediction (a JSON object with an id)") from error
    return found
