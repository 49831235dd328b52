"""`blankfill embed`: a vector for each line of a text."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from blankfill.checkpoint.dtypes import WeightType, dtype_named
from blankfill.cli.arguments import parsed
from blankfill.cli.lines import lines_of, windows
from blankfill.cli.result import Result, Rows
from blankfill.errors import UserError, setting
from blankfill.system.console import show, show_json
from blankfill.system.files import is_special, refuse_input, whole_file
from blankfill.system.schema import Option

if TYPE_CHECKING:
    import numpy as np

    from blankfill.embedding.embed import Embedder

    Write = Callable[[Sequence[str], np.ndarray], None]


Row = dict[str, Any]
"""A text and its vector, as JSON."""


@dataclass(frozen=True, kw_only=True)
class EmbedArguments:
    """Compute a vector for each line of a text.

    Texts of similar meaning have vectors of similar direction: the dot product of two vectors of length 1 is the cosine
    similarity of their texts.
    """

    GROUPS: ClassVar[Mapping[str, str]] = {
        "Model": "model pooling normalize",
        "Input": "allow_unknown",
        "Output": "out",
        "Machine": "dtype device threads",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = ("blankfill embed --model runs/bert sentences.txt --out vectors.npy",)

    file: Annotated[Path, Option(positional=True)]
    """UTF-8 file with one text on each line; - reads standard input."""
    model: Path
    """Folder of a trained or imported model."""
    out: Path | None = None
    """A .npy file (one row per line), or a .jsonl file (text and vector); without it, JSON lines are printed."""
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
    if args.out is not None and args.out.suffix not in (".npy", ".jsonl"):
        raise UserError(f"{setting('out', args.out)}: vectors are written to a .npy or a .jsonl file; end its name so")
    source = None if str(args.file) == "-" else args.file
    refuse_input(args.out, source)
    total = count_lines(source)
    from blankfill.inference import load

    model = load(args.model, args.device, dtype_named(args.dtype), head=False, optimize=False, threads=args.threads)
    embedder = model.embedder(args.pooling, args.normalize)
    if args.out is None:
        rows = (row for window in embedded(embedder, source, total, args.allow_unknown) for row in json_rows(*window))
        return Rows(rows=rows, values=lambda row: row, show=show_json)
    texts = 0
    with writer(args.out, embedder.width) as write:
        for window, array in embedded(embedder, source, total, args.allow_unknown):
            write(window, array)
            texts += len(window)
    values = {"vectors": texts, "width": embedder.width, "out": args.out}
    return Result(values=values, show=lambda: show(f"the vectors are in {args.out}"))


def embedded(
    embedder: Embedder, source: Path | None, total: int | None, allow_unknown: bool = False
) -> Iterator[tuple[Sequence[str], np.ndarray]]:
    """Yield the lines of a file and their vectors, window by window; then a notice says how many there were."""
    from blankfill.corpus.unknown import counting
    from blankfill.embedding.embed import WINDOW
    from blankfill.system.console import progress, say

    began, texts, cut = time.monotonic(), 0, 0
    with (
        counting("the texts", allow=allow_unknown, streams=True, report=True) as count,
        progress("embedding", total, "texts", 0) as bar,
    ):
        lines = (text for _, text in lines_of(source))
        for window in windows(lines, WINDOW, len):
            vectors = embedder.vectors(window, first=texts + 1)
            count.decide()
            yield window, vectors.array
            texts, cut = texts + len(window), cut + vectors.cut
            bar.advance(len(window))
    seconds = time.monotonic() - began
    truncated = f"; {cut:,} were longer than the model's {embedder.longest} tokens and were cut" if cut else ""
    say(f"{texts:,} vectors of {embedder.width} numbers in {seconds:.1f} s{truncated}")


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
def writer(out: Path, width: int) -> Iterator[Write]:
    """Yield a function that writes texts and their vectors, window by window; a complete file gets its final name."""
    as_array = out.suffix == ".npy"
    with whole_file(out, "wb" if as_array else "w", follow=True) as file:
        if as_array:
            with array_writer(file, width) as write:
                yield write
        else:
            yield lambda texts, vectors: file.writelines(json.dumps(row) + "\n" for row in json_rows(texts, vectors))


@contextmanager
def array_writer(file: IO[bytes], width: int) -> Iterator[Write]:
    """Yield a function that writes rows of float32 to a .npy file; numpy's header leaves room for their number."""
    import numpy as np

    rows = 0

    def header() -> None:
        shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(file, shape)

    def write(texts: Sequence[str], vectors: np.ndarray) -> None:
        nonlocal rows
        rows += len(vectors)
        file.write(vectors.astype("<f4").tobytes())

    header()
    begins = file.tell()
    yield write
    file.seek(0)
    header()
    assert file.tell() == begins


def json_rows(texts: Sequence[str], vectors: np.ndarray) -> Iterator[Row]:
    """Yield an object with `text` and `vector` for each text; nine digits tell a float32 from all others."""
    for text, vector in zip(texts, vectors.tolist(), strict=True):
        yield {"text": text, "vector": [float(f"{x:.9g}") for x in vector]}
