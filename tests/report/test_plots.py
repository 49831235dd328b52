"""The curves that loss.png draws, and that it is drawn whatever the metrics hold."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blankfill.errors import UserError
from blankfill.report.plots import loss_plot, read_curves, smoothed


def line(step: int, loss: object, split: str = "train") -> str:
    return json.dumps({"step": step, "split": split, "loss": loss, "lr": 1e-4, "tokens": step * 10}) + "\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def size_of(png: Path) -> tuple[int, int]:
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def test_splits_are_kept_apart_and_a_half_written_line_is_passed_over(tmp_path: Path) -> None:
    text = line(1, 5.0) + line(2, 4.0) + line(2, 4.5, "valid") + line(3, 3.0)[:20]
    curves = read_curves(write(tmp_path / "metrics.jsonl", text))
    assert curves["train"].steps.tolist() == [1, 2]
    assert curves["train"].tokens.tolist() == [10, 20]
    assert curves["train"].loss.tolist() == [5.0, 4.0]
    assert curves["valid"].loss.tolist() == [4.5]


def test_steps_measured_again_after_a_resume_replace_the_first_measurement(tmp_path: Path) -> None:
    text = line(1, 5.0) + line(2, 4.0) + line(3, 9.0) + line(2, 3.9) + line(3, 3.5)
    curve = read_curves(write(tmp_path / "metrics.jsonl", text))["train"]
    assert curve.steps.tolist() == [1, 2, 3]
    assert curve.loss.tolist() == [5.0, 3.9, 3.5]


@pytest.mark.parametrize("broken", ["[1]", "7", '{"step": 1}', line(2, float("nan")), line(2, None), "\x00\x00"])
def test_a_line_that_is_no_measurement_is_passed_over(tmp_path: Path, broken: str) -> None:
    curve = read_curves(write(tmp_path / "metrics.jsonl", line(1, 5.0) + broken.rstrip("\n") + "\n" + line(3, 4.0)))
    assert curve["train"].steps.tolist() == [1, 3]


def test_smoothing_keeps_a_constant_and_starts_at_the_first_point() -> None:
    assert np.allclose(smoothed(np.full(500, 2.5)), 2.5)
    falling = np.linspace(9, 1, 400)
    smooth = smoothed(falling)
    assert smooth[0] == falling[0]
    assert (np.diff(smooth) < 0).all()
    assert (smooth >= falling).all()


def test_smoothing_is_the_weighted_mean_that_it_says() -> None:
    loss = np.array([3.0, 1.0] * 100)
    keep = 1 - 100 / 200
    weights = keep ** np.arange(10)[::-1]
    assert smoothed(loss)[9] == pytest.approx((weights * loss[:10]).sum() / weights.sum())


def test_few_points_are_not_smoothed() -> None:
    assert smoothed(np.array([3.0, 1.0, 2.0])).tolist() == [3.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "text", ["", line(0, 9.0), line(5, 9.0), "".join(line(k, 9 / k) for k in range(1, 200)) + line(150, 1.0, "valid")]
)
def test_a_plot_is_drawn_from_any_number_of_points(tmp_path: Path, text: str) -> None:
    out = tmp_path / "loss.png"
    out.write_bytes(b"an older plot")
    loss_plot(write(tmp_path / "metrics.jsonl", text), out, 6.5, "a run")
    assert size_of(out) == (1200, 700)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["loss.png", "metrics.jsonl"]


def test_the_baseline_and_the_last_losses_stand_in_the_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.axes

    drawn: list[str] = []
    original = matplotlib.axes.Axes.axhline

    def axhline(self: matplotlib.axes.Axes, *args: object, **options: object) -> object:
        drawn.append(f"{args[0]} {options['label']}")
        return original(self, *args, **options)

    monkeypatch.setattr(matplotlib.axes.Axes, "axhline", axhline)
    metrics = write(tmp_path / "metrics.jsonl", line(1, 5.0))
    loss_plot(metrics, tmp_path / "a.png", 6.25)
    loss_plot(metrics, tmp_path / "b.png")
    assert drawn == ["6.25 word frequencies alone 6.250"]


def test_metrics_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.jsonl does not exist"):
        loss_plot(tmp_path / "metrics.jsonl", tmp_path / "loss.png")


def test_a_plot_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics.jsonl", line(1, 5.0))
    with pytest.raises(UserError, match=r"loss\.png cannot be written .*folder that exists"):
        loss_plot(metrics, tmp_path / "absent" / "loss.png")


def test_a_loss_that_hardly_moves_does_not_fill_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    heights, real = [], Figure.savefig

    def saved(figure: Figure, *more: Any, **named: Any) -> None:
        low, high = figure.axes[0].get_ylim()
        heights.append((low, high))
        real(figure, *more, **named)

    monkeypatch.setattr(Figure, "savefig", saved)
    for losses in ((5.001, 5.0), (5.0, 4.0)):
        text = "".join(line(k, loss) for k, loss in enumerate(losses, 1))
        loss_plot(write(tmp_path / "metrics.jsonl", text), tmp_path / "loss.png")
    (low, high), (lowest, highest) = heights
    assert high - low == pytest.approx(0.1) and low < 5.0 < 5.001 < high
    assert 1.0 < highest - lowest < 1.2
