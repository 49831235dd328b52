"""The PNG of a row: its grid cell by cell, its words, and what happens where a glyph is in no font."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blankfill.errors import UserError
from blankfill.objectives.two_stacks import two_sided
from blankfill.report import drawing
from blankfill.report.drawing import COLOURS, ENCODER, FAR, UNSEEN, example_png, find_fonts
from blankfill.types import AttentionRule, Example


def example(length: int, rule: AttentionRule, targets: list[int]) -> Example:
    index = np.arange(length, dtype=np.int32)
    return Example(index, index[None], rule, np.array(targets, np.int32), np.array(targets, np.int32))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is given to matplotlib: the image of the grid, and every text."""
    import matplotlib.axes

    result: dict[str, Any] = {"texts": []}
    imshow, text = matplotlib.axes.Axes.imshow, matplotlib.axes.Axes.text

    def keep_image(self: Any, image: Any, **options: Any) -> Any:
        result["image"] = image
        return imshow(self, image, **options)

    def keep_text(self: Any, x: float, y: float, word: str, **options: Any) -> Any:
        result["texts"].append(word)
        return text(self, x, y, word, **options)

    monkeypatch.setattr(matplotlib.axes.Axes, "imshow", keep_image)
    monkeypatch.setattr(matplotlib.axes.Axes, "text", keep_text)
    return result


def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.font_manager

    monkeypatch.setattr(matplotlib.font_manager, "findSystemFonts", list)


def test_the_grid_is_the_rule(tmp_path: Path, seen: dict[str, Any]) -> None:
    from matplotlib.colors import to_rgb

    row = [example(5, AttentionRule.prefix(3, 5), [3, 4]), example(3, AttentionRule.causal(3), [])]
    assert example_png(row, str, tmp_path / "a.png", blanks=[1], title="a row") == ""
    colour = {0: to_rgb(UNSEEN), 1: to_rgb(COLOURS["sees"]), 2: to_rgb(COLOURS["sees, and has a target"])}
    expected = ["11100000", "11100000", "11100000", "22220000", "22222000", "00000100", "00000110", "00000111"]
    assert seen["image"].tolist() == [[list(colour[int(c)]) for c in line] for line in expected]


def test_what_the_decoder_sees_of_the_encoder_has_a_colour_of_its_own(tmp_path: Path, seen: dict[str, Any]) -> None:
    from matplotlib.colors import to_rgb

    row = [two_sided(np.arange(3, dtype=np.int32), np.arange(2, dtype=np.int32), 9)]
    assert example_png(row, str, tmp_path / "a.png", title="a row") == ""
    colour = [to_rgb(name) for name in (UNSEEN, COLOURS["sees"], COLOURS["sees, and has a target"], ENCODER)]
    expected = ["11100", "11100", "11100", "33320", "33322"]
    assert seen["image"].tolist() == [[list(colour[int(c)]) for c in line] for line in expected]
    # the third token, its number and its position are the encoder's alone
    assert seen["texts"].count("2") == 5


def test_what_local_layers_do_not_see_has_a_colour_of_its_own(tmp_path: Path, seen: dict[str, Any]) -> None:
    from matplotlib.colors import to_rgb

    assert example_png([example(4, AttentionRule.full(4), [])], str, tmp_path / "a.png", window=1) == ""
    colour = [to_rgb(FAR), to_rgb(COLOURS["sees"])]
    expected = ["1100", "1110", "0111", "0011"]
    assert seen["image"].tolist() == [[list(colour[int(c)]) for c in line] for line in expected]


def test_words_answers_and_positions_are_written(tmp_path: Path, seen: dict[str, Any]) -> None:
    words = ["a $5$", "b", "c"]
    example_png([example(3, AttentionRule.full(3), [1])], words.__getitem__, tmp_path / "a.png", channels=("place",))
    assert sorted(seen["texts"]) == sorted([*words, *words, "", "b", "", "target", "place", *"012", *"012", *"012"])


def test_a_long_row_keeps_its_grid_and_loses_its_words(tmp_path: Path, seen: dict[str, Any]) -> None:
    example_png([example(300, AttentionRule.causal(300), [7])], lambda i: f"w{i}", tmp_path / "a.png")
    assert seen["image"].shape == (300, 300, 3)
    assert all(text.strip().isdigit() for text in seen["texts"])


def test_characters_in_no_font_are_told_and_their_tokens_numbered(
    tmp_path: Path, seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_system_fonts(monkeypatch)
    words = ["猫", "cat", "书的"]
    out = tmp_path / "a.png"
    assert example_png([example(3, AttentionRule.full(3), [2])], words.__getitem__, out, title="猫") == "书猫的"
    assert seen["texts"].count("#0") == 2
    assert seen["texts"].count("#2") == 3
    assert seen["texts"].count("cat") == 2
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_font_is_found_among_those_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.font_manager

    has = {"Emoji.ttf": "猫", "a.ttf": "x书", "broken.ttf": "", "NotoSansCJK.ttc": "猫", "z.ttf": "猫书的"}

    def characters(path: Path) -> set[int]:
        if path.name == "broken.ttf":
            raise RuntimeError("no font")
        return {ord(c) for c in has.get(path.name, "abc")}

    monkeypatch.setattr(drawing, "_characters", characters)
    monkeypatch.setattr(matplotlib.font_manager, "findSystemFonts", lambda: list(has))
    fonts = find_fonts("ab猫书的")
    assert [file.name for file, _ in fonts.files[1:]] == ["NotoSansCJK.ttc", "a.ttf", "z.ttf"]
    assert fonts.having("猫") == Path("NotoSansCJK.ttc")
    assert fonts.having("猫书") == Path("z.ttf")
    assert fonts.lacking("a猫们") == {"们"}
    assert fonts.sized("猫书", 9).get_file() == "z.ttf"


def test_the_system_is_not_searched_for_what_the_default_font_has(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.font_manager

    def refuse() -> list[str]:
        raise AssertionError("searched")

    monkeypatch.setattr(matplotlib.font_manager, "findSystemFonts", refuse)
    assert find_fonts("Größe → …").lacking("Größe → …") == set()


def test_a_font_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "letters.ttf").write_bytes(b"not a font")
    for name in ("letters.ttf", "absent.ttf"):
        with pytest.raises(UserError, match=rf"{name} cannot be read as a font; name a \.ttf"):
            find_fonts("a", tmp_path / name)


def test_a_named_font_comes_first() -> None:
    import matplotlib.font_manager

    mono = Path(matplotlib.font_manager.findfont("DejaVu Sans Mono"))
    assert find_fonts("a", mono).having("a") == mono


def test_a_picture_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.png cannot be written .*folder that exists"):
        example_png([example(3, AttentionRule.full(3), [])], str, tmp_path / "absent" / "a.png")
