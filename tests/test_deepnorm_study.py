"""The study of DeepNorm: its script measures what it says, its runs can be interrupted, and its page has every run."""

import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from blankfill.model.transformer import build
from blankfill.report.lines import Line, lines_svg
from page_commands import ROOT
from study_texts import page_script, script, write_texts

SIZES = {"width": 32, "rows": 2, "length": 16, "steps": 25}
TEXTS = "{http://www.w3.org/2000/svg}text"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return script("deepnorm")


@pytest.fixture(scope="module")
def texts(bench: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("texts")
    write_texts(folder)
    return bench.texts_of([str(folder)], folder, 16, 200, 2 * SIZES["steps"])


def settings(norm: str, shrink: float = 1.0, rate: float = 1e-3) -> dict[str, Any]:
    return {"norm": norm, "shrink": shrink, "depth": 3, "rate": rate, "seed": 0, **SIZES}


def config_of(bench: ModuleType, norm: str, texts: Any) -> Any:
    return bench.model_config(texts, norm, SIZES["width"], 3, bench.HEAD)


def run_of(**values: Any) -> dict[str, Any]:
    """A finished run, with some values changed."""
    return {
        "finite": True, "rise": 0.0, "valid": 4.0, "unigram": 5.0, "gradients": {"look_up": [1.0, 0.5]}, **values
    }  # fmt: skip


@pytest.mark.parametrize(("values", "status"), [
    ({}, "learned"),
    ({"finite": False, "valid": None}, "not finite"),
    ({"rise": 0.51}, "diverged"),
    ({"rise": 0.49}, "learned"),
    ({"valid": 4.95}, "slow"),
    ({"valid": 4.95, "gradients": {"look_up": [1.0, 0.9e-3]}}, "collapsed"),
    ({"valid": 4.95, "gradients": {"look_up": [1.0, 1.1e-3]}}, "slow"),
])  # fmt: skip
def test_what_became_of_a_run(bench: ModuleType, values: dict[str, Any], status: str) -> None:
    assert bench.status(run_of(**values)) == status


def test_the_three_differ_in_norms_scale_and_initial_weights(bench: ModuleType, texts: Any) -> None:
    configs = {norm: config_of(bench, norm, texts) for norm in bench.NORMS}
    assert [configs[norm].norm for norm in bench.NORMS] == ["pre", "post", "post"]
    assert [round(configs[norm].alpha, 6) for norm in bench.NORMS] == [1.0, 1.0, round(math.sqrt(6), 6)]
    assert [configs[norm].init for norm in bench.NORMS] == ["normal", "normal", "deepnorm"]
    assert configs["post"].init_std == pytest.approx(math.sqrt(1 / 96))
    for config in configs.values():
        assert config.position_scheme == "rotary" and config.gated and config.tied and config.dropout == 0
    weights = {norm: sum(p.numel() for p in build(config, 0, "cpu").parameters()) for norm, config in configs.items()}
    assert weights["post"] == weights["deepnorm"] == weights["pre"]


def test_the_shrink_changes_only_the_gradient_that_comes_from_the_layers(bench: ModuleType, texts: Any) -> None:
    whole, shrunk = (bench.train({**settings("deepnorm", shrink), "steps": 1}, texts) for shrink in (1.0, 0.1))
    (before,), (after,) = whole["gradients"]["look_up"], shrunk["gradients"]["look_up"]
    assert after == pytest.approx(0.1 * before, rel=1e-3)
    assert whole["gradients"]["middle"] == shrunk["gradients"]["middle"]
    assert whole["first"] == shrunk["first"]


def test_a_run_is_measured(bench: ModuleType, texts: Any) -> None:
    run = bench.train(settings("pre"), texts)
    assert run["finite"] and run["steps"] == 25 and bench.status(run) in ("learned", "slow")
    assert len(run["losses"]) == 2 and run["losses"][0] > run["losses"][-1]
    assert all(len(values) == 3 for values in run["gradients"].values()) and len(run["norms"]) == 3
    assert len(run["last"]["hidden"]) == 4 and len(run["last"]["scores"]) == 3
    model = build(config_of(bench, "pre", texts), 0, "cpu")
    batch = texts.validation[0]
    assert run["first"] == bench.probe(model, batch)
    embedded = model.token_embeddings.weight.detach()[batch.input_ids].abs().max()
    assert run["first"]["hidden"][0] == pytest.approx(float(embedded), rel=1e-3)


def test_a_run_that_is_not_finite_ends_there(bench: ModuleType, texts: Any) -> None:
    run = bench.train(settings("pre", rate=1e30), texts)
    assert not run["finite"] and run["steps"] < 25 and run["valid"] is None
    assert bench.status(run) == "not finite" and "not finite at step" in bench.result(
        {"settings": settings("pre"), **run}
    )
    json.dumps(run, allow_nan=False)


def test_spikes_are_steps_far_above_the_median_before_them(bench: ModuleType, texts: Any) -> None:
    gradients = bench.Gradients(build(config_of(bench, "pre", texts), 0, "cpu"))
    gradients.norms = [1.0] * 20 + [11.0, 9.0, 1.0, 10.5]
    for values in (gradients.embedding, gradients.look_up, gradients.middle, gradients.largest):
        values += [1.0] * 24
    summary = gradients.summary()
    gradients.close()
    assert summary["spikes"] == [20, 23] and summary["norms"] == [1.0, 1.0, 11.0]


def test_finished_runs_are_not_repeated(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts").mkdir()
    write_texts(tmp_path / "texts")
    runs = tmp_path / "runs.jsonl"
    sizes = "--depths 1 --rates 1e-3 --seeds 0 --norms pre --steps 12 --rows 2 --length 16 --vocabulary 120"
    argv = ["deepnorm.py", str(tmp_path / "texts"), "--runs", str(runs), *sizes.split()]
    monkeypatch.setattr("sys.argv", argv)
    bench.main()
    first = runs.read_text(encoding="utf-8")
    assert len(first.splitlines()) == 2 and "0 of 2 runs are finished" in capsys.readouterr().out
    runs.write_text(first + first[:50], encoding="utf-8")  # as an interruption leaves it
    monkeypatch.setattr("sys.argv", [*argv, "--shrink", "1"])
    bench.main()
    out = capsys.readouterr().out
    assert "a line is damaged and left out" in out and "1 of 1 runs are finished" in out
    assert out.count("| pre | 1 | 1 |") == 1 and out.count("| pre | 0.1 | 1 |") == 1


def test_the_page_has_every_run_of_the_record(tmp_path: Path) -> None:
    study = page_script("deepnorm_study")
    study.make(tmp_path)
    held = json.loads(study.RECORD.read_text(encoding="utf-8"))
    table = (tmp_path / "deepnorm-table.md").read_text(encoding="utf-8")
    keys = {(cell["norm"], cell["shrink"], cell["depth"]) for cell in held["cells"]}
    assert len(table.splitlines()) == 2 + len(keys)
    counted = re.findall(r"(\d+) (?:learned|slow|collapsed|diverged|not finite)", table)
    assert sum(map(int, counted)) == sum(len(cell["seeds"]) for cell in held["cells"])
    page = (ROOT / "docs" / "deepnorm-study.md").read_text(encoding="utf-8")
    for path in tmp_path.glob("*.svg"):
        assert path.name in page
        assert len(list(ET.parse(path).getroot().iter(TEXTS))) > 5


def test_a_logarithmic_axis_has_a_line_for_each_power_of_ten() -> None:
    line = Line("a", 0, np.arange(3.0), np.array([0.5, 20.0, 3000.0]))
    svg = lines_svg([line], "T", "unit", "step", "{:g}".format, "{:g}".format, logarithmic=True)
    words = [text.text for text in ET.fromstring(svg).iter(TEXTS)]
    assert [word for word in words if word in ("0.1", "1", "10", "100", "1000", "10000")] == [
        "0.1", "1", "10", "100", "1000", "10000", "1",
    ]  # fmt: skip
