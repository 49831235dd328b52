"""`blankfill predict`: a fine-tuned model's predictions for new rows, or for a split of its task."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from blankfill.cli.arguments import parsed
from blankfill.cli.lines import lines_of, refuse_table_options, taken_for_column, windows
from blankfill.cli.result import Result, Rows
from blankfill.cli.tasks import known_tasks
from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import ConfigError, UserError, setting
from blankfill.system.bounds import Bound
from blankfill.system.console import show, show_json
from blankfill.system.files import refuse_input, whole_file
from blankfill.system.schema import Option
from blankfill.tasks.options import FinetuneOptions

if TYPE_CHECKING:
    from blankfill.finetuning.given import GivenRow, GivenRows
    from blankfill.finetuning.predictor import AnyPredictor
    from blankfill.tasks.adapter import Prediction
    from blankfill.tasks.items import Item

Row = dict[str, Any]
"""The prediction for a row, as JSON."""

WINDOW = 4096
"""Rows that are predicted together, those of similar length in one batch."""


@dataclass(frozen=True, kw_only=True)
class PredictArguments(TableOptions):
    """Predict new rows, or a split of the task, with a fine-tuned model.

    A table (CSV, TSV, JSON, Parquet, a spreadsheet) is read like the one that the model was fine-tuned on: by the same
    columns, with or without labels. Of other files each line is a row: a text, or two with a tab between, or (tagging)
    words with spaces between; or a JSON object with text and second, words, question and context, context and choices,
    or (generation) source and second; SuperGLUE's tasks have rows of their own. Predictions are JSON lines with
    probabilities, or the generated texts; --out FILE.csv adds them to the columns of the table. With --data in place of
    a file, the rows are those of a split of the task; with --submission the predictions are written in the format of
    its benchmark.
    """

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        name: FinetuneOptions.BOUNDS[name] for name in ("beams", "length_penalty", "no_repeat_ngram")
    } | {"n_best": FinetuneOptions.BOUNDS["beams"]}
    GROUPS: ClassVar[Mapping[str, str]] = {
        "Model": "model adapter",
        "Data": "data split task columns encoding delimiter sheet allow_unknown",
        "Output": "out submission",
        "Generation": "n_best beams length_penalty no_repeat_ngram",
        "Machine": "device threads",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "blankfill predict --model tuned/stars reviews.csv --out predicted.csv",
        "blankfill predict --model tuned/sst2 rows.txt --out predictions.jsonl",
        "blankfill predict --model tuned/sst2 --data glue --submission --out submission",
    )

    file: Annotated[Path | None, Option(positional=True)] = None
    """Table, or UTF-8 file with a row on each line; - reads lines from standard input."""
    model: Path
    """A run of `blankfill finetune`, one of its checkpoints, or the folder of a grid or of all patterns; with --adapter
    the pretrained model."""
    adapter: Path | None = None
    """Folder of LoRA matrices or of a prefix with its task, which finetune wrote (OUT/adapter)."""
    data: Path | None = None
    """Folder of the task or of its benchmark, or the file of the split itself."""
    split: str = "test"
    """Split of --data."""
    task: Annotated[str | None, Option(suggestions=known_tasks)] = None
    """Task of --data, where it is not the model's own: one with the same labels, such as ax-b for a model of sg-rte."""
    allow_unknown: bool = False
    """Predict although more than 5% of the tokens are unknown to the model's tokenizer."""
    submission: bool = False
    """Write the files that the benchmark of --data expects into the folder --out."""
    out: Path | None = None
    """File to write: .csv, .tsv, .jsonl, .parquet or .xlsx with the columns of the table and the predictions beside
    them, others as JSON lines; or with --submission the folder. Without it, predictions are printed."""
    device: str = "auto"
    """Device to compute on: auto (a GPU where there is one), cpu, cuda, cuda:1 or mps."""
    threads: int = 0
    """CPU threads. 0: OMP_NUM_THREADS where it is set, else all cores that other programs leave free."""
    n_best: int = 1
    """Number of texts per row, the best first."""
    beams: int | None = None
    """Beam width; without it, that of the model's training. The same holds for the next two options."""
    length_penalty: float | None = None
    """Beams are ranked by log-probability / length^penalty; above 1 favours long texts."""
    no_repeat_ngram: int | None = None
    """No n-gram of this size occurs twice in a text; 0: no limit."""


