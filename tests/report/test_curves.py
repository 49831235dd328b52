"""Reading metrics while they are written, and thinning them: what is left, and what must never be lost."""

import json
from pathlib import Path

import numpy as np
import pytest

from blankfill.report.curves import bucket_starts, latest, read_tables, rounded, thinned
from blankfill.system.reading import read_json_lines


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def test_a_text_may_hold_what_other_readers_take_for_a_line_end(tmp_path: Path) -> None:
    texts = ["one\u2028two", "three\x85four", "five\x0csix", "seven\\neight"]
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    assert [row["text"] for row in read_json_lines(write(tmp_path / "samples.jsonl", lines))[0]] == texts


@pytest.mark.parametrize("broken", ['{"a": 2', "7", "[1]", "", "   ", '{"a": 2}}', "\x00", '{"a": 2},{"a": 3}'])
def test_what_is_no_object_is_passed_over_wherever_it_stands(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "x.jsonl"
    assert read_json_lines(write(path, f'{{"a": 1}}\n{broken}\n{{"a": 4}}\n'))[0] == [{"a": 1}, {"a": 4}]
    assert read_json_lines(write(path, f'{{"a": 1}}\n{{"a": 4}}\n{broken}'))[0] == [{"a": 1}, {"a": 4}]


def test_a_last_line_without_its_end_counts_once_it_is_whole(tmp_path: Path) -> None:
    assert read_json_lines(write(tmp_path / "x.jsonl", '{"a": 1}\n{"a": 2}'))[0] == [{"a": 1}, {"a": 2}]


def test_columns_hold_numbers_and_nothing_else(tmp_path: Path) -> None:
    values = ["1.5", "null", "NaN", "Infinity", '"text"', "[1, 2]", "{}", "1" + "0" * 400, "2"]
    lines = "".join(f'{{"step": {k}, "split": "train", "x": {value}}}\n' for k, value in enumerate(values))
    table = read_tables(write(tmp_path / "metrics.jsonl", lines))["train"]
    assert table.steps.tolist() == list(range(9))
    assert table.names == ["split", "step", "x"]
    assert np.nan_to_num(table.column("x"), nan=-1).tolist() == [1.5, -1, -1, -1, -1, -1, -1, -1, 2]
    assert np.isnan(table.column("absent")).all()


@pytest.mark.parametrize("step", ["true", "1.5", "-1", '"3"', "null", "1" + "0" * 30])
def test_a_step_is_a_whole_number(tmp_path: Path, step: str) -> None:
    assert read_tables(write(tmp_path / "metrics.jsonl", f'{{"step": {step}, "split": "train"}}\n')) == {}


def test_later_rows_replace_those_of_their_step_and_beyond() -> None:
    rows = [{"step": step, "k": k} for k, step in enumerate([1, 2, 3, 4, 3, 5, 5])]
    assert [(row["step"], row["k"]) for row in latest(rows)] == [(1, 0), (2, 1), (3, 4), (5, 6)]


def test_few_points_stay_as_they_are() -> None:
    values = np.array([3.0, np.nan, 1.0])
    starts = bucket_starts(3, 3, [1])
    assert starts.tolist() == [0, 1, 2]
    for values_of in vars(thinned(values, starts)).values():
        assert np.array_equal(values_of, values, equal_nan=True)


def test_buckets_are_even_and_some_points_stand_alone() -> None:
    assert bucket_starts(12, 3).tolist() == [0, 4, 8, 11]
    assert bucket_starts(12, 3, [0, 5]).tolist() == [0, 1, 4, 5, 6, 8, 11]


def test_a_bucket_is_its_mean_and_its_ends() -> None:
    values = np.array([1.0, 2.0, 6.0, np.nan, np.nan, np.nan, -1.0, np.nan, 3.0, 7.0])
    curve = thinned(values, np.array([0, 3, 6, 9]))
    assert curve.mean.tolist()[::2] == [3.0, 1.0]
    assert curve.low.tolist()[::2] == [1.0, -1.0]
    assert curve.high.tolist()[::2] == [6.0, 3.0]
    assert np.isnan([curve.mean[1], curve.low[1], curve.high[1]]).all()
    assert curve.mean[3] == 7.0


def test_thinning_keeps_the_mean_of_all_points_and_their_extremes() -> None:
    values = np.random.default_rng(0).normal(size=9_173)
    starts = bucket_starts(len(values), 500, [int(values.argmin())])
    curve = thinned(values, starts)
    sizes = np.diff([*starts, len(values)])
    assert 500 <= len(starts) <= 504
    assert sizes.max() <= 19
    assert (curve.mean * sizes).sum() / len(values) == pytest.approx(values.mean())
    assert (curve.low.min(), curve.high.max()) == (values.min(), values.max())
    assert values.min() in curve.mean.tolist()
    assert curve.mean[-1] == values[-1]


def test_numbers_are_rounded_to_significant_digits() -> None:
    values = np.array([0.0, 7.1234567, -0.00012345678, 1_234_567.0, np.nan, 5e-320, 1e300])
    assert rounded(values)[:5] == [0.0, 7.1235, -0.00012346, 1_234_600.0, None]
    assert json.loads(json.dumps(rounded(values), allow_nan=False))[6] == pytest.approx(1e300)
