"""A training example as a PNG: tokens along both axes, the attention grid, blanks, answers and positions.

Everything is drawn in units of one grid cell, whose size is chosen so that up to about sixty columns are comfortable to
read and about 130 are legible; a longer row keeps the grid and its marks and loses the words. matplotlib is used
through its objects, never through pyplot, and is imported only when a picture is drawn.

The default font has no Chinese glyphs, so the system's fonts are searched for one that has; where no font has the
glyphs, the number of the token is drawn instead, and the caller gets the missing characters.

"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blankfill.errors import UserError
from blankfill.report.picture import Decode, Row, cells, channel_names, heading, join_row, spell
from blankfill.system.files import whole_path
from blankfill.types import Bool, Example

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.font_manager import FontProperties

DPI = 120
LONGEST_SIDE = 14.0
"""Largest side of the grid, in inches."""
NARROWEST = 7.5
"""Smallest width of the picture, in inches, for its title and key."""
HEAD, FOOT = 0.8, 0.6
"""Inches above and below for the title and the key."""
SMALLEST_FONT = 4.4
"""Smallest font size in points; below it words are left out."""
COLOURS = {"sees": "#9cc3e6", "sees, and has a target": "#f4a95b", "a blank": "#ffe066", "target": "#f9cf9c"}
ENCODER = "#b5dcae"
"""Colour of cells where the decoder sees the encoder."""
FAR = "#d9d3e8"
"""Colour of cells that local layers do not see and the other layers do."""
UNSEEN = "#f2f2f2"
PREFERRED = ("notosanscjk", "sourcehansans", "wqy", "droidsansfallback", "msyh", "simhei", "pingfang", "hiragino",
             "arialuni", "malgun", "yugoth")  # fmt: skip
"""Parts of the names of font files that are searched first."""
NOT_GLYPHS = ("lastresort", "emoji", "adobeblank")
"""Fonts that claim every character and draw a box, or that cannot be drawn."""


@dataclass(frozen=True)
class Fonts:
    """The default font and further fonts: files, and the characters that each has."""

    files: Sequence[tuple[Path, Set[int]]]

    def having(self, text: str) -> Path | None:
        """Return the first font that has all characters of `text`, or None."""
        return next((file for file, has in self.files if all(ord(c) in has for c in text)), None)

    def lacking(self, text: str) -> set[str]:
        """Return the characters of `text` that no font has."""
        return {c for c in text if self.having(c) is None}

    def sized(self, text: str, points: float) -> FontProperties:
        """Return the font properties for `text`; the default font when no font has all characters."""
        from matplotlib.font_manager import FontProperties

        return FontProperties(fname=str(self.having(text) or self.files[0][0]), size=points)


def find_fonts(text: str, named: Path | None = None) -> Fonts:
    """Return the default font, the named font, and as many system fonts as cover all characters of `text`.

    Raises UserError when the named font cannot be read.
    """
    from matplotlib import font_manager

    default = Path(font_manager.findfont("DejaVu Sans"))
    fonts = [(default, _characters(default))]
    if named is not None:
        try:
            fonts.insert(0, (named, _characters(named)))
        except (OSError, RuntimeError) as error:
            raise UserError(f"{named} cannot be read as a font; name a .ttf, .otf or .ttc file") from error
    wanted = {ord(c) for c in text}.difference(*(has for _, has in fonts))
    if not wanted:
        return Fonts(fonts)

    def merit(path: Path) -> tuple[bool, str]:
        name = path.name.lower().replace("-", "").replace("_", "")
        return not any(part in name for part in PREFERRED), str(path)

    for path in sorted(map(Path, font_manager.findSystemFonts()), key=merit):
        if any(part in path.name.lower().replace("-", "") for part in NOT_GLYPHS):
            continue
        try:
            has = _characters(path)
        except (OSError, RuntimeError):
            continue
        if wanted & has:
            fonts.append((path, has))
            wanted -= has
            if not wanted:
                break
    return Fonts(fonts)


def example_png(
    examples: Sequence[Example],
    token: Decode,
    out: Path,
    *,
    channels: Sequence[str] = (),
    blanks: Collection[int] = (),
    title: str = "",
    font: Path | None = None,
    window: int = 0,
) -> str:
    """Draw a row to a PNG file.

    channels: names of the position channels. blanks: ids that stand for blanked text ([MASK], [gMASK], …). font: a font
    file to try first. window: window of the local layers of the model, 0 for a model without local layers. Returns the
    characters that no font has, "" when all are drawn. Raises UserError when `out` cannot be written or `font` cannot
    be read.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    row = join_row(examples)
    spelled = {i: spell(token(i)) for i in {*row.input_ids.tolist(), *(i for ids in row.targets for i in ids)}}
    fonts = find_fonts("".join([title, *spelled.values()]), font)
    missing = set().union(*(fonts.lacking(text) for text in [title, *spelled.values()]))
    drawn = {i: text if fonts.having(text) else f"#{i}" for i, text in spelled.items()}
    words = [drawn[i] for i in row.input_ids.tolist()]
    answers = [" ".join(drawn[i] for i in ids) for ids in row.targets]
    names = channel_names(channels, len(row.positions))

    cell = min(LONGEST_SIDE / len(row), max(0.22, min(0.4, 6 / len(row))))
    points = cell * 72 * 0.62
    with_words = points >= SMALLEST_FONT
    if with_words:
        before = 2.2 + _longest(words)
        left, right = max(before, 0.5 + _longest(names)), 1.0 + max(_longest(answers), _longest(["target"]))
        below = len(names) + 0.5
    else:
        before = left = right = below = 0.5 / cell
    wide, high = (left + len(row) + right) * cell, (before + len(row) + below) * cell
    width, height = max(NARROWEST, wide), high + HEAD + FOOT
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes(((width - wide) / 2 / width, FOOT / height, wide / width, high / height))
    axes.set_xlim(-left, len(row) + right)
    axes.set_ylim(len(row) + below, -before)
    axes.set_axis_off()

    is_blank = np.isin(row.input_ids, list(blanks))
    _draw_grid(axes, row, window)
    _draw_marks(axes, row, is_blank, before)
    if with_words:
        _draw_words(axes, row, words, answers, names, fonts, points)
    else:
        _draw_numbers(axes, row)
    labels = [*row.labels.items()][:2]
    said = [heading(row), *(f"column {row.numbers()[column]}: {label}" for column, label in labels)]
    if fonts.having(title) is None:
        title = "".join(c if c.isascii() else "?" for c in title)
    figure.text(
        0.5, 1 - 0.28 / height, title, ha="center", va="center", fontproperties=fonts.sized(title, 13), parse_math=False
    )  # fmt: skip
    figure.text(0.5, 1 - 0.58 / height, "   ".join(said), ha="center", va="center", fontsize=9, color="0.3")
    colours = COLOURS | ({"the decoder sees the encoder": ENCODER} if row.encoder else {})
    colours |= {"global layers alone see": FAR} if window else {}
    handles = [Patch(facecolor=colour, edgecolor="0.6", label=label) for label, colour in colours.items()]
    figure.legend(
        handles=handles, ncol=len(handles), loc="lower center", fontsize=9, frameon=False, title_fontsize=9,
        title="each line is a query; the cells in colour are the keys that it sees"
        + ("; the encoder first, then the decoder" if row.encoder else ""),
    )  # fmt: skip
    with whole_path(out, "name a file in a folder that exists") as temporary:
        figure.savefig(temporary, format="png")
    return "".join(sorted(missing))


