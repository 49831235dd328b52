"""`blankfill evaluate`: measurements of a pretrained model, or the metrics of predictions in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from blankfill.checkpoint.dtypes import WeightType
from blankfill.cli.arguments import parsed
from blankfill.cli.lines import taken_for_column
from blankfill.cli.result import Result
from blankfill.cli.tasks import known_tasks
from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import UserError, setting
from blankfill.system.bounds import COUNT, Bound
from blankfill.system.schema import Option
from blankfill.tasks.metrics.intervals import counted, figure

MEASUREMENTS = ("perplexity", "pseudo-perplexity", "infill")
"""The measurements of a model on any text, which are no tasks."""
OWN_FILES = ("wikitext2", "lambada")
"""Measurements on files with a form of their own."""


def known_measurements() -> list[str]:
    """Return the names of everything that can be evaluated."""
    return [*known_tasks(), *MEASUREMENTS]


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments(TableOptions):
    """Measure a pretrained model, or score a file of predictions.

    Measurements of a model: perplexity, wikitext2, lambada, infill, and for masked models pseudo-perplexity. A file of
    predictions has the JSON lines of `predict` and `finetune`, or is a table that `predict` wrote, with the column
    prediction; or for questions a JSON object of id and answer, as SQuAD's own script takes them. Texts and the data of
    classify, tag and other tasks on tables may be tables.
    """

    BOUNDS: ClassVar[Mapping[str, Bound]] = dict.fromkeys(("window", "stride", "limit"), COUNT)
    GROUPS: ClassVar[Mapping[str, str]] = {
        "Data": "task data split columns encoding delimiter sheet na_prob_file",
        "Model": "model window stride both_ways limit seed allow_unknown",
        "Output": "out",
        "Machine": "dtype device threads",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "blankfill evaluate --model runs/gpt --task perplexity --data test.txt",
        "blankfill evaluate --task squad --data squad predictions.json",
        "blankfill evaluate predicted.csv --task classify --data reviews.csv --columns text=body label=stars",
    )

    predictions: Annotated[Path | None, Option(positional=True)] = None
    """File of predictions to score; without it, --model is measured."""
    model: Path | None = None
    """Pretrained model to measure: a run, an imported model or a transformers folder."""
    task: Annotated[str, Option(suggestions=known_measurements)]
    """Measurement, or the task of the predictions, such as sst2, squad or conll."""
    data: Path
    """Text to measure on; or the folder of the task or of its benchmark, or the file itself."""
    split: str | None = None
    """Split of the data; without it, dev for predictions and test for a model."""
    na_prob_file: Path | None = None
    """SQuAD 2.0: a JSON object of question id and log-odds of no answer; the best threshold is added, as by the
    official script."""
    window: int = 0
    """Perplexity: number of tokens in a window; 0: the model's maximum."""
    stride: int = 0
    """Perplexity: tokens between the starts of windows; a smaller stride gives each token more context. 0: half a
    window."""
    both_ways: bool = True
    """GLM: read the text before a window bidirectionally; off: as a left-to-right model."""
    limit: int = 0
    """Maximum number of texts, drawn by the seed; 0: all."""
    seed: int = 0
    """Seed of the draw of texts and of blanks."""
    allow_unknown: bool = False
    """Measure although more than 5% of the tokens are unknown to the model's tokenizer."""
    out: Path | None = None
    """Folder for results.json, with all metrics, settings and counts."""
    dtype: WeightType = "auto"
    """Number type of the weights and of the computation: fp32, bf16 or fp16; auto: as they are stored."""
    device: str = "auto"
    """Device to compute on: auto (a GPU where there is one), cpu, cuda, cuda:1 or mps."""
    threads: int = 0
    """CPU threads. 0: OMP_NUM_THREADS where it is set, else all cores that other programs leave free."""


def main(argv: Sequence[str]) -> Result:
    """Run the command."""
    args = parsed(EvaluateArguments, argv, "evaluate")
    if (args.predictions is None) == (args.model is None):
        hint = taken_for_column(args.columns)
        raise UserError(f"give either a file with predictions to score, or {setting('model')} to measure one{hint}")
    from blankfill.evaluation.run import result_folder, write_results
    from blankfill.system.console import show

    if args.out is not None:
        result_folder(args.out)
    result = _scored(args) if args.model is None else _measured(args, args.model)
    if args.out is not None:
        write_results(result, args.out)

    def show_metrics() -> None:
        for line in lines(result["metrics"], result["intervals"]):
            show(line)
        show(rests_on(result))

    return Result(values=result, show=show_metrics, is_output=True)


def _scored(args: EvaluateArguments) -> dict[str, Any]:
    from blankfill.finetuning.config import task_with
    from blankfill.finetuning.score import score_predictions

    assert args.predictions is not None
    split = args.split or "dev"
    tables = args.table_options()
    task = task_with(args.task, tables)
    scores = score_predictions(task, args.data, split, args.predictions, args.na_prob_file, tables)
    paths = {"predictions": str(args.predictions.resolve()), "data": str(args.data.resolve())}
    return {"task": args.task, "split": split, **paths, **scores.values()}


def _measured(args: EvaluateArguments, model: Path) -> dict[str, Any]:
    from blankfill.evaluation.run import EvaluationOptions, evaluate
    from blankfill.finetuning.config import task_with

    if args.na_prob_file is not None:
        raise UserError(f"{setting('na_prob_file')} goes with a file of predictions; leave it out")
    if args.task in OWN_FILES:
        task_with(args.task, args.table_options())
    options = EvaluationOptions(
        args.split or "test", args.window, args.stride, args.both_ways, args.limit, args.seed,
        args.table_options(),
    )  # fmt: skip
    result = evaluate(
        model, args.task, args.data, options, device=args.device, threads=args.threads, dtype=args.dtype,
        allow_unknown=args.allow_unknown,
    )  # fmt: skip
    return result.values()


def rests_on(result: Mapping[str, Any]) -> str:
    """Return the number of examples or texts behind the figures, and what their brackets are."""
    if "items" in result:
        count, unit = int(result["items"]), "examples"
    else:
        unit = next(name for name in ("texts", "passages", "words") if name in result["counts"])
        count = int(result["counts"][unit])
    return counted(count, bool(result["intervals"]), unit)


def lines(metrics: Mapping[str, Any], intervals: Mapping[str, Any]) -> list[str]:
    """Return a line for each figure, with its interval if it has one; figures by length become a line for each
    length."""
    out = []
    for name, value in metrics.items():
        between = intervals.get(name)
        if isinstance(value, Mapping):
            known = between or {}
            out.append(f"{name}: " + ", ".join(f"{part} {_figure(of, known.get(part))}" for part, of in value.items()))
        else:
            out.append(f"{name} {_figure(value, between)}")
    return out


def _figure(value: float, between: Sequence[float] | None = None) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return figure(value, (between[0], between[1]) if between else None)
