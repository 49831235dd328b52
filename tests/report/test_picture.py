"""The terminal picture of a row: its content, and that its grid is the rule's own."""

import numpy as np
import pytest

from blankfill.objectives.two_stacks import two_sided
from blankfill.report.picture import cells, example_text, heading, join_row, spell
from blankfill.types import AttentionRule, Example

# GLM's worked example (its paper's figure 2): x1 … x6, blanks [x3] and [x5 x6], written second first.
NAMES = ["x1", "x2", "[M]", "x4", "[S]", "x5", "x6", "x3", "[E]"]
INPUT = ["x1", "x2", "[M]", "x4", "[M]", "[S]", "x5", "x6", "[S]", "x3"]
ASKED = ["x5", "x6", "[E]", "x3", "[E]"]
POSITIONS = [[1, 2, 3, 4, 5, 5, 5, 5, 3, 3], [0, 0, 0, 0, 0, 1, 2, 3, 1, 2]]


def figure(**fields: object) -> Example:
    return Example(
        np.array([NAMES.index(name) for name in INPUT], np.int32),
        np.array(POSITIONS, np.int32),
        AttentionRule.prefix(5, 10),
        np.arange(5, 10, dtype=np.int32),
        np.array([NAMES.index(name) for name in ASKED], np.int32),
        **fields,  # type: ignore[arg-type]
    )


def simple(length: int, rule: AttentionRule | None = None, **fields: object) -> Example:
    index = np.arange(length, dtype=np.int32)
    none = index[:0]
    return Example(index, index[None], rule or AttentionRule.full(length), none, none, **fields)  # type: ignore[arg-type]


def lines_of(text: str) -> list[list[str]]:
    """The table's lines, header first, as their words."""
    return [line.split() for line in text.split("\n\n")[1].splitlines()]


def test_glm_figure_2_as_text() -> None:
    text = example_text([figure()], NAMES.__getitem__, channels=("pos 1", "pos 2"), plain=True)
    assert text == (
        "10 columns, 1 example, 5 targets\n"
        "\n"
        "col  token  pos 1  pos 2  target  seg  rank  horizon  0\n"
        "  0  x1         1      0            0     0        0  1111100000\n"
        "  1  x2         2      0            0     0        0  1111100000\n"
        "  2  [M]        3      0            0     0        0  1111100000\n"
        "  3  x4         4      0            0     0        0  1111100000\n"
        "  4  [M]        5      0            0     0        0  1111100000\n"
        "  5  [S]        5      1  x5        0     1        1  1111110000\n"
        "  6  x5         5      2  x6        0     2        2  1111111000\n"
        "  7  x6         5      3  [E]       0     3        3  1111111100\n"
        "  8  [S]        3      1  x3        0     4        4  1111111110\n"
        "  9  x3         3      2  [E]       0     5        5  1111111111\n"
    )


def test_examples_of_a_row_do_not_see_each_other() -> None:
    text = example_text([simple(3), simple(2, AttentionRule.causal(2))], str, plain=True)
    assert [line[-1] for line in lines_of(text)[1:]] == ["11100", "11100", "11100", "00010", "00011"]
    assert "5 columns, 2 examples, 0 targets" in text


def test_joining_agrees_with_the_packing_of_batches() -> None:
    from blankfill.data.batching import collate

    examples = [figure(), simple(4).__class__(**{**vars(simple(4)), "positions": np.zeros((2, 4), np.int32)}), figure()]
    row, batch = join_row(examples), collate([examples], pad=0, multiple=1)
    assert row.input_ids.tolist() == batch.input_ids[0].tolist()
    assert row.positions.tolist() == batch.positions[:, 0].tolist()
    for name in ("segment", "rank", "horizon"):
        assert getattr(row.rule, name).tolist() == getattr(batch, name)[0].tolist()
    targets = {i: ids for i, ids in enumerate(row.targets) if ids}
    assert targets == {i: [t] for i, t in zip(batch.target_index.tolist(), batch.target_ids.tolist(), strict=True)}
    assert row.begins == [0, 10, 14]


def test_whole_example_answers_are_told_with_their_meaning() -> None:
    text = example_text(
        [simple(2, labels={"next_sentence": 0}), simple(2, labels={"next_sentence": 1, "other": 7})], str
    )
    assert "column 0: next_sentence = 0 (B follows A)\n" in text
    assert "column 2: next_sentence = 1 (B comes from elsewhere), other = 7\n" in text


def test_a_column_may_ask_for_several_tokens() -> None:
    twice = np.array([1, 1], np.int32)
    example = Example(twice, twice[None], AttentionRule.full(2), twice, np.array([3, 4], np.int32))
    assert lines_of(example_text([example], lambda i: f"t{i}", plain=True))[2][3:5] == ["t3", "t4"]


def test_chinese_takes_two_cells_and_the_grid_stays_in_line() -> None:
    names = ["猫", "ab", "的书", "x"]
    text = example_text([simple(4)], names.__getitem__)
    body = text.splitlines()[3:]
    assert {cells(line) for line in body} == {cells(body[0])}
    assert {cells(line[: line.index("█")]) for line in body} == {cells(body[0]) - 4}


