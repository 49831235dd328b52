"""Draws the pictures of the home page: one sentence as several objectives see it, and the run of `blankfill demo`.

The examples come from the objectives, their attention from `report.picture`, the loss curve from `report.plots`, the
table of hidden words from the run's own report. The run is a record in `docs/demo`: figures, and none of the text that
was read. `python docs/home.py RUN` makes it from the run folder of `blankfill demo`, the pictures are drawn when the
documentation is built.
"""

import dataclasses
import json
import sys
import textwrap
from html import escape
from pathlib import Path

import numpy as np
from pictures import MASK, TEXT, TOKENS, VOCABULARY, document, ids

from blankfill.generation.hidden_words_report import lines_of, read, rows_of
from blankfill.objectives import T5, Bart, Glm, Gpt, Mlm, Xlnet
from blankfill.objectives.bart import BartChoice
from blankfill.objectives.base import Masked
from blankfill.objectives.glm import GlmChoice
from blankfill.objectives.t5 import T5Choice
from blankfill.objectives.xlnet import XlnetChoice
from blankfill.report.drawing import COLOURS, ENCODER, UNSEEN
from blankfill.report.picture import join_row
from blankfill.report.plots import loss_plot
from blankfill.types import QUERY

RECORD = Path(__file__).resolve().parent / "demo"
SENTENCE = ["the", "boys", "walked", "across", "the", "river", "that", "summer"]
POINTS = 150
"""Number of points of the training loss in the record."""
WIDTH, HEIGHT, GAP = 770, 26, 4
"""Size of the picture and of a token's box, in pixels."""


def examples():
    """One Example for each line of the picture: the name, what is done, and the Example. *walked across* and *summer*
    are blanked, except by GPT."""
    assert set(SENTENCE) <= set(TEXT)
    text = document(SENTENCE, [0, 8])
    masks = Masked(ids(3, 4, 8), np.array([MASK] * 3, np.int32))
    order = XlnetChoice((0, 8), (8, 8), ids(2, 3, 7), ids(0, 1, 4, 7, 2, 3, 5, 6, 8, 9))
    return [
        ("BERT, RoBERTa", "predicts the token below each mask", Mlm(length=16).build(text, VOCABULARY, masks)),
        (
            "GLM", "predicts each blank behind the text, token by token",
            Glm(length=16).build(text, VOCABULARY, GlmChoice(((3, 5), (8, 9)), (0, 1))),
        ),
        ("GPT", "predicts the next token, everywhere", Gpt(length=16).build(text, VOCABULARY, None)),
        (
            "XLNet", "predicts hidden tokens in a drawn order, from queries behind the text",
            Xlnet(length=16, pairs=False).build(text, VOCABULARY, order),
        ),
        (
            "T5", "its decoder predicts what belongs to each sentinel",
            T5(length=16).build(text, VOCABULARY, T5Choice(np.isin(np.arange(8), [2, 3, 7]))),
        ),
        (
            "BART", "its decoder predicts the whole text",
            Bart(length=16).build(text, VOCABULARY, BartChoice((0,), ((3, 5), (8, 9)))),
        ),
    ]  # fmt: skip


