"""Draws the chart and the tables of the page on quantised models from the record of `bench/quantised_models.py` in
`docs/quantisation`.

`python docs/quantisation_study.py RUNS.jsonl...` makes the record from the runs of that script, by model and width.
Chart and tables are made when the documentation is built.
"""

import json
import statistics
import sys
from pathlib import Path

import numpy as np
import studies

from blankfill.report.lines import Line, lines_svg

HERE = Path(__file__).resolve().parent
RECORD = HERE / "quantisation" / "record.json"
NAMES = {
    ("glm", "pre"): "GLM, Pre-LN",
    ("glm", "deepnorm"): "GLM, DeepNorm",
    ("glm-body", "pre"): "GPT on GLM's body, Pre-LN",
    ("glm-body", "deepnorm"): "GPT on GLM's body, DeepNorm",
    ("gpt", "pre"): "GPT, Pre-LN",
    ("gpt", "deepnorm"): "GPT, DeepNorm",
}
MATRICES = {
    "attention.qkv": "queries, keys, values",
    "attention.output": "attention's output",
    "ffn.inner": "feed-forward, inner",
    "ffn.output": "feed-forward, output",
}
STATISTICS = {
    "kurtosis": ("kurtosis", "{:.2f}"), "skewness": ("skewness", "{:.2f}"), "peak": ("largest / σ", "{:.2f}"),
    "error": ("error of weights", "{:.1%}"), "output": ("error of product", "{:.1%}"),
    "activation": ("largest activation", "{:.1f}"), "outliers": ("outlying dimensions", "{:.1%}"),
}  # fmt: skip
CELL = ("width", "steps", "model", "norm")
"""Settings that distinguish the cells of the record."""
LOOKED_AT = "absmax INT4, row"
FIRST = ("", "columns", "steps", "seeds")
"""First columns of a table."""


def record(run_files, out=RECORD):
    """Write the record of finished runs."""
    read, cells = studies.script("small_models").read, {}
    for run in (run for file in run_files for run in read(Path(file))):
        settings = run["settings"]
        key = tuple(settings[name] for name in CELL)
        cells.setdefault(key, []).append(run)
    lines = []
    for key, runs in sorted(cells.items()):
        runs.sort(key=lambda run: run["settings"]["seed"])
        first = runs[0]
        line = dict(zip(CELL, key, strict=True)) | {"seeds": [run["settings"]["seed"] for run in runs]}
        line["weights"] = first["weights"]
        for key in ("loss", "accuracy"):
            line[key] = [run[key] for run in runs]
        line["losses"] = studies.means([run["losses"] for run in runs])
        line["roundings"] = {
            name: {key: [run["roundings"][name][key] for run in runs] for key in ("rise", "kl", "accuracy")}
            for name in first["roundings"]
        }
        line["kinds"] = {}
        for kind in first["kinds"]:
            facts = [run["kinds"][kind] for run in runs]
            averages = studies.means([[fact[key] for key in STATISTICS] for fact in facts])
            line["kinds"][kind] = dict(zip(STATISTICS, averages, strict=True))
            line["kinds"][kind]["alone"] = [fact["alone"] for fact in facts]
        lines.append(line)
    (settings, unigram) = next((run["settings"], run["unigram"]) for runs in cells.values() for run in runs)
    sizes = {key: value for key, value in settings.items() if key not in (*CELL, "seed")}
    out.parent.mkdir(exist_ok=True)
    written = ",\n".join(json.dumps(line) for line in lines)
    out.write_text(f'{{"unigram": {unigram}, "sizes": {json.dumps(sizes)}, "cells": [\n{written}\n]}}\n')


def make(folder):
    """Write the chart and the tables to a folder; those that are the same already are left alone."""
    held = json.loads(RECORD.read_text(encoding="utf-8"))
    widest = [cell for cell in held["cells"] if cell["width"] == max(cell["width"] for cell in held["cells"])]
    files = {
        "quantisation-loss.md": loss_table(held),
        "quantisation-divergence.md": divergence_table(held),
        "quantisation-accuracy.md": accuracy_table(held),
        "quantisation-kinds.md": kinds_table(widest),
        "quantisation-training.svg": chart(widest),
    }
    studies.write(folder, files)


