"""What the card of an exported model says: facts of its run, which files in the run's folder have recorded.

Every file may be missing, as for a checkpoint that was copied alone: what is not recorded is "unknown". Not here: the
form of a card (`convert.card`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill._version import __version__
from blankfill.convert.card import UNKNOWN, Card, Describe, Score, known
from blankfill.convert.card_code import usage
from blankfill.errors import UserError
from blankfill.exporting.heads import KINDS, loaded_of
from blankfill.families.checkpoint_format import CheckpointFormat, checkpoint_format_of
from blankfill.families.task_heads import CLASSES
from blankfill.report.snapshot import Snapshot, number, read_json, read_snapshot
from blankfill.tasks.run_files import CONFIG, RESULTS

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded
    from blankfill.finetuning.predictor import Predictor
    from blankfill.tasks.adapter import Adapter

TAGS = {
    "classify": "text-classification", "regress": "text-classification", "multilabel": "text-classification",
    "tag": "token-classification", "answer": "question-answering", "choice": "multiple-choice",
    "generate": "text2text-generation", "chat": "text-generation",
}  # fmt: skip
"""`pipeline_tag` of the hub for a kind of task with a head, or for texts."""
WHAT = {
    "classify": "It gives each text, or pair of texts, one of the labels below.",
    "regress": "It gives each text, or pair of texts, a number.",
    "multilabel": "It gives each text, or pair of texts, any number of the labels below.",
    "tag": "It gives each word of a text one of the tags below.",
    "answer": "It finds the answer to a question in a text.",
    "choice": "It chooses one of several continuations of a text.",
    "generate": "It reads a text and writes another.",
    "chat": "It answers the messages of a user.",
}
HUB_METRICS = {
    "mcc": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr", "exact": "exact_match",
    "rouge1": "rouge", "rouge2": "rouge", "rougeL": "rouge",
}  # fmt: skip
"""Names of metrics on the hub that differ from ours."""
EXAMPLES = {
    "classify": ("a gripping and funny film", ""), "regress": ("A man plays a guitar.", "A man plays music."),
    "multilabel": ("a gripping and funny film", ""), "tag": ("Angela Merkel was born in Hamburg .", ""),
    "answer": ("Where was Angela Merkel born?", "Angela Merkel was born in Hamburg in 1954."),
    "choice": ("The man opened the door.", ""), "generate": ("The cat sat on the mat all day and slept.", ""),
    "chat": ("What can I eat for breakfast?", ""),
}  # fmt: skip
TRAINED_BY = ("batch_size", "lr", "schedule", "warmup", "weight_decay", "max_grad_norm")
"""Options of training that every card names."""


def pretrained_card(loaded: Loaded, path: Path, title: str) -> Describe:
    """Return the writer of the card of a pretrained model. path: its run, checkpoint or folder."""
    run, step = run_of(path)
    snapshot = _snapshot(run)
    tag, auto_class = _class_of(loaded)
    scores, scored_on = _validation(snapshot, step)
    config = loaded.model.config
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    what = (
        f"A language model with {parameters:,} parameters, trained with blankfill by the objective "
        f"`{loaded.objective.name}`."
    )
    return Card(
        title, what, tag, tags=(loaded.objective.name,), dataset=("validation text of the run", "text"),
        scores=scores, scored_on=scored_on, data=_text_rows(snapshot), recipe=_pretraining_rows(snapshot, loaded, step),
        usage=lambda target: usage(target, title, tag, auto_class, _blank_example(loaded, tag)),
        limits=_limits(loaded, config.position_sizes[0] - loaded.objective.position_offset, bool(scores)),
    ).text  # fmt: skip


def fine_tuned_card(predictor: Predictor, title: str) -> Describe:
    """Return the writer of the card of a fine-tuned model."""
    run, _ = run_of(predictor.path)
    results, config = read_json(run / RESULTS), read_json(run / CONFIG)
    adapter, task, options = predictor.adapter, predictor.task, predictor.options
    loaded = loaded_of(predictor, predictor.path)
    with_head = options.method == "head" and not task.writes
    tag, auto_class = (TAGS[task.kind], f"AutoModel{CLASSES[KINDS[task.kind]]}") if with_head else _class_of(loaded)
    if not with_head and options.method != "cloze" and tag == "fill-mask":
        tag = ""  # such a model writes, and no pipeline of its class does
    base = Path(str(config["model"])).name if "model" in config else ""
    scores, scored_on = _task_scores(results, task.primary_metric)
    what = (
        f"A model for the task `{task.name}`, fine-tuned with blankfill from "
        f"{f'`{base}`' if base else 'a pretrained model whose name is unknown'}. {WHAT.get(task.kind, '')}"
    ).strip()
    example, second = _example(adapter, loaded)
    card = Card(
        title, what, tag, ("zh",) if task.by_characters else (), tags=(task.name,), base=base,
        dataset=(task.name, task.name), scores=scores, scored_on=scored_on, data=_task_rows(results, config),
        recipe=_fine_tuning_rows(predictor, results, run, base), labels=tuple(predictor.labels),
        usage=lambda target: usage(target, title, tag, auto_class, example, second),
        limits=[*_task_limits(predictor, results), *_limits(loaded, adapter.input_format.length, bool(scores))],
    )  # fmt: skip
    return card.text


def run_of(path: Path) -> tuple[Path, int | None]:
    """Return the run folder that a path belongs to, and the step of the checkpoint that it names; None without one."""
    from blankfill.checkpoint import store

    if (path / store.STATE).exists() and path.parent.name == "checkpoints":
        step = path.name.rpartition("-")[2]
        return path.parent.parent, int(step) if step.isdecimal() else None
    return path, None


def writes_elsewhere(predictor: Predictor) -> str:
    """Return a sentence for a model that writes texts although the class of its export does not; "" for any other."""
    from blankfill.tasks.text.seq2seq_adapter import Write

    objective = predictor.adapter.input_format.objective
    if not isinstance(predictor.adapter, Write) or not objective.masked:
        return ""
    return (
        f"transformers has no class that writes with a model of the objective {objective.name}, so the folder only "
        "fills masks; to write texts, use the run with `blankfill predict`"
    )


def _snapshot(run: Path) -> Snapshot | None:
    try:
        return read_snapshot(run)
    except UserError:
        return None


def _class_of(loaded: Loaded) -> tuple[str, str]:
    """Return (`pipeline_tag`, the class of transformers that opens it) of a model with a language-model head."""
    config, objective = loaded.model.config, loaded.objective
    format = checkpoint_format_of(config, objective, loaded.vocabulary)
    if isinstance(format, CheckpointFormat) and format.family.own_class:
        return "", format.family.own_class
    if objective.two_sided:
        return "text2text-generation", "AutoModelForSeq2SeqLM"
    if config.lm_head:
        tags = {"AutoModelForMaskedLM": "fill-mask", "AutoModelForCausalLM": "text-generation"}
        return tags.get(objective.hf_auto_class, ""), objective.hf_auto_class
    if config.heads:
        return "", "AutoModelForPreTraining"
    return "feature-extraction", "AutoModel"


def _blank_example(loaded: Loaded, tag: str) -> str:
    """Return a text with a blank, for a model that fills blanks; else the beginning of a text."""
    mask = loaded.vocabulary.roles.get("mask")
    if tag == "fill-mask" and mask is not None:
        return f"Paris is the {loaded.tokenizer.token(mask)} of France."
    return "Paris is the capital"


def _example(adapter: Adapter, loaded: Loaded) -> tuple[str, str]:
    """Return a text for an example, or a pair of texts, as the model of a task reads them."""
    from blankfill.tasks.cloze.adapters import ClozeTexts
    from blankfill.tasks.items import QuestionItem, TextItem
    from blankfill.tasks.text.text_to_text import TextToText

    first, second = EXAMPLES.get(adapter.task.kind, EXAMPLES["generate"])
    try:
        if isinstance(adapter, TextToText) and adapter.task.kind in ("classify", "regress", "multilabel", "answer"):
            whole = QuestionItem("0", first, second) if adapter.task.kind == "answer" else TextItem("0", first, second)
            return adapter.form.read(whole), ""
        if isinstance(adapter, ClozeTexts):
            mask = loaded.tokenizer.token(loaded.vocabulary["mask"])
            pieces = adapter.pattern.pieces({"first": first, "second": second, "text": first})
            return "".join(piece.text + (mask if piece.kind == "mask" else "") for piece in pieces), ""
    except (UserError, KeyError):  # an item of this form has other texts
        return first, ""
    return first, second


def _validation(snapshot: Snapshot | None, step: int | None) -> tuple[list[Score], str]:
    """Return the losses of the validation at a step, or of the last one, and a sentence on their text."""
    if snapshot is None:
        return [], ""
    table = snapshot.split("valid")
    rows = [k for k, at in enumerate(table.steps) if step is None or at <= step]
    if not rows:
        return [], ""
    losses = {name: float(table.column(name)[rows[-1]]) for name in table.names if name.endswith("loss")}
    scores = [Score(name, name, value) for name, value in losses.items() if value == value]
    corpus = snapshot.corpus
    size = "" if corpus is None else f" ({corpus.valid.documents:,} documents, {corpus.valid.tokens:,} tokens)"
    baseline = snapshot.baseline
    beside = "" if baseline is None else f" Word frequency alone has a loss of {baseline:.4f}."
    return scores, (
        f"Losses on the validation text of the run{size} after step {int(table.steps[rows[-1]]):,}, in nats per "
        f"target.{beside}"
    )


def _text_rows(snapshot: Snapshot | None) -> list[tuple[str, str]]:
    corpus = snapshot.corpus if snapshot is not None else None
    if corpus is None:
        return [("text", UNKNOWN)]
    return [
        ("documents", f"{corpus.train.documents:,} for training, {corpus.valid.documents:,} for validation"),
        ("tokens", f"{corpus.train.tokens:,} for training, {corpus.valid.tokens:,} for validation"),
        ("characters", f"{corpus.train.characters:,} for training"),
        ("size of the sources", f"{corpus.source_bytes:,} bytes"),
        ("vocabulary", f"{corpus.vocabulary:,} ({corpus.tokenizer})"),
        ("unknown tokens", f"{corpus.unknown_share:.3%} of the training text"),
        ("names of the sources", UNKNOWN),
    ]


def _pretraining_rows(snapshot: Snapshot | None, loaded: Loaded, step: int | None) -> list[tuple[str, str]]:
    objective = loaded.objective.name
    if snapshot is None or not snapshot.recipe:
        return [("objective", objective), ("recipe", UNKNOWN), ("steps", UNKNOWN)]
    train = snapshot.section("train")
    done = step if step is not None else snapshot.step
    rows = [
        ("objective", objective),
        ("recipe", snapshot.name),
        ("steps", UNKNOWN if done is None else f"{done:,} of {known(train, 'steps')}"),
        ("optimizer", known(train, "optimizer")),
        *((name.replace("_", " "), known(train, name)) for name in TRAINED_BY),
        ("seed", known(snapshot.recipe, "seed")),
    ]
    if "from" in snapshot.facts:
        rows.insert(1, ("continued from", Path(str(snapshot.facts["from"])).name))
    return [*rows, *_machine(snapshot.facts)]


def _machine(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    environment = facts.get("environment")
    version = environment.get("blankfill") if isinstance(environment, dict) else None
    trained = known(version, "version") if isinstance(version, dict) else UNKNOWN
    return [
        ("computed on", known(facts, "computed_on")),
        ("blankfill", f"{trained} (training), {__version__} (export)"),
    ]


def _task_scores(results: Mapping[str, Any], primary: str) -> tuple[list[Score], str]:
    """Return the scores of a run, the primary metric first, and a sentence on their items."""
    metrics, items = results.get("metrics"), results.get("items")
    if not isinstance(metrics, dict):
        return [], ""
    count = items.get("dev") if isinstance(items, dict) else None
    names = sorted(metrics, key=lambda name: name != primary)
    scores = [
        Score(name, HUB_METRICS.get(name, name), value, count if isinstance(count, int) else None)
        for name in names
        if (value := number(metrics[name])) is not None
    ]
    baseline = results.get("baseline")
    trivial = number(baseline.get("score")) if isinstance(baseline, dict) else None
    beside = "" if trivial is None else f" A baseline that ignores the texts has a {primary} of {trivial:.4f}."
    return scores, (f"On the dev set, which also chose the checkpoint: the scores of new texts may be lower.{beside}")


def _task_rows(results: Mapping[str, Any], config: Mapping[str, Any]) -> list[tuple[str, str]]:
    items, options = results.get("items"), config.get("options")
    counts = items if isinstance(items, dict) else {}
    rows = [
        ("task", known(config, "task")),
        ("data", Path(str(config["data"])).name if "data" in config else UNKNOWN),
        ("training items", known(counts, "train")),
        ("dev items", known(counts, "dev")),
    ]
    columns = config.get("columns")
    named = {name: value for name, value in columns.items() if value and name != "separator"} if columns else {}
    rows += [(f"column of the {name}", ", ".join([value] if isinstance(value, str) else value))
             for name, value in named.items()]  # fmt: skip
    limit = options.get("max_train_samples") if isinstance(options, dict) else None
    return [*rows, *([("drawn by the seed", f"{limit:,} training items at most")] if limit else [])]


def _fine_tuning_rows(predictor: Predictor, results: Mapping[str, Any], run: Path, base: str) -> list[tuple[str, str]]:
    options, objective = predictor.options, predictor.adapter.input_format.objective
    facts = read_json(run / "run.json")
    steps, best = known(results, "steps"), known(results, "best_step")
    rows = [
        ("base model", f"{base or UNKNOWN}, trained by the objective {objective.name}"),
        (
            "method",
            options.method if options.method != "head" or not predictor.task.writes else "text",
        ),
        ("steps", f"{steps}; the checkpoint of step {best}"),
        ("epochs", f"{options.epochs:g}"),
        *((name.replace("_", " "), str(getattr(options, name))) for name in TRAINED_BY),
        ("longest input", f"{predictor.adapter.input_format.length:,} tokens"),
        ("seed", str(options.seed)),
    ]
    if options.lora_rank:
        rows.insert(2, ("LoRA", f"rank {options.lora_rank} on all dense layers of the encoder"))
    if (prefix := predictor.model.encoder.prefix_encoder) is not None:
        rows.insert(2, ("prefix", f"{prefix.shape.length} columns in every layer (P-tuning v2); all else is frozen"))
    return [*rows, *_pattern_rows(predictor.adapter), *_machine(facts)]


def _pattern_rows(adapter: Adapter) -> list[tuple[str, str]]:
    from blankfill.tasks.cloze.adapters import Cloze

    if not isinstance(adapter, Cloze):
        return []
    parts = "".join(part if isinstance(part, str) else part.written for part in adapter.pattern.parts)
    words = ", ".join(f"{label}: {' or '.join(ones)}" for label, ones in adapter.pattern.words.items())
    return [("pattern", parts), *([("verbalizer", words)] if words else [])]


def _task_limits(predictor: Predictor, results: Mapping[str, Any]) -> list[str]:
    from blankfill.tasks.cloze.adapters import Cloze
    from blankfill.tasks.text.text_to_text import TextToText

    adapter, kind = predictor.adapter, predictor.task.kind
    limits = [said + "."] if (said := writes_elsewhere(predictor)) else []
    if isinstance(adapter, Cloze):
        limits.append(
            "The folder holds a language model: the program that uses it must write each text into the pattern above "
            "and compare the scores of the words of the verbalizer at the mask."
        )
    elif isinstance(adapter, TextToText):
        limits.append("The model reads texts in the form of the example, and writes its answer as text.")
    elif kind == "tag":
        limits.append("The tag of a word is the tag of its first token.")
    elif kind == "multilabel":
        limits.append("A label was predicted from a probability of 0.5.")
    elif kind == "answer":
        limits.append(
            "The scores are those of blankfill, which reads a long text in windows and takes the best span of at most "
            f"{predictor.options.max_answer_length} tokens in the text; the example takes the ends with the highest "
            "scores."
        )
        if (threshold := number(results.get("threshold"))) is not None:
            limits.append(
                "No answer was predicted where its score (both ends at the first token) is above that of the best "
                f"span by more than {threshold:.4f}."
            )
    return limits


def _limits(loaded: Loaded, length: int, measured: bool) -> list[str]:
    limits = [f"The model was trained to read at most {length:,} tokens."]
    if not measured:
        limits.append("No score was recorded.")
    limits.append("How the model treats text of other kinds than its training text was not measured.")
    return limits