def _characters(font: Path) -> Set[int]:
    from matplotlib.ft2font import FT2Font

    return FT2Font(str(font)).get_charmap().keys()


def _longest(texts: Sequence[str]) -> float:
    """Return the width of the longest text, in grid cells."""
    return max((0.4 * cells(text) for text in texts), default=0.0)


def _draw_grid(axes: Axes, row: Row, window: int) -> None:
    from matplotlib.colors import to_rgb

    length = len(row)
    image = np.full((length, length, 3), to_rgb(UNSEEN))
    visible = row.visible()
    has_target = np.array([bool(ids) for ids in row.targets])
    image[visible & ~has_target[:, None]] = to_rgb(COLOURS["sees"])
    image[visible & has_target[:, None]] = to_rgb(COLOURS["sees, and has a target"])
    read, written = slice(row.encoder), slice(row.encoder, None)
    image[written, read][visible[written, read]] = to_rgb(ENCODER)
    if window:
        image[visible & ~row.visible(window)] = to_rgb(FAR)
    axes.imshow(image, extent=(0, length, length, 0), interpolation="nearest", aspect="auto")
    if length <= 140:
        axes.hlines(np.arange(1, length), 0, length, color="white", linewidth=0.6)
        axes.vlines(np.arange(1, length), 0, length, color="white", linewidth=0.6)
    edges = [*row.begins, length]
    axes.hlines(edges, 0, length, color="0.35", linewidth=0.8)
    axes.vlines(edges, 0, length, color="0.35", linewidth=0.8)
    if row.encoder:
        axes.hlines(row.encoder, 0, length, color="0.1", linewidth=2)
        axes.vlines(row.encoder, 0, length, color="0.1", linewidth=2)


