"""`blankfill embed`: a vector for each line of a text, or for each row of a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from blankfill.checkpoint.dtypes import WeightType, dtype_named
from blankfill.cli.arguments import parsed
from blankfill.cli.lines import lines_of, refuse_table_options, windows
from blankfill.cli.result import Result, Rows
from blankfill.corpus.tables.given import USUAL_NAMES, TextTable, given_kind
from blankfill.corpus.tables.options import TableOptions
from blankfill.corpus.tables.writing import Column, delimiter_for, free_name, table_writer
from blankfill.errors import UserError, setting
from blankfill.system.console import say, show, show_json
from blankfill.system.files import is_special, refuse_input, whole_file
from blankfill.system.schema import Option

if TYPE_CHECKING:
    import numpy as np

    from blankfill.embedding.embed import Embedder


Row = dict[str, Any]
"""A text and its vector, as JSON."""
OUTPUTS = (".npy", ".jsonl", ".parquet", ".csv", ".tsv")
VECTOR = "vector"
"""Name of the column with the vector."""


class Given(NamedTuple):
    """A text to embed, and the row of the table that it is from, or an object with the text alone."""

    cells: Mapping[str, Any]
    text: str


Write = Callable[[Sequence[Given], "np.ndarray"], None]


@dataclass(frozen=True)
class Texts:
    """The texts of a source. columns: those of their rows. total: their number, where it is known. delimiter: of a CSV
    file. is_table: whether they are from a table."""

    rows: Iterator[Given]
    columns: tuple[Column, ...]
    total: int | None = None
    delimiter: str = ","
    is_table: bool = False


@dataclass(frozen=True, kw_only=True)
class EmbedArguments(TableOptions):
    """Compute a vector for each line of a text, or for each row of a table.

    Of a table (CSV, TSV, JSON, Parquet, a spreadsheet) the column of the text is found or named as by prepare.
    Texts of similar meaning have vectors of similar direction: the dot product of two vectors of length 1 is the cosine
    similarity of their texts.
    """

    GROUPS: ClassVar[Mapping[str, str]] = {
        "Model": "model adapter pooling normalize",
        "Input": "columns encoding delimiter sheet allow_unknown",
        "Output": "out",
        "Machine": "dtype device threads",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "blankfill embed --model runs/bert sentences.txt --out vectors.npy",
        "blankfill embed --model runs/bert reviews.csv --columns body --out vectors.parquet",
    )

    file: Annotated[Path, Option(positional=True)]
    """Table, or UTF-8 file with one text on each line; - reads lines from standard input."""
    model: Path
    """Folder of a trained or imported model."""
    adapter: Path | None = None
    """Folder of LoRA matrices or of a prefix for this model, which finetune or peft wrote."""
    out: Path | None = None
    """A .npy file (one row per line, or per row of a table), or a .jsonl, .parquet, .csv or .tsv file with the text, or
    all columns of a table, and the vector; without it, JSON lines are printed."""
    pooling: Literal["mean", "cls"] = "mean"
    """Vector of a text: the mean of its tokens' states, or the state of its first column."""
    normalize: bool = True
    """Scale each vector to length 1."""
    allow_unknown: bool = False
    """Compute vectors although more than 5% of the tokens are unknown to the model's tokenizer."""
    dtype: WeightType = "auto"
    """Number type of the weights and of the computation: fp32, bf16 or fp16; auto: as they are stored."""
    device: str = "auto"
    """Device to compute on: auto (a GPU where there is one), cpu, cuda, cuda:1 or mps."""
    threads: int = 0
    """CPU threads. 0: OMP_NUM_THREADS where it is set, else all cores that other programs leave free."""


def main(argv: Sequence[str]) -> Result | Rows[Row]:
    """Run the command."""
    args = parsed(EmbedArguments, argv, "embed")
    if args.out is not None and args.out.suffix not in OUTPUTS:
        raise UserError(
            f"{setting('out', args.out)}: vectors are written to a .npy, .jsonl, .parquet, .csv or .tsv file; end its "
            "name so"
        )
    source = None if str(args.file) == "-" else args.file
    refuse_input(args.out, source)
    texts = texts_of(source, args.table_options(), args.model)
    from blankfill.inference import load
    from blankfill.model.prepacked import prepack

    model = load(
        args.model, args.device, dtype_named(args.dtype), head=False, optimize=False, threads=args.threads,
        adapter=args.adapter,
    )  # fmt: skip
    prepack(model.loaded.model)
    embedder = model.embedder(args.pooling, args.normalize)
    name = free_name(VECTOR, {column.name.lower() for column in texts.columns})
    if name != VECTOR:
        say(f"{source} has a column {VECTOR!r}; that of the vectors is {name!r}")
    if args.out is None:
        rows = (row for window in embedded(embedder, texts, args.allow_unknown) for row in json_rows(*window, name))
        return Rows(rows=rows, values=lambda row: row, show=show_json)
    count = 0
    with writer(args.out, embedder.width, texts, name) as write:
        for window, array in embedded(embedder, texts, args.allow_unknown):
            write(window, array)
            count += len(window)
    if texts.is_table and args.out.suffix == ".npy":
        say(f"row k of {args.out} is row k of {source}, both counted from 0 and without the header")
    values = {"vectors": count, "width": embedder.width, "out": args.out}
    return Result(values=values, show=lambda: show(f"the vectors are in {args.out}"))