def make(folder: Path):
    """Write the pictures to a folder; those that are there already are left alone, if they are the same."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "home-strips.svg", strips())
    write(folder / "home-squares.svg", squares())
    lines = (RECORD / "hidden_words.txt").read_text(encoding="utf-8").splitlines()
    write(folder / "home-demo.txt", "\n".join(textwrap.fill(line, 88, drop_whitespace=False) for line in lines) + "\n")
    about = json.loads((RECORD / "about.json").read_text(encoding="utf-8"))
    newest = max(path.stat().st_mtime for path in RECORD.iterdir())
    loss, named = folder / "home-loss.png", folder / "home-named.png"
    if not (loss.exists() and named.exists() and min(loss.stat().st_mtime, named.stat().st_mtime) > newest):
        loss_plot(RECORD / "metrics.jsonl", loss, about["baseline"], "Loss")
        named_plot(named, about["shares"])


def named_plot(out, shares):
    """Draw the share of hidden words that the model names over the tokens that it has seen, beside the baselines, in
    the size of the loss curve. shares: by what names them, those of the baselines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, PercentFormatter

    lines = map(json.loads, (RECORD / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    points = [(line["tokens"], line["named_at_once"]) for line in lines if "named_at_once" in line]
    figure = Figure(figsize=(12, 7), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title("Hidden words named at once", fontsize=15, pad=14)
    axes.set_xlabel("tokens seen", fontsize=13)
    axes.tick_params(labelsize=12)
    axes.grid(color="0.9")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.plot(*zip(*points, strict=True), "o-", color="tab:orange", label="the model")
    for (name, share), style in zip(shares.items(), (":", "--", "-."), strict=True):
        axes.axhline(share, color="0.4", linestyle=style, label=name)
    axes.set_ylim(0, None)
    axes.legend(fontsize=12, loc="lower right")
    figure.savefig(out)


def write(path, text):
    """Write a file, unless it has this text already."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def strips():
    """The sentence as each objective gives it to its model, as SVG: the tokens, and below them the targets."""
    parts, top = [], 12
    for name, what, example in examples():
        parts.append(label(14, top + 13, name, what))
        top += 22
        left, depth = 14, 1
        for part in parts_of(example):
            widths = [max(22, 7.2 * max(len(text), len(target)) + 8) for text, target, _ in part]
            if left > 14 and left + 14 + sum(widths) + GAP * len(part) > WIDTH - 14:
                left, top = 14, top + depth * HEIGHT + 6
            elif left > 14:
                left += 14
            depth = 2 if any(target for _, target, _ in part) else 1
            for (text, target, fill), width in zip(part, widths, strict=True):
                parts.append(box(left, top, width, text, fill))
                if target:
                    parts.append(box(left, top + HEIGHT, width, target, COLOURS["target"]))
                left += width + GAP
        top += 2 * HEIGHT + 16
    return svg(WIDTH, top, parts)


def parts_of(example):
    """The text, and what is behind it (answers, queries, the decoder's row): the tokens of each with targets and
    colours."""
    row = join_row([example])
    queries = example.positions[-1] == QUERY if len(example.positions) == len(Xlnet.channels) else []
    firsts = [row.encoder, int(np.argmax(queries)) if len(queries) else 0]
    firsts += [column for column, token in enumerate(row.input_ids.tolist()) if TOKENS[token] == "[S]"][:1]
    begins = sorted({0, *firsts})
    tokens = []
    for column, token in enumerate(row.input_ids.tolist()):
        blank = TOKENS[token] in ("[MASK]", "[S]") or token in VOCABULARY.sentinels
        fill = COLOURS["a blank"] if blank else ENCODER if column < row.encoder else COLOURS["sees"]
        tokens.append((spelt(token), ", ".join(map(spelt, row.targets[column])), fill))
    return [tokens[begin:end] for begin, end in zip(begins, [*begins[1:], len(row)], strict=True)]


def squares():
    """What each objective lets its columns see, as SVG: queries down, keys across."""
    parts, side, across = [], 220, 3
    drawn = examples()
    for k, (name, _, example) in enumerate(drawn):
        left, top = 14 + (k % across) * (side + 36), 12 + (k // across) * (side + 44)
        row = join_row([example])
        cell = side / len(row)
        parts.append(label(left, top + 13, name))
        for query, line in enumerate(row.visible()):
            for key, sees in enumerate(line.tolist()):
                fill = UNSEEN
                if sees and query >= row.encoder > key:
                    fill = ENCODER
                elif sees:
                    fill = COLOURS["sees, and has a target"] if row.targets[query] else COLOURS["sees"]
                x, y = left + key * cell, top + 24 + query * cell
                size = f'width="{cell - 1:.1f}" height="{cell - 1:.1f}"'
                parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{fill}"/>')
    lines = -(-len(drawn) // across)
    return svg(WIDTH, 12 + lines * (side + 44), parts)


def spelt(token):
    """A token as the picture shows it."""
    return TOKENS[token].replace("<extra_id_", "<")


def box(left, top, width, text, fill):
    """A token in its box."""
    rect = f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{HEIGHT - 3}" rx="4" fill="{fill}"/>'
    middle = f'x="{left + width / 2:.1f}" y="{top + 16}"'
    return f'{rect}<text {middle} text-anchor="middle" font-family="monospace" font-size="12">{escape(text)}</text>'


def label(left, top, name, what=""):
    """A name, and a few words about it."""
    text = f'<tspan font-weight="700">{escape(name)}</tspan><tspan dx="10" font-size="13" fill="#555">{what}</tspan>'
    return f'<text x="{left}" y="{top}" font-family="sans-serif" font-size="14">{text}</text>'


def svg(width, height, parts):
    """A picture on a light ground, which a dark page needs."""
    ground = f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>'
    body = "\n".join([ground, *parts])
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">\n{body}\n</svg>\n'


def record(run, folder=RECORD):
    """Keep what the home page shows of a run: its metrics with fewer points, and the figures of its hidden words."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    train = [line for line in lines if line["split"] == "train"]
    thinned = {id(line) for line in train[:: max(1, len(train) // POINTS)]}
    names = ("step", "split", "loss", "tokens", "lr", "named_at_once", "named_among_5")
    folder.mkdir(exist_ok=True)
    write(folder / "metrics.jsonl", "".join(
        json.dumps({name: line[name] for name in names if name in line}) + "\n"
        for line in lines if line["split"] != "train" or id(line) in thinned
    ))  # fmt: skip
    report = read(run)
    figures = dataclasses.replace(report, right=(), wrong=())  # the answers quote the text
    write(folder / "hidden_words.txt", "\n".join(lines_of(figures)) + "\n")
    shares = {name: shares.first for name, shares in rows_of(report)}
    baselines = {name: share for name, share in shares.items() if "model" not in name}
    baseline = json.loads((run / "run.json").read_text(encoding="utf-8"))["baseline"]
    write(folder / "about.json", json.dumps({"baseline": baseline, "shares": baselines}, indent=1) + "\n")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