def test_a_grid_wider_than_the_terminal_has_several_columns_in_a_cell() -> None:
    text = example_text([simple(60, AttentionRule.causal(60))], str, width=72, plain=True)
    assert "stands for 3 columns; + where only some" in text
    table = lines_of(text)
    grid = [line[-1] for line in table[1:]]
    assert {len(line) for line in grid} == {20}
    assert grid[0] == "+" + "0" * 19
    assert grid[2] == "1" + "0" * 19
    assert grid[31] == "1" * 10 + "+" + "0" * 9
    assert table[0][-2:] == ["0", "30"]
    assert max(map(cells, text.splitlines()[4:])) <= 72


def test_a_narrow_terminal_has_the_grid_below_the_table() -> None:
    text = example_text([simple(40, AttentionRule.causal(40))], str, width=50, plain=True)
    grid = text.split("\n\n")[2].splitlines()
    assert grid[0].split() == ["0", "10", "20", "30"]
    assert grid[1] == " 0 1" + "0" * 39
    assert grid[40] == "39 " + "1" * 40
    assert max(map(cells, grid)) <= 50


def test_tokens_are_spelled_in_one_printable_line() -> None:
    assert spell("ab") == "ab"
    assert spell("a\nb\x00") == r"a\nb\x00"
    assert spell("\udc80") == r"\udc80"
    assert spell("x" * 30) == "x" * 15 + "…"
    assert cells(spell("猫" * 30)) <= 16


def test_channels_without_names_are_numbered() -> None:
    assert "  pos 1  pos 2  " in example_text([figure()], NAMES.__getitem__)
    assert "  pos  " in example_text([simple(3)], str, channels=("one", "two"))


def test_what_is_no_row_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        join_row([])
    with pytest.raises(ValueError, match="with an encoder's side and without one"):
        join_row([simple(2, context=simple(2)), simple(2)])


def sided(read: int, written: int) -> Example:
    """An example of a model with an encoder, whose tokens are their numbers and 90 behind what the decoder reads."""
    return two_sided(np.arange(read, dtype=np.int32), np.arange(10, 10 + written, dtype=np.int32), 90)


def test_encoder_and_decoder_stand_in_one_grid() -> None:
    text = example_text([sided(3, 2)], str, plain=True)
    assert text == (
        "encoder 3 columns, decoder 2 columns, 1 example, 2 targets\n"
        "above the line the encoder, below it the decoder, which sees the encoder left of the bar\n"
        "\n"
        "col  token  pos  target  seg  rank  horizon  0  |0\n"
        "  0  0        0            0     0        0  111|00\n"
        "  1  1        1            0     0        0  111|00\n"
        "  2  2        2            0     0        0  111|00\n"
        "------------------------------------------------+--\n"
        "  0  90       0  10        0     0        0  111|10\n"
        "  1  10       1  11        0     1        1  111|11\n"
    )


def test_a_decoder_sees_the_encoder_of_its_own_example() -> None:
    row = join_row([sided(2, 1), sided(1, 2)])
    lines = ["".join("01"[int(cell)] for cell in line) for line in row.visible()]
    assert lines == ["110000", "110000", "001000", "110100", "001010", "001011"]
    assert row.encoder == 3
    assert row.begins == [0, 2, 3, 4]
    assert row.numbers() == [0, 1, 2, 0, 1, 2]
    assert heading(row) == "encoder 3 columns, decoder 3 columns, 2 examples, 3 targets"


def test_sides_are_grouped_apart_where_the_grid_is_wide() -> None:
    """No cell stands for columns of both sides, and the bar does not make a line too wide."""
    text = example_text([sided(50, 20)], str, width=75, plain=True)
    body = [line for line in text.split("\n\n")[1].splitlines() if line[:3].strip().isdigit()]
    grid = [line.split()[-1] for line in body]
    group = int(text.split("stands for ")[1].split()[0])
    assert {tuple(map(len, line.split("|"))) for line in grid} == {(-(-50 // group), -(-20 // group))}
    assert all(set(line.split("|")[0]) == {"1"} for line in grid[50:])
    assert max(map(cells, text.split("\n\n")[1].splitlines())) <= 75


def test_sides_below_the_table_where_the_terminal_is_narrow() -> None:
    text = example_text([sided(30, 10)], str, width=46, plain=True)
    table, grid = (part.splitlines() for part in text.split("\n\n")[1:])
    assert (len(table), len(grid)) == (42, 42)
    assert set(table[31]) == {"-"}
    assert set(grid[31]) == {"-", "+"}
    assert grid[1] == " 0 " + "1" * 30 + "|" + "0" * 10
    assert grid[-1] == " 9 " + "1" * 30 + "|" + "1" * 10


def test_the_heading_counts() -> None:
    assert heading(join_row([simple(1)])) == "1 column, 1 example, 0 targets"


def test_a_local_layer_has_a_grid_of_its_own() -> None:
    """Two examples in a row, whose positions count from 0 in each; the window is one position."""
    text = example_text([simple(4), simple(2)], str, plain=True, window=1)
    assert text.endswith(
        "a local layer sees keys up to 1 position away:\n"
        "\n"
        "  0\n"
        "0 110000\n"
        "1 111000\n"
        "2 011100\n"
        "3 001100\n"
        "4 000011\n"
        "5 000011\n"
    )
    assert "away" not in example_text([simple(4)], str, plain=True)