def main(argv: Sequence[str]) -> Result | Rows[Row]:
    """Run the command."""
    args = parsed(PredictArguments, argv, "predict")
    if (args.file is None) == (args.data is None):
        hint = taken_for_column(args.columns)
        raise UserError(f"give either a file of rows, or {setting('data')} with the files of a task{hint}")
    if args.file is not None and (args.submission or args.task):
        raise UserError(f"{setting('submission')} and {setting('task')} go with {setting('data')}; leave them out")
    if args.data is not None and args.table_options() != TableOptions():
        raise UserError(
            f"{args.given_names()} is for a table to predict; the model knows how to read {setting('data')}; leave it "
            "out"
        )
    if problems := args.table_problems():
        raise ConfigError(problems)
    refuse_input(args.out, args.file, args.data)
    if args.submission:
        return submit(args)
    predictor = opened(args)
    given_rows = rows_of(predictor, args)
    predicted = predictions(predictor, args, given_rows)
    if args.out is None:
        rows = (row for _, row in predicted if row is not None)
        return Rows(rows=rows, values=lambda row: row, show=show_json)
    count = write(args.out, predictor, given_rows, predicted)
    values = {"predictions": count, "out": args.out}
    return Result(values=values, show=lambda: show(f"{args.out}: {count:,} predictions"))


def rows_of(predictor: AnyPredictor, args: PredictArguments) -> GivenRows:
    """Return the rows to predict."""
    from blankfill.finetuning.given import rows_of_items, rows_of_table, table_form
    from blankfill.finetuning.rows import items_of
    from blankfill.finetuning.submit import split_of

    if args.data is not None:
        return rows_of_items(split_of(predictor, args.data, args.split, args.task).items)
    source = None if args.file is None or str(args.file) == "-" else args.file
    options = args.table_options()
    if source is not None and (form := table_form(predictor, source, options)):
        return rows_of_table(predictor, source, form, options)
    refuse_table_options(source, options)
    return rows_of_items(items_of(predictor.task, lines_of(source), tables=predictor.tables))


def predictions(
    predictor: AnyPredictor, args: PredictArguments, given: GivenRows
) -> Iterator[tuple[GivenRow, Row | None]]:
    """Yield each row with its prediction, which is None for a row that cannot be predicted; a row with several items
    comes several times."""
    from blankfill.corpus.unknown import counting

    is_scored = args.data is not None or (given.table is not None and bool(given.table.label))
    scored: list[tuple[Item, Prediction]] = []
    with counting("the rows", allow=args.allow_unknown, streams=True, report=True) as count:
        for window in windows(given.rows, WINDOW, lambda row: len(repr(row.items))):
            answers = iter(predictor.predict([item for row in window for item in row.items]))
            count.decide()
            for row in window:
                if not row.items:
                    yield row, None
                for item in row.items:
                    answer = next(answers)
                    if is_scored:
                        scored.append((item, answer))
                    yield row, {"id": item.id, **answer.record}
    if args.data is not None:
        say_scores(predictor, args, scored)
    elif given.table is not None and scored:
        from blankfill.finetuning.given import say_scores_of_table

        say_scores_of_table(predictor, given.table, scored)


def write(
    out: Path, predictor: AnyPredictor, given: GivenRows, predicted: Iterator[tuple[GivenRow, Row | None]]
) -> int:
    """Write the predictions to a file, beside the columns of a table; returns how many."""
    from blankfill.corpus.tables.writing import format_of
    from blankfill.finetuning.given import write_table

    form, count = format_of(out), 0
    if form and (form != "jsonl" or given.columns is not None):
        return write_table(out, predictor.task, given, predicted, WINDOW)
    with whole_file(out, "w", follow=True) as target:
        for _, row in predicted:
            if row is not None:
                target.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
    return count


def say_scores(predictor: AnyPredictor, args: PredictArguments, scored: Sequence[tuple[Item, Prediction]]) -> None:
    """Print the scores of predictions as a notice, where the data have the answers."""
    from blankfill.finetuning.predict import Predictions
    from blankfill.finetuning.submit import task_for
    from blankfill.system.console import say

    task = task_for(predictor, args.task)
    predictions = Predictions(predictor, task, [item for item, _ in scored], [answer for _, answer in scored])
    if predictions.labelled():
        say(f"{task.name}, {args.split}: {predictions.scores().sentence()}")


def opened(args: PredictArguments) -> AnyPredictor:
    """Return the model, with the options of its search."""
    from blankfill.inference import load

    given = {name: getattr(args, name) for name in ("beams", "length_penalty", "no_repeat_ngram")}
    search = {name: value for name, value in given.items() if value is not None}
    model = load(
        args.model, args.device, head=True, threads=args.threads, n_best=args.n_best, search=search,
        adapter=args.adapter,
    )  # fmt: skip
    return model.predictor


def submit(args: PredictArguments) -> Result:
    """Write a submission's files."""
    if args.out is None:
        raise UserError(f"{setting('submission')} writes files; name their folder with {setting('out')}")
    from blankfill.corpus.unknown import counting
    from blankfill.finetuning.submit import write_submission

    assert args.data is not None
    predictor = opened(args)
    with counting("the rows", allow=args.allow_unknown, streams=True, report=True):
        files = dict(write_submission(predictor, args.data, args.split, args.task, args.out, WINDOW))

    def show_files() -> None:
        for path, count in files.items():
            show(f"{path}: {count:,} predictions")

    return Result(values={"files": files}, show=show_files)