def texts_of(source: Path | None, options: TableOptions, model: Path) -> Texts:
    """Return the texts of a file: the lines, or the rows of a table with the columns that the model's corpus had."""
    from blankfill.runs.folder import text_columns_of

    refuse_table_options(source, options)
    kind = given_kind(source, options, USUAL_NAMES) if source is not None and source.is_file() else ""
    if source is None or not kind:
        lines = (Given({"text": text}, text) for _, text in lines_of(source))
        return Texts(lines, (Column("text"),), count_lines(source))
    table = TextTable(source, kind, options, text_columns_of(model))
    rows = (Given(row.cells, row.text) for row in table.rows())
    return Texts(rows, table.columns, None, delimiter_for(table.table), True)


def embedded(embedder: Embedder, texts: Texts, allow_unknown: bool) -> Iterator[tuple[Sequence[Given], np.ndarray]]:
    """Yield the texts of a source and their vectors, window by window; then a notice says how many there were."""
    from blankfill.corpus.unknown import counting
    from blankfill.embedding.embed import WINDOW
    from blankfill.system.console import progress

    began, count, cut = time.monotonic(), 0, 0
    with (
        counting("the texts", allow=allow_unknown, streams=True, report=True) as unknown,
        progress("embedding", texts.total, "texts", 0) as bar,
    ):
        for window in windows(texts.rows, WINDOW, lambda given: len(given.text)):
            vectors = embedder.vectors([given.text for given in window], first=count + 1)
            unknown.decide()
            yield window, vectors.array
            count, cut = count + len(window), cut + vectors.cut
            bar.advance(len(window))
    seconds = time.monotonic() - began
    truncated = f"; {cut:,} were longer than the model's {embedder.longest} tokens and were cut" if cut else ""
    say(f"{count:,} vectors of {embedder.width} numbers in {seconds:.1f} s{truncated}")


def count_lines(source: Path | None) -> int | None:
    """Count the lines of a file; None for standard input, and for a pipe or a device, which can be read only once.

    Raises UserError for a file that cannot be read.
    """
    if source is None or is_special(source):
        return None
    try:
        with source.open("rb") as stream:
            count, last = 0, b"\n"
            while data := stream.read(1 << 20):
                count, last = count + data.count(b"\n"), data[-1:]
            return count + (last != b"\n")
    except OSError as error:
        raise UserError(f"{source}: the file cannot be read ({error.strerror}); give a UTF-8 text file") from None


@contextmanager
def writer(out: Path, width: int, texts: Texts, name: str) -> Iterator[Write]:
    """Yield a function that writes texts and their vectors, window by window; a complete file gets its final name.

    name: of the column with the vector.
    """
    if out.suffix == ".npy":
        with whole_file(out, "wb", follow=True) as file, array_writer(file, width) as write:
            yield write
    else:
        columns = (*texts.columns, Column(name, "vector"))
        with table_writer(out, columns, texts.delimiter) as write_rows:
            yield lambda window, vectors: write_rows(json_rows(window, vectors, name))


@contextmanager
def array_writer(file: IO[bytes], width: int) -> Iterator[Write]:
    """Yield a function that writes rows of float32 to a .npy file; numpy's header leaves room for their number."""
    import numpy as np

    rows = 0

    def header() -> None:
        shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(file, shape)

    def write(texts: Sequence[Given], vectors: np.ndarray) -> None:
        nonlocal rows
        rows += len(vectors)
        file.write(vectors.astype("<f4").tobytes())

    header()
    begins = file.tell()
    yield write
    file.seek(0)
    header()
    assert file.tell() == begins


def json_rows(texts: Sequence[Given], vectors: np.ndarray, name: str) -> Iterator[Row]:
    """Yield an object with the cells and the vector of each text; nine digits tell a float32 from all others."""
    for given, vector in zip(texts, vectors.tolist(), strict=True):
        yield {**given.cells, name: [float(f"{x:.9g}") for x in vector]}
