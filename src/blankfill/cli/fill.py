"""`blankfill fill`: fill the blanks of sentences with a trained model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from blankfill.checkpoint.dtypes import WeightType, dtype_named
from blankfill.cli.arguments import parsed
from blankfill.cli.lines import lines_of
from blankfill.cli.result import Rows
from blankfill.corpus.tables.given import USUAL_NAMES, TextTable, given_kind
from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import UserError, setting
from blankfill.system.bounds import STEEPEST, Bound, at_least
from blankfill.system.schema import Option

if TYPE_CHECKING:
    from blankfill.generation.blanks import FillResult
    from blankfill.generation.fill import Filler


MOST_CANDIDATES = 100_000
"""Largest number of candidates of a blank."""


@dataclass(frozen=True, kw_only=True)
class FillArguments(TableOptions):
    """Fill the blanks of sentences with a trained model.

    A blank is written [MASK], [BLANK], <mask> or ____ (three or more underscores); [MASK:3] stands for exactly three
    tokens. GLM models also know [sMASK] for a sentence and [gMASK] for a longer text.
    """

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "top": at_least(1, MOST_CANDIDATES),
        "length_penalty": Bound(-STEEPEST, STEEPEST),
    }
    GROUPS: ClassVar[Mapping[str, str]] = {
        "Input": "model adapter file columns encoding delimiter sheet allow_unknown",
        "Candidates": "top lengths length_penalty",
        "Machine": "dtype device threads",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        'blankfill fill --model runs/bert "The cat sat on the [MASK]."',
        "blankfill fill --model runs/glm --file sentences.txt --lengths 1-3 --json",
    )

    text: Annotated[tuple[str, ...], Option(positional=True)] = ()
    """Sentences with blanks; - reads one from each line of standard input."""
    model: Path
    """Folder of a trained model: a run, or one of its checkpoints."""
    adapter: Path | None = None
    """Folder of LoRA matrices or of a prefix for this model, which finetune or peft wrote."""
    file: Path | None = None
    """UTF-8 file with one sentence on each line, or a table, whose column of text is found or named as by prepare."""
    allow_unknown: bool = False
    """Fill although most of a sentence is unknown to the model's tokenizer."""
    top: int = 5
    """Number of candidates per blank."""
    lengths: str | None = None
    """Number of tokens of a blank, such as 2 or 1-3; without it 1 (bert, mlm), a word (gpt), any number (glm, t5,
    bart)."""
    length_penalty: float = 0.0
    """Candidates are ranked by log-probability / length^penalty; 1 ranks by the mean log-probability of a token."""
    dtype: WeightType = "auto"
    """Number type of the weights and of the computation: fp32, bf16 or fp16; auto: as they are stored."""
    device: str = "auto"
    """Device to compute on: auto (a GPU where there is one), cpu, cuda, cuda:1 or mps."""
    threads: int = 0
    """CPU threads. 0: OMP_NUM_THREADS where it is set, else all cores that other programs leave free."""


def main(argv: Sequence[str]) -> Rows[tuple[int, FillResult]]:
    """Run the command."""
    args = parsed(FillArguments, argv, "fill")
    if args.file is None and args.table_options() != TableOptions():
        raise UserError(f"options of tables go with {setting('file')}; leave them out")
    if not args.text and args.file is None:
        raise UserError(
            f'there is nothing to fill; give a text such as "The cat sat on the [MASK].", - or {setting("file")}'
        )
    from blankfill.inference import load

    filler = load(
        args.model, args.device, dtype_named(args.dtype), head=False, optimize=False, threads=args.threads,
        adapter=args.adapter,
    ).filler  # fmt: skip
    return Rows(
        rows=enumerate(filled(filler, args)),
        values=lambda row: row[1].to_json(),
        show=lambda row: print_result(row[1], first=not row[0]),
    )


def filled(filler: Filler, args: FillArguments) -> Iterator[FillResult]:
    """Yield the result of each sentence."""
    from blankfill.corpus.unknown import counting

    for where, text in sentences(args.text, args.file, args.table_options()):
        try:
            with counting("the sentence", allow=args.allow_unknown):
                result = filler.fill(text, args.top, args.lengths, args.length_penalty)
        except UserError as error:
            raise UserError(f"{where}: {error.template}" if where else error.template) from None
        yield result


def sentences(
    texts: Sequence[str], file: Path | None, tables: TableOptions | None = None
) -> Iterator[tuple[str, str]]:  # fmt: skip
    """Yield (place, text) of every given sentence; empty lines, and rows of a table without a text, are skipped.

    tables: how a table is read, with the column of the text.
    """
    for text in texts:
        if text == "-":
            yield from _written(lines_of(None))
        else:
            yield "", text
    if file is None:
        return
    tables = tables or TableOptions()
    if file.is_file() and (kind := given_kind(file, tables, USUAL_NAMES)):
        yield from _written((row.where, row.text) for row in TextTable(file, kind, tables).rows())
    else:
        yield from _written(lines_of(file))


def _written(lines: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((where, text) for where, text in lines if text.strip())


def print_result(result: FillResult, first: bool = True) -> None:
    """Print the sentence with its best fills marked, then the candidates of each blank, in marks that show spaces.

    first: whether no other sentence was printed before it; an empty line separates sentences.
    """
    from blankfill.system.console import show, table

    if not first:
        show("")
    show(result.marked())
    share = "share" if result.probabilities == "candidates" else "probability"
    for number, (blank, candidates) in enumerate(zip(result.blanks, result.candidates, strict=True), 1):
        title = blank.written if len(result.blanks) == 1 else f"blank {number}: {blank.written}"
        rows = [
            [rank, f"«{c.text}»", _percent(c.probability), f"{c.score:.2f}"] for rank, c in enumerate(candidates, 1)
        ]
        table(title, rows, ("", "fill", share, "score"))


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or share == 0 else f"{share:.1e}"
