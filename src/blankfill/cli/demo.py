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
from blankfill.errors import UserError, setting
from blankfill.system.bounds import COUNT, Bound
from blankfill.system.console import amount, as_json, quoted, show
from blankfill.system.schema import Option

if TYPE_CHECKING:
    from blankfill.generation.hidden_words_report import Report
    from blankfill.pretraining.outcome import RunResult

RECIPE = "demo"
LEAST = 10_000
"""Smallest size in bytes of the files of a text."""
SHORT = 1_000_000
"""Size in bytes below which more of a text is set aside for hidden words."""


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
    size = size_of(args.paths)
    recipe = load_recipe(RECIPE)
    if 0 < size < SHORT:  # whole files, at the usual share, might leave no part of a short text for validation
        corpus = dataclasses.replace(recipe.corpus, validation=0.1, documents="paragraphs")
        recipe = dataclasses.replace(recipe, corpus=corpus)
    recipe = dataclasses.replace(
        recipe, seed=args.seed, train=dataclasses.replace(recipe.train, threads=args.threads)
    ).check()
    from blankfill.generation.hidden_words_report import read
    from blankfill.pretraining.run import pretrain

    if (args.out / "recipe.yaml").exists():
        raise UserError(
            f"{args.out} holds a run already; resume it with `blankfill pretrain --resume {quoted(args.out)}`, or give "
            f"another {setting('out')}"
        )

    result = pretrain(args.paths, recipe, args.out)
    report = None if result.stopped else read(result.folder)
    values = {**as_json(result), "hidden_words": report and dataclasses.asdict(report), "report": page_of(args.out)}
    code = result.stopped.exit_code if result.stopped else 0
    return Result(values=values, show=lambda: show_result(result, report), exit_code=code)


def size_of(paths: Sequence[str]) -> int:
    """Return the bytes of the files of a text, 0 where there are no such files. Raises UserError for text that is too
    short to learn from and to hide words in; `pretrain` trains on any."""
    places = [Path(path) for path in paths]
    if not places or not all(place.exists() for place in places):
        return 0
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*"))]
    size = sum(file.stat().st_size for file in files if file.is_file())
    if 0 < size < LEAST:
        raise UserError(
            f"{', '.join(map(str, places[:3]))}{', …' if len(places) > 3 else ''}: {amount(size, 'B')} of text is too "
            f"little to learn from, and to hide words in that the model never reads; give a megabyte or more, at least "
            f"{amount(LEAST, 'B')}, or no text for the documentation of Python"
        )
    return size


def show_result(result: RunResult, report: Report | None) -> None:
    """Print what was learnt, where the page of the run is, and how the same is done with other text."""
    if result.stopped:
        return
    if report:
        answer = (report.right or report.wrong)[0]
        show(f"try: blankfill fill --model {quoted(result.folder)} {quoted(f'{answer.before} [MASK] {answer.after}')}")
    show_page(result.folder)
    show("now your text: blankfill demo FILE_OR_FOLDER --out runs/mine")
