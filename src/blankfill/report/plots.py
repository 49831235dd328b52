"""The picture of a run: metrics.jsonl → loss.png. The picture is redrawn throughout a run, with any number of points
(`curves` reads them). matplotlib is imported when a plot is drawn and used through its objects, never through pyplot,
so that no window system and no global state is touched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blankfill.report.charts import SMALLEST_SPAN
from blankfill.report.curves import read_curves
from blankfill.system.files import whole_path

SMOOTHED_OVER = 100
"""The smoothed curve averages over a hundredth of the points, so that it hardly lags behind a steep start."""


def smoothed(loss: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an exponential average with bias correction: the first value is that of the first point."""
    keep = 1.0 - 1.0 / max(1.0, len(loss) / SMOOTHED_OVER)
    out = np.empty(len(loss))
    total = weight = 0.0
    for k, value in enumerate(loss.tolist()):
        total = keep * total + value
        weight = keep * weight + 1.0
        out[k] = total / weight
    return out


def loss_plot(metrics: Path, out: Path, baseline: float | None = None, title: str = "") -> None:
    """Draw the losses of a run over the tokens that it has seen, 1200×700 pixels.

    baseline: loss of a model that knows word frequencies only (the unigram entropy), in nats; a dashed line. `out` is
    replaced atomically. Raises UserError when `metrics` cannot be read or `out` cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    curves = read_curves(metrics)
    figure = Figure(figsize=(12, 7), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=15, pad=14)
    axes.set_xlabel("tokens seen", fontsize=13)
    axes.set_ylabel("loss (nats per target)", fontsize=13)
    axes.tick_params(labelsize=12)
    axes.grid(color="0.9")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.margins(x=0.02)

    train, valid, old = curves.get("train"), curves.get("valid"), curves.get("old")
    if train is not None:
        alone = "o" if len(train) == 1 else ""
        axes.plot(train.tokens, train.loss, color="tab:blue", alpha=0.25, linewidth=1)
        smooth = smoothed(train.loss)
        label = f"training {smooth[-1]:.3f}"
        axes.plot(train.tokens, smooth, color="tab:blue", linewidth=2, marker=alone, label=label)
    if valid is not None:
        label = f"validation {valid.loss[-1]:.3f}"
        axes.plot(valid.tokens, valid.loss, color="tab:orange", linewidth=2, marker="o", markersize=7, label=label)
    if old is not None:
        label = f"old text {old.loss[0]:.3f} → {old.loss[-1]:.3f}"
        axes.plot(old.tokens, old.loss, color="tab:green", linewidth=2, marker="s", markersize=6, label=label)
    if baseline is not None:
        label = f"word frequencies alone {baseline:.3f}"
        axes.axhline(baseline, color="0.35", linestyle="--", linewidth=1.5, label=label)
    longest = max(curves.values(), key=len, default=None)
    if longest is None:
        axes.text(0.5, 0.5, "nothing measured yet", transform=axes.transAxes, ha="center", fontsize=15, color="0.4")
    elif len(longest) > 1 and longest.steps[-1] > 0 and longest.tokens[-1] > 0:
        rate = float(longest.steps[-1] / longest.tokens[-1])

        def to_steps(tokens: Any) -> Any:
            return tokens * rate

        def to_tokens(step: Any) -> Any:
            return step / rate

        steps = axes.secondary_xaxis("top", functions=(to_steps, to_tokens))
        steps.set_xlabel("steps", fontsize=13)
        steps.tick_params(labelsize=12)
    low, high = axes.get_ylim()
    if (missing := SMALLEST_SPAN["loss"] - (high - low)) > 0:
        axes.set_ylim(low - missing / 2, high + missing / 2)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=13, loc="upper right", framealpha=0.95)

    with whole_path(out, "name a file in a folder that exists") as temporary:
        figure.savefig(temporary, format="png")
