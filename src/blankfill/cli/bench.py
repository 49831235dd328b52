"""`blankfill bench`: the training speed of this machine, in steps of the training loop on generated text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from blankfill.cli.result import Result
from blankfill.errors import setting
from blankfill.system.bounds import SOME, Bound, above, below
from blankfill.training.options import Precision

USUAL = ("bert-4x256", "glm-4x256", "gpt-4x256")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure the training speed of this machine with steps of the training loop on generated text.

    Each shape is an objective and a model, LAYERSxWIDTH, timed in a process of its own: tokens per second, the share of
    the machine's matrix-product rate that the steps use, the peak memory, and the time that making a step's rows takes
    on one core. `blankfill plan` estimates a particular run; comparisons with other programs are in the repository's
    bench folder.
    """

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(("length", "tokens", "vocabulary"), SOME),
        "dropout": below(1),
        "seconds": above(0),
    }
    GROUPS: ClassVar[Mapping[str, str]] = {
        "Shapes": "shapes length tokens vocabulary dropout",
        "Measurement": "seconds",
        "Machine": "precision device threads",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = ("blankfill bench --shapes bert-12x768 glm-12x768 --seconds 20",)

    shapes: tuple[str, ...] = USUAL
    """Shapes as OBJECTIVE-LAYERSxWIDTH, such as bert-12x768; an unknown objective lists the known ones."""
    length: int = 128
    """Tokens per row."""
    tokens: int = 4096
    """Tokens per batch, in whole rows."""
    vocabulary: int = 30_522
    """Size of the vocabulary."""
    dropout: float = 0.1
    """Dropout probability, of attention weights too."""
    precision: Precision = "auto"
    """Number type of matrix products. auto: bf16 where the device has units for it, else fp32."""
    device: str = "auto"
    """Device to compute on: auto (a GPU where there is one), cpu, cuda, cuda:1 or mps."""
    threads: int = 0
    """CPU threads. 0: OMP_NUM_THREADS where it is set, else all cores that other programs leave free."""
    seconds: float = 10.0
    """Duration of the measurement of each shape in seconds, at least three steps; setting up is not counted."""


def main(argv: Sequence[str]) -> Result:
    """Run the command."""
    from blankfill.cli.arguments import parsed

    given = parsed(Bench, argv, "bench")
    check(given)
    return Result(
        values=lambda: {"shapes": [alone(name, given) for name in given.shapes]},
        show=lambda: show_lines(given),
        is_output=True,
    )


def show_lines(given: Bench) -> None:
    """Print a line for each shape as soon as it is measured."""
    from blankfill.system.console import show

    show(f"{'shape':<14} {'precision':>9} {'ms/step':>8} {'tokens/s':>9} {'GEMM':>13} {'used':>5} {'memory':>8} rows")
    for name in given.shapes:
        show(line(alone(name, given)))


def check(given: Bench) -> None:
    """Raise ConfigError with all problems of the options."""
    from blankfill.errors import ConfigError

    problems = []
    if given.length > given.tokens:
        problems.append(
            f"{setting('tokens', given.tokens)} hold no row of {setting('length', given.length)}; raise "
            f"{setting('tokens')}"
        )
    if problems:
        raise ConfigError(problems)
    from blankfill.planning.bench import shape_named

    for name in given.shapes:
        wrong = shape_named(name, **sizes(given)).problems()
        problems += [problem for problem in wrong if problem not in problems]
    if problems:
        raise ConfigError(problems)


def sizes(given: Bench) -> dict[str, Any]:
    """Return the settings that all shapes share, as `planning.bench.Shape` names them."""
    return {
        "length": given.length, "rows": given.tokens // given.length, "dropout": given.dropout,
        "vocabulary": given.vocabulary,
    }  # fmt: skip


def alone(name: str, given: Bench) -> dict[str, Any]:
    """Time one shape in a new process, whose peak memory is then the shape's own."""
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    from blankfill.errors import UserError

    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(timed, name, given).result()
        except BrokenProcessPool as error:
            raise UserError(f"{name}: the process that timed it was ended, for lack of memory most likely") from error


def timed(name: str, given: Bench) -> dict[str, Any]:
    """Time one shape here."""
    from blankfill.planning.bench import measure, shape_named
    from blankfill.system.device import pick_device
    from blankfill.system.threads import use_threads
    from blankfill.training.precision import pick_dtype

    use_threads(given.threads)
    device = pick_device(given.device)
    shape = shape_named(name, **sizes(given))
    return {"name": name, **measure(shape, pick_dtype(given.precision, device), device, given.seconds)}


def line(row: Mapping[str, Any]) -> str:
    """One row of the table."""
    return (
        f"{row['name']:<14} {row['precision']:>9} {row['seconds_per_step'] * 1e3:>8.0f} "
        f"{row['tokens_per_s']:>9,.0f} {row['gemm_flops_per_s'] / 1e9:>6.0f} GFLOP/s {row['utilisation']:>5.0%} "
        f"{row['peak_memory'] / 1e6:>5.0f} MB {row['example_share']:.1%} of a step, on one core"
    )
