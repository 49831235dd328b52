"""A fine-tuned model as it is read from a folder: a checkpoint of a run, an imported model, or a transformers folder.

`Predictor` builds the module from it. A folder of transformers has a head where its config.json names one of the
classes of `families.task_heads`; its task is one on the user's own tables (`tasks.datasets.tabular`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import ConfigError, UserError, setting
from blankfill.finetuning.config import read_config
from blankfill.system.console import say
from blankfill.system.loader import build, fitting
from blankfill.system.reading import field, read_json, shown
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.run_files import CONFIG, RESULTS

if TYPE_CHECKING:
    import torch

    from blankfill.checkpoint.hf_loading import ExternalCheckpoint
    from blankfill.checkpoint.quantization import Quantization
    from blankfill.corpus.tokenizer import Tokenizer
    from blankfill.families.task_heads import HeadKind
    from blankfill.model.config import TransformerConfig
    from blankfill.model.transformer import Transformer
    from blankfill.objectives import Objective
    from blankfill.tasks.task import Task
    from blankfill.types import Vocabulary

TASKS: dict[HeadKind, str] = {"choice": "choice", "token": "tag", "span": "qa"}
"""Names of the tasks of heads; those on texts have one for each `problem_type`."""
PROBLEMS = {
    "single_label_classification": "classify", "multi_label_classification": "multilabel", "regression": "regress",
}  # fmt: skip
"""Names of the tasks of heads on texts, by `problem_type` of config.json."""
UNNAMED = "LABEL_{}"
"""transformers' names of labels that their author has not named."""


@dataclass(frozen=True)
class TunedModel:
    """A fine-tuned model as read.

    path: the checkpoint or the folder, for messages. folder: the folder of the tokenizer, the patterns and the results.
    labels: in the order of their numbers. weights: of encoder and head, under the names of the module. patterns: the
    noted mark of the patterns that it was trained with. threshold: of questions without an answer. tables: how the
    table of the training data was read, with the columns of all roles. encoder: the model itself where it is a base
    with an adapter; weights are then those of the head.
    """

    path: Path
    folder: Path
    config: TransformerConfig
    objective: Objective
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    task: Task
    options: FinetuneOptions
    labels: tuple[str, ...]
    weights: dict[str, torch.Tensor]
    patterns: Any = None
    threshold: float | None = None
    tables: TableOptions = dataclasses.field(default_factory=TableOptions)
    quantization: Quantization | None = None
    encoder: Transformer | None = None


def read_tuned(path: Path) -> TunedModel:
    """Read the best checkpoint of a fine-tuning run, a checkpoint, an imported model, or a transformers folder with a
    head. Raises UserError for anything else."""
    from blankfill.checkpoint.hf_loading import open_external

    if names_head(path):
        return from_external(open_external(path, with_head=True))
    return _from_checkpoint(path)


def names_head(path: Path) -> bool:
    """Return whether a path is a folder of another program whose model has a fine-tuned head that is known here."""
    from blankfill.checkpoint import store
    from blankfill.checkpoint.hf_loading import CONFIG, is_external, read_config
    from blankfill.families.head_format import names_class
    from blankfill.families.registry import weight_names_by_type

    if not (path / CONFIG).is_file() or (path / store.STATE).exists() or not is_external(path):
        return False
    values = read_config(path / CONFIG)
    family = weight_names_by_type().get(str(values.get("model_type")))
    return family is not None and names_class(family, values) is not None


def from_external(checkpoint: ExternalCheckpoint, tokenizer: Path | None = None) -> TunedModel:
    """Return the fine-tuned model of a folder of another program, which was opened with its head, as float32.

    tokenizer: path of its tokenizer, where that is not beside the weights.
    """
    from blankfill.checkpoint.hf_loading import CONFIG
    from blankfill.checkpoint.hf_words import read_tokenizer, roles_unsaid
    from blankfill.checkpoint.load import check_vocabulary, with_roles_of

    head, file = checkpoint.head, checkpoint.path / CONFIG
    if head is None:
        raise UserError(
            f"{file} names a class with a fine-tuned head, and the weights have no head; give the whole checkpoint, or "
            "make a pretrained model of the encoder with `blankfill import`"
        )
    config, words = checkpoint.checkpoint_format.config, read_tokenizer(checkpoint, tokenizer)
    check_vocabulary(words.vocabulary(), config, checkpoint.path)
    vocabulary = with_roles_of(words.vocabulary(), roles_unsaid(checkpoint, words.vocabulary()))
    outputs = checkpoint.head_state["output.weight"].shape[0] if "output.weight" in checkpoint.head_state else 0
    task = task_of(head.kind, outputs, checkpoint.values, file)
    labels = labels_of(checkpoint.values, outputs, file) if task in ("classify", "multilabel", "tag") else ()
    usual, quarter = FinetuneOptions(), (config.position_sizes[0] - checkpoint.objective.position_offset) // 4
    options = dataclasses.replace(  # so that models with few positions have room for a context
        usual, max_query_length=min(usual.max_query_length, quarter), stride=min(usual.stride, quarter)
    )
    weights = {f"encoder.{name}": tensor for name, tensor in checkpoint.state().items()}
    weights |= {f"head.{name}": tensor for name, tensor in checkpoint.head_state.items()}
    return TunedModel(
        checkpoint.path, checkpoint.path, config, checkpoint.objective, words, vocabulary, task_named(task),
        options, labels, weights,
    )  # fmt: skip


