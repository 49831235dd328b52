"""`blankfill demo`: a model in minutes, and how many hidden words it names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from blankfill.cli.arguments import parsed
from blankfill.cli.result import Result, page_of, show_page
from blankfill.config.recipe import load_recipe
from blankfill.system.bounds import COUNT, Bound
from blankfill.system.console import as_json, quoted, show
from blankfill.system.schema import Option

if TYPE_CHECKING:
    from blankfill.generation.hidden_words_report import Report
    from blankfill.pretraining.outcome import RunResult

RECIPE = "demo"


@dataclass(frozen=True, kw_only=True)
class DemoArguments:
    """Train a small model in minutes, and show how many hidden words it names.

    Words are hidden in text that the model never reads. The share that it names is shown while it trains, and at the
    end beside that of word frequency and of pairs of neighbouring words.
    """

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"threads": COUNT}
    GROUPS: ClassVar[Mapping[str, str]] = {"Run": "out seed", "Machine": "threads"}
    EXAMPLES: ClassVar[tuple[str, ...]] = ("blankfill demo", "blankfill demo novels/ --out runs/novels")

    paths: Annotated[tuple[str, ...], Option(positional=True, metavar="TEXT")] = ()
    """Files or folders of text, a megabyte or more; without any, the documentation inside this Python installation."""
    out: Path = Path("demo/run")
    """Run folder to create."""
    seed: int = 0
    """Seed of the initial weights, of the order of the text and of every random choice."""
    threads: int = 0
    """CPU threads. 0: OMP_NUM_THREADS where it is set, else all cores that other programs leave free."""


def main(argv: Sequence[str]) -> Result:
    """Run the command."""
    args = parsed(DemoArguments, argv, "demo")
    recipe = load_recipe(RECIPE)
    recipe = dataclasses.replace(
        recipe, seed=args.seed, train=dataclasses.replace(recipe.train, threads=args.threads)
    ).check()
    from blankfill.generation.hidden_words_report import read
    from blankfill.pretraining.run import pretrain

    result = pretrain(args.paths, recipe, args.out)
    report = None if result.stopped else read(result.folder)
    values = {**as_json(result), "hidden_words": report and dataclasses.asdict(report), "report": page_of(args.out)}
    code = result.stopped.exit_code if result.stopped else 0
    return Result(values=values, show=lambda: show_result(result, report), exit_code=code)


def show_result(result: RunResult, report: Report | None) -> None:
    """Print what was learnt, where the page of the run is, and how the same is done with other text."""
    if result.stopped:
        return
    if report:
        answer = (report.right or report.wrong)[0]
        show(f"try: blankfill fill --model {quoted(result.folder)} {quoted(f'{answer.before} [MASK] {answer.after}')}")
    show_page(result.folder)
    show("now your text: blankfill demo FILE_OR_FOLDER --out runs/mine")
