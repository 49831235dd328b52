"""Rotary positions as a picture: the plane of two axes, and one axis whose positions repeat."""

import re
from pathlib import Path

import numpy as np
import pytest

from blankfill.cli.main import main
from blankfill.objectives import OBJECTIVES, Mlm
from blankfill.pretraining.show_text import show_text
from blankfill.report.picture import join_row
from blankfill.report.plane import plane_svg, plane_text, points, sentence_of
from blankfill.types import AttentionRule, Example

TEXT = "The river was low that summer, and the boys walked across it without wet feet."


def example(*positions: list[int], targets: int) -> Example:
    """An Example with these positions, whose last columns have targets."""
    length = len(positions[0])
    index = np.arange(length - targets, length, dtype=np.int32)
    rule = AttentionRule.prefix(length - targets, length)
    return Example(np.arange(length, dtype=np.int32), np.array(positions, np.int32), rule, index, index)


TWO_AXES = example([0, 1, 2, 3, 1, 1, 1], [0, 0, 0, 0, 1, 2, 3], targets=3)


def test_what_is_written_stands_above_its_mask() -> None:
    text = plane_text(join_row([TWO_AXES]), "rotary_2d", ("pos 1", "pos 2"), plain=True)
    assert text.splitlines() == [
        "pos 1 across, pos 2 up; * has a target", "", "   3   *", "   2   *", "   1   *", "   0  oooo",
    ]  # fmt: skip


def test_a_large_plane_is_drawn_in_coarser_cells() -> None:
    tall = example([*range(40), *[39] * 60], [*[0] * 40, *range(1, 61)], targets=60)
    lines = plane_text(join_row([tall]), "rotary_2d", (), width=16).splitlines()
    assert lines[0].endswith("a cell is 4 × 4 positions")
    assert len(lines) == 2 + 16 and lines[2].startswith("  60  ") and lines[-1] == "   0  ○○○○○○○○○●"


@pytest.mark.parametrize("scheme", ["", "learned", "relative", "rotary", "none"])
def test_other_schemes_have_no_plane(scheme: str) -> None:
    assert plane_text(join_row([TWO_AXES]), scheme, ()) == ""
    assert bool(sentence_of(scheme, ["pos"])) == (scheme == "rotary")


def test_one_axis_is_drawn_where_positions_repeat() -> None:
    counting = join_row([example([0, 1, 2, 3], targets=1), example([0, 1, 2], targets=1)])
    assert points(counting, "rotary") is None and plane_svg(counting, "rotary", ("pos",)) == ""
    frozen = join_row([example([0, 1, 2, 1, 1], targets=2)])
    places = points(frozen, "rotary")
    assert places is not None and places.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 1, 1]]
    assert plane_svg(frozen, "learned", ("pos",)) == ""


def test_every_column_is_a_dot_of_the_picture() -> None:
    svg = plane_svg(join_row([TWO_AXES, TWO_AXES]), "rotary_2d", ("pos 1", "pos 2"))
    dots = re.findall(r'<circle class="(d[^"]*)" data-k="(\d+)" cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert [int(k) for _, k, _, _ in dots] == list(range(14))
    assert [kind for kind, *_ in dots] == (["d"] * 4 + ["d aims"] * 3) * 2
    mask, *written = [(float(x), float(y)) for _, _, x, y in dots[:7]][1:2] + [
        (float(x), float(y)) for _, _, x, y in dots[4:7]
    ]
    assert all(x == mask[0] for x, _ in written)
    assert mask[1] > written[0][1] > written[1][1] > written[2][1]
    assert svg.count("<polyline") == 2


def test_show_draws_the_positions_of_chatglm_and_glm_130b(tmp_path: Path) -> None:
    rows = {name: show_text(TEXT, OBJECTIVES[name](gmask_share=0.0), family=name) for name in ("chatglm", "glm-130b")}
    assert "two-dimensional rotary positions: pos 1 rotates the first half" in rows["chatglm"].text()
    assert "pos 1 across, pos 2 up" in rows["chatglm"].text()
    assert "rotary positions: pos rotates queries and keys" in rows["glm-130b"].text()
    for name, row in rows.items():
        page = tmp_path / f"{name}.html"
        row.html(page)
        text = page.read_text(encoding="utf-8")
        assert text.count('<figure class="plane">') == 1
        assert text.count('<circle class="d') == len(join_row(row.examples))


def test_other_families_are_shown_as_before(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    row = show_text(TEXT, Mlm(length=32), family="modernbert")
    row.html(tmp_path / "row.html")
    assert "<figure" not in (tmp_path / "row.html").read_text(encoding="utf-8")
    assert main(["show", "--text", TEXT, "--recipe", "bert-nano"]) == 0
    assert "rotary" not in capsys.readouterr().out
