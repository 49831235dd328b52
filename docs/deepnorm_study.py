"""Draws the charts and the table of the page on DeepNorm from the record of `bench/deepnorm.py` in `docs/deepnorm`.

`python docs/deepnorm_study.py RUNS.jsonl` makes the record from the runs of that script: what became of each run, and
the means over the seeds that the charts show. Charts and table are made when the documentation is built.
"""

import json
import statistics
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import studies

from blankfill.report.lines import Line, lines_svg

HERE = Path(__file__).resolve().parent
RECORD = HERE / "deepnorm" / "record.json"
NAMES = {"pre": "Pre-LN", "post": "Post-LN", "deepnorm": "DeepNorm"}
DASHED = 8
"""Number of the first dashed line."""
DRAWN = 0.003
"""Learning rate of the charts over steps and layers."""


def record(runs_file, out=RECORD):
    """Write the record of finished runs."""
    bench, means, cells = studies.script("deepnorm"), studies.means, {}
    for run in studies.script("small_models").read(Path(runs_file)):
        settings = run["settings"]
        key = (settings["norm"], settings["shrink"], settings["depth"], settings["rate"])
        cells.setdefault(key, []).append(run)
    lines = []
    for (norm, shrink, depth, rate), runs in sorted(cells.items()):
        line = {"norm": norm, "shrink": shrink, "depth": depth, "rate": rate}
        line["seeds"] = [[run["settings"]["seed"], bench.status(run), run["valid"], len(run["spikes"])] for run in runs]
        finite = [run for run in runs if run["finite"]]
        line["ratio"] = means([np.divide(run["gradients"]["embedding"], run["gradients"]["middle"]) for run in finite])
        line["look_up"] = means([run["gradients"]["look_up"] for run in finite])
        line["losses"] = means([run["losses"] for run in finite])
        for when in ("first", "last"):
            for what in ("hidden", "scores"):
                values = means([run[when][what] for run in finite])
                line[f"{when} {what}"] = values if depth == max(key[2] for key in cells) else values[-1:]
        lines.append(line)
    (settings, unigram) = next((run["settings"], run["unigram"]) for runs in cells.values() for run in runs)
    sizes = {key: settings[key] for key in ("width", "rows", "length", "steps")}
    out.parent.mkdir(exist_ok=True)
    written = ",\n".join(json.dumps(line) for line in lines)
    out.write_text(f'{{"unigram": {unigram}, "sizes": {json.dumps(sizes)}, "cells": [\n{written}\n]}}\n')


def make(folder):
    """Write the charts and the table to a folder; those that are the same already are left alone."""
    held = json.loads(RECORD.read_text(encoding="utf-8"))
    files = {"deepnorm-table.md": table(held)}
    for rate in sorted({cell["rate"] for cell in held["cells"]}):
        files[f"deepnorm-depth-{rate:g}.svg"] = over_depth(held, rate)
    deep = max(cell["depth"] for cell in held["cells"])
    cells = [cell for cell in held["cells"] if cell["depth"] == deep and cell["rate"] == DRAWN]
    span = held["sizes"]["steps"] / len(cells[0]["losses"])
    at = f"{deep} layers, rate {DRAWN:g}"
    files["deepnorm-loss.svg"] = chart(cells, "losses", f"Training loss, {at}", "nats", "step", span, False)
    files["deepnorm-gradient.svg"] = chart(
        cells, "ratio", f"Gradient of the embeddings, {at}", "times the median of the matrices", "step", span
    )
    files["deepnorm-look-up.svg"] = chart(
        cells, "look_up", f"Gradient that reaches the embeddings from the layers, {at}", "norm", "step", span
    )
    files["deepnorm-hidden.svg"] = chart(
        cells, "last hidden", f"Largest activation after training, {at}", "", "layer", 1
    )
    files["deepnorm-scores.svg"] = chart(
        cells, "last scores", f"Largest attention score after training, {at}", "", "layer", 1
    )
    studies.write(folder, files)


def over_depth(held, rate):
    """The chart of validation losses over depth for a rate: means of the seeds."""
    lines = []
    for place, norm in enumerate(NAMES):
        for shrink, dashed in ((1.0, 0), (0.1, DASHED)):
            cells = [
                cell for cell in held["cells"] if (cell["norm"], cell["shrink"], cell["rate"]) == (norm, shrink, rate)
            ]
            points = sorted((cell["depth"], mean_loss(cell)) for cell in cells if mean_loss(cell) is not None)
            name = NAMES[norm] + (", shrink 0.1" if dashed else "")
            lines.append(Line(name, place + dashed, *np.array(points, float).reshape(-1, 2).T))
    depths = np.array(sorted({cell["depth"] for cell in held["cells"]}), float)
    lines.append(Line("word frequencies", 7, depths, np.full(len(depths), held["unigram"])))
    return lines_svg(lines, f"Validation loss, rate {rate:g}", "nats", "layers", "{:.2f}".format, "{:.0f}".format, 0.1)


def chart(cells, key, title, unit, label, span, logarithmic=True):
    """The chart of a curve of some cells. span: the distance of its points."""
    lines = []
    for cell in cells:
        values = np.maximum(np.array(cell[key], float), 1e-30 if logarithmic else -np.inf)
        name = NAMES[cell["norm"]] + ("" if cell["shrink"] == 1 else f", shrink {cell['shrink']:g}")
        place = list(NAMES).index(cell["norm"]) + (0 if cell["shrink"] == 1 else DASHED)
        lines.append(Line(name, place, span * np.arange(len(values), dtype=float), values))
    write = "{:g}".format if logarithmic else "{:.2f}".format
    return lines_svg(lines, title, unit, label, write, "{:.0f}".format, 0.1, logarithmic)


def mean_loss(cell):
    """The mean validation loss of the finite runs of a cell; None without any."""
    losses = [valid for _, _, valid, _ in cell["seeds"] if valid is not None]
    return statistics.fmean(losses) if losses else None


def table(held):
    """The table of all runs: for each cell its mean validation loss, and what became of its runs."""
    rates = sorted({cell["rate"] for cell in held["cells"]})
    lines = [
        "| | layers | " + " | ".join(f"rate {rate:g}" for rate in rates) + " |",
        "| --- | --- |" + " --- |" * len(rates),
    ]
    cells = {tuple(cell[key] for key in ("norm", "shrink", "depth", "rate")): cell for cell in held["cells"]}
    keys = {key[:3] for key in cells}
    for norm, shrink, depth in sorted(keys, key=lambda key: (list(NAMES).index(key[0]), -key[1], key[2])):
        row = [NAMES[norm] + ("" if shrink == 1 else f", shrink {shrink:g}"), str(depth)]
        for rate in rates:
            row.append(said(cells[norm, shrink, depth, rate]) if (norm, shrink, depth, rate) in cells else "")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def said(cell):
    """A cell of the table in words."""
    counted = Counter(status for _, status, _, _ in cell["seeds"])
    words = ", ".join(f"{count} {status}" for status, count in counted.most_common())
    loss = mean_loss(cell)
    spikes = sum(count for *_, count in cell["seeds"])
    return (f"{loss:.2f}; " if loss is not None else "") + words + (f"; {spikes} spikes" if spikes else "")


if __name__ == "__main__":
    record(sys.argv[1])