def loss_table(held):
    """The loss of each model, and its rise by each rounding."""
    roundings = list(held["cells"][0]["roundings"])
    rows = []
    for cell in ordered(held["cells"]):
        row = [*named(cell), spread([loss for loss, _, _ in cell["loss"]], "{:.3f}")]
        row += [spread([rise for rise, _, _ in cell["roundings"][name]["rise"]], "{:+.4f}") for name in roundings]
        halves = [(high - low) / 2 for _, low, high in cell["roundings"][LOOKED_AT]["rise"]]
        rows.append([*row, f"{statistics.fmean(halves):.4f}"])
    return table([*FIRST, "original", *roundings, f"± of {LOOKED_AT}"], rows)


def divergence_table(held):
    """The mean divergence of each rounded model from itself, in thousandths of a nat."""
    roundings = list(held["cells"][0]["roundings"])
    rows = []
    for cell in ordered(held["cells"]):
        thousandths = [[1000 * kl for kl in cell["roundings"][name]["kl"]] for name in roundings]
        rows.append([*named(cell), *(spread(values, "{:.2f}") for values in thousandths)])
    return table([*FIRST, *roundings], rows)


def accuracy_table(held):
    """The share of last words that each model writes, in percent."""
    roundings = list(held["cells"][0]["roundings"])
    rows = []
    for cell in ordered(held["cells"]):
        original = [100 * share for share, _, _ in cell["accuracy"]]
        halves = [50 * (high - low) for _, low, high in cell["accuracy"]]
        shares = [[100 * share for share in cell["roundings"][name]["accuracy"]] for name in roundings]
        cells = [f"{statistics.fmean(values):.1f}" for values in (original, *shares)]
        rows.append([*named(cell), *cells, f"{statistics.fmean(halves):.1f}"])
    return table([*FIRST, "original", *roundings, "± of the original"], rows)


def kinds_table(cells):
    """The statistics of the weights and activations of some models, by kind of matrix."""
    rows = []
    for kind, name in MATRICES.items():
        for cell in ordered(cells):
            facts = cell["kinds"][kind]
            row = [name, NAMES[cell["model"], cell["norm"]]]
            row += [write.format(facts[key]) for key, (_, write) in STATISTICS.items()]
            rows.append([*row, spread([rise for rise, _, _ in facts["alone"]], "{:+.4f}")])
    return table(["matrix", "", *(name for name, _ in STATISTICS.values()), "rise of the loss by it alone"], rows)


def chart(cells):
    """The chart of the training losses of some models, means of the seeds."""
    lines, span = [], cells[0]["steps"] / len(cells[0]["losses"])
    for cell in ordered(cells):
        losses = np.array(cell["losses"], float)
        place = list(NAMES).index((cell["model"], cell["norm"]))
        lines.append(Line(NAMES[cell["model"], cell["norm"]], place, span * (1 + np.arange(len(losses))), losses))
    title = f"Training loss, {cells[0]['width']} columns"
    return lines_svg(lines, title, "nats", "step", "{:.2f}".format, "{:.0f}".format, 0.1)


def ordered(cells):
    """Some cells by width and steps, then in the order of the names."""
    names = list(NAMES)
    return sorted(cells, key=lambda cell: (cell["width"], cell["steps"], names.index((cell["model"], cell["norm"]))))


def named(cell):
    """The first columns of a cell in a table."""
    name = NAMES[cell["model"], cell["norm"]]
    return [name, str(cell["width"]), f"{cell['steps']:,}", str(len(cell["seeds"]))]


def spread(values, write):
    """The mean of the seeds, with the lowest and the highest."""
    low, mean, high = map(write.format, (min(values), statistics.fmean(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"


def table(head, rows):
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


if __name__ == "__main__":
    record(sys.argv[1:])