def task_of(kind: HeadKind, outputs: int, values: Mapping[str, Any], where: Path) -> str:
    """Return the name of the task of a head. outputs: number of its scores. Raises UserError for a head of another
    kind."""
    wanted = {"choice": 1, "span": 2}.get(kind)
    if wanted is not None and outputs != wanted:
        raise UserError(f"{where}: the head has {outputs} scores, and one on a {kind} has {wanted}")
    if kind != "text":
        return TASKS[kind]
    problem = values.get("problem_type")
    if problem is None:  # transformers decides by the number of labels
        problem = "regression" if outputs == 1 else "single_label_classification"
        if outputs == 1:
            say(f"{where} names no problem_type, and the head has one score: it is read as one that predicts numbers")
    if problem not in PROBLEMS:
        known = ", ".join(PROBLEMS)
        raise UserError(f"{where}: `problem_type` is {shown(problem)}, which is not known here; known: {known}")
    task = PROBLEMS[str(problem)]
    if task == "regress" and outputs != 1:
        raise UserError(
            f"{where}: the head predicts {outputs} numbers for a text, and this program's heads predict one; import "
            f"the encoder without it: {setting('leave_out', 'classifier')}"
        )
    if task == "classify" and outputs == 1:
        raise UserError(
            f"{where}: the head has one class, and a classifier has two or more; if it predicts numbers, write "
            '"problem_type": "regression" there'
        )
    return task


def labels_of(values: Mapping[str, Any], outputs: int, where: Path) -> tuple[str, ...]:
    """Return the names of a head's labels from `id2label` of config.json; transformers' own where it has none."""
    given = field(values, "id2label", dict, where, {}) or {}
    try:
        names = {int(number): str(name) for number, name in given.items()}
    except ValueError as error:
        raise UserError(f"{where}: `id2label` has a key that is not a number") from error
    if names and sorted(names) != list(range(outputs)):
        raise UserError(f"{where}: `id2label` has {len(names)} names, and the head has {outputs} labels")
    labels = tuple(names.get(k, UNNAMED.format(k)) for k in range(outputs))
    if doubled := {label for label in labels if labels.count(label) > 1}:
        raise UserError(f"{where}: `id2label` names several labels {shown(sorted(doubled)[0])}; give each its own name")
    if labels == tuple(UNNAMED.format(k) for k in range(outputs)):
        say(f"{where} does not name the labels; they are called {labels[0]} to {labels[-1]}, in the order of training")
    return labels


def _from_checkpoint(path: Path) -> TunedModel:
    from blankfill.checkpoint import store
    from blankfill.checkpoint.load import check_vocabulary, tokenizer_folder, with_roles_of
    from blankfill.corpus.identity import check_tokenizer
    from blankfill.corpus.tokenizer import Tokenizer

    run = path if not (path / store.STATE).exists() else tokenizer_folder(path)
    checkpoint = best_checkpoint(path)
    state = checkpoint.state
    config, objective = store.model_of(state, checkpoint.path), store.objective_of(state, checkpoint.path)
    noted_task = field(state, "task", dict, where := checkpoint.path / store.STATE)
    task = task_named(field(noted_task, "name", str, where))
    options = build(FinetuneOptions, field(noted_task, "options", dict, where), f"{where}: `options`")
    if problems := options.problems():
        raise ConfigError([f"{where}: {problem}" for problem in problems])
    labels = fitting(field(noted_task, "labels", list, where), tuple[str, ...], f"{where}: `labels`")
    tokenizer = Tokenizer.load(run)
    check_tokenizer(state, tokenizer, run, checkpoint.path)
    vocabulary = with_roles_of(tokenizer.vocabulary(), store.roles_of(state, checkpoint.path))
    check_vocabulary(vocabulary, config, run)
    patterns = state["inputs"].get("patterns") if isinstance(state.get("inputs"), dict) else None
    threshold = None
    if (run / RESULTS).exists():
        results = read_json(run / RESULTS)
        if results.get("threshold") is not None:
            threshold = field(results, "threshold", float, run / RESULTS)
    read = TunedModel(
        checkpoint.path, run, config, objective, tokenizer, vocabulary, task, options, labels, checkpoint.model,
        patterns, threshold, _tables(noted_task, run, where), checkpoint.quantization,
    )  # fmt: skip
    if not checkpoint.partial:
        return read
    from blankfill.finetuning.adapter_folder import beside_base

    return beside_base(read, field(state, store.BASE, dict, where))


def _tables(noted: Mapping[str, Any], run: Path, where: Path) -> TableOptions:
    """Return how the table of a run's training data was read, with its columns; of runs that do not note it, the
    options that were given."""
    if "tables" in noted:
        return build(TableOptions, field(noted, "tables", dict, where), f"{where}: `tables`")
    if (run / CONFIG).exists():
        with suppress(UserError):  # the configuration of version 0.1 has none
            return read_config(run).tables
    return TableOptions()


def best_checkpoint(path: Path) -> Any:
    """Return the checkpoint of a fine-tuning run that was best on its dev set, or the one in the folder itself."""
    from blankfill.checkpoint import store
    from blankfill.checkpoint.missing import check_exists, nearby

    check_exists(path, "a run made by `blankfill finetune`, or a fine-tuned model from elsewhere")
    if (path / store.STATE).exists():
        checkpoint: Any = store.read(path, with_optimizer=False)
    elif (path / "best").exists():
        checkpoint = store.read(store.named_by(path / "best"), with_optimizer=False)
    else:
        checkpoint = store.newest(path / "checkpoints", with_optimizer=False)
    if checkpoint is None or "task" not in checkpoint.state:
        raise UserError(
            f"{path}: not a fine-tuned model; train one with `blankfill finetune`{'' if checkpoint else nearby(path)}"
        )
    return checkpoint
