"""`blankfill compare`: several runs on one page, as a table and as files for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from blankfill.cli.arguments import parsed
from blankfill.cli.result import Result
from blankfill.errors import Problem, UserError, setting
from blankfill.system.console import show, table
from blankfill.system.files import write_file
from blankfill.system.schema import Option

if TYPE_CHECKING:
    from blankfill.report.charts import Chart
    from blankfill.report.compare import Run

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "out": (".html", ".htm"), "csv": (".csv",), "curves": (".csv",), "svg": (".svg",)
}  # fmt: skip
"""Endings of the names of the files."""


@dataclass(frozen=True, kw_only=True)
class CompareArguments:
    """Compare several runs on one page.

    The page has the results of the runs, their curves over steps, tokens and training time, and the settings in which
    they differ. Pretraining and fine-tuning runs can be mixed, and may still be training; a folder that `finetune`
    made of several runs stands for each of them.
    """

    GROUPS: ClassVar[Mapping[str, str]] = {"Output": "out csv curves svg", "Chart": "metric x"}
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "blankfill compare runs/bert runs/glm --out compare.html",
        "blankfill compare runs/small runs/large --csv runs.csv --svg loss.svg --x time",
    )

    runs: Annotated[tuple[Path, ...], Option(positional=True, metavar="RUN")]
    """Folders of two or more runs."""
    out: Path = Path("compare.html")
    """HTML file to write the page to."""
    csv: Path | None = None
    """CSV file for the table: a line for each run, with its results and the settings that differ."""
    curves: Path | None = None
    """CSV file for the curves: a line for each measured value."""
    svg: Path | None = None
    """SVG file for one chart, that of --metric."""
    metric: str = ""
    """Metric of the SVG file, as metrics.jsonl names it, such as loss or named_at_once; without it, the first chart of
    the page."""
    x: Literal["steps", "tokens", "time"] = "steps"
    """Horizontal axis of the SVG file."""


def main(argv: Sequence[str]) -> Result:
    """Run the command. Raises UserError."""
    args = parsed(CompareArguments, argv, "compare")
    for name, endings in SUFFIXES.items():
        path = getattr(args, name)
        if path is not None and path.suffix.lower() not in endings:
            raise UserError(f"{setting(name, path)} does not end in {' or '.join(endings)}")
    if args.metric and args.svg is None:
        raise UserError(f"{setting('metric')} chooses the chart of an SVG file; name the file with {setting('svg')}")
    from datetime import datetime

    from blankfill.report import compare, compare_files, compare_page

    runs = compare.read_runs(args.runs)
    files: dict[str, str] = {}
    if args.svg is not None:
        files["svg"] = compare_files.chart_svg(runs, chosen(compare.charts_of(runs), args.metric), args.x)
    if args.csv is not None:
        files["csv"] = compare_files.table_csv(runs)
    if args.curves is not None:
        files["curves"] = compare_files.curves_csv(runs)
    files["out"] = compare_page.page_of(runs, datetime.now().astimezone())
    for name, text in files.items():
        data = text.encode("utf-8", "replace")  # a text of a run can hold half of a surrogate pair
        write_file(getattr(args, name), data, "name a file in a folder that exists")
    written = {name: getattr(args, name) for name in files}
    differing, notes = compare.differing(runs), compare.cautions(runs)
    values = {
        "runs": [
            {
                "name": run.name, "folder": str(run.snapshot.folder), "state": run.state, "results": run.results,
                "settings": {name: row[place] for name, row in differing.items()},
            }
            for place, run in enumerate(runs)
        ],
        "notes": notes,
        "report": args.out,
        "files": {name: path for name, path in written.items() if name != "out"},
    }  # fmt: skip
    return Result(values=values, show=lambda: show_runs(runs, differing, notes, written))


def chosen(charts: Sequence[Chart], metric: str) -> Chart:
    """Return the chart of a metric, or the first one. Raises UserError when there is none."""
    from blankfill.report.compare_files import metric_of

    for chart in charts:
        if not metric or metric_of(chart) == metric:
            return chart
    if not charts:
        raise UserError("the runs have no measurements yet, so there is no chart; compare them later")
    known = ", ".join(dict.fromkeys(map(metric_of, charts)))
    raise UserError(Problem(f"{setting('metric', metric)} was not measured in these runs; measured were {known}"))


def show_runs(
    runs: Sequence[Run], differing: Mapping[str, Sequence[Any]], notes: Sequence[str], written: Mapping[str, Path]
) -> None:
    """Print the results, the settings that differ, and the files."""
    from blankfill.report.compare import results_of
    from blankfill.report.compare_page import written as text_of
    from blankfill.report.markup import plain

    results = results_of(runs)
    names = [run.name for run in runs]
    rows = [("state", *(run.state for run in runs))]
    rows += [(name, *(text_of(name, value) for value in values)) for name, values in results.items()]
    table("Results", rows, ("", *names))
    if differing:
        settings = [(name, *map(plain, values)) for name, values in differing.items()]
        table("Settings that differ", settings, ("", *names))
    else:
        show("The runs have the same settings.")
    for sentence in notes:
        show(sentence)
    for name, path in written.items():
        show(f"the page, for a browser: {path}" if name == "out" else f"{name}: {path}")