def _draw_marks(axes: Axes, row: Row, is_blank: Bool, depth: float) -> None:
    """Draw bars behind the tokens of both axes, `depth` cells long: yellow for a blank, orange for a target."""
    from matplotlib.patches import Rectangle

    for i, ids in enumerate(row.targets):
        if is_blank[i] or ids:
            colour = COLOURS["a blank" if is_blank[i] else "target"]
            axes.add_patch(Rectangle((-depth, i), depth - 0.1, 1, facecolor=colour, linewidth=0))
            axes.add_patch(Rectangle((i, -depth), 1, depth - 0.1, facecolor=colour, linewidth=0))


def _draw_words(
    axes: Axes, row: Row, words: list[str], answers: list[str], names: list[str], fonts: Fonts, points: float
) -> None:
    length, numbers = len(row), row.numbers()

    def write(x: float, y: float, text: str, ha: str, va: str = "center", small: bool = False, **style: object) -> None:
        font = fonts.sized(text, points * (0.75 if small else 1))
        axes.text(x, y, text, ha=ha, va=va, fontproperties=font, parse_math=False, **style)  # type: ignore[arg-type]

    for i, (word, answer) in enumerate(zip(words, answers, strict=True)):
        write(-1.8, i + 0.5, word, "right")
        write(-0.25, i + 0.5, str(numbers[i]), "right", small=True, color="0.45")
        write(i + 0.5, -1.8, word, "center", "bottom", rotation=90 if cells(word) > 2 else 0)
        write(i + 0.5, -0.25, str(numbers[i]), "center", "bottom", small=True, color="0.45", rotation=90)
        write(length + 0.5, i + 0.5, answer, "left")
    write(length + 0.5, -0.5, "target", "left", color="0.3")
    for k, (name, channel) in enumerate(zip(names, row.positions, strict=True)):
        y = length + 0.8 + k
        write(-0.25, y, name, "right", color="0.3")
        for i, position in enumerate(channel.tolist()):
            write(i + 0.5, y, str(position), "center", small=True)


def _draw_numbers(axes: Axes, row: Row) -> None:
    """Draw the numbers of columns where there is no room for words."""
    length = len(row)
    step = max(16, length // 16 // 16 * 16)
    for i, number in enumerate(row.numbers()):
        if number % step == 0:
            axes.text(i, length, f"{number}", ha="center", va="top", fontsize=8)
            axes.text(length, i, f" {number}", ha="left", va="center", fontsize=8)
