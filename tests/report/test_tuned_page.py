"""The pages of fine-tuning runs: that they say what the folder says, in tables, whatever texts the data hold."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_page import NASTY, cards, line, page, write

from blankfill.report.figures import spread, ticks


def folder(run: Path, results: dict[str, Any] | None = None, task: str = "sst2", **options: Any) -> Path:
    """A fine-tuning run at step 20 of 40, or one with results."""
    run.mkdir(parents=True)
    config = {
        "task": task,
        "data": "/d",
        "from": "/m",
        "tables": {},
        "options": {"lr": 2e-4, "max_grad_norm": 1.0, **options},
    }
    (run / "finetune.json").write_text(json.dumps(config), encoding="utf-8")
    facts = {
        "steps": 40,
        "items": {"train": 96, "dev": 40},
        "primary_metric": "accuracy",
        "learning": 1_250_000,
        "baseline": {"accuracy": 0.55},
        "objective": "bert",
        "model": {"num_layers": 6, "hidden_size": 384},
    }
    (run / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    write(run, "metrics.jsonl", line(0, "valid", accuracy=0.5), line(10), line(20, "valid", accuracy=0.75), line(20))
    if results is not None:
        values = {
            "primary_metric": "accuracy",
            "metrics": {"accuracy": 0.75},
            "baseline": {"metrics": {"accuracy": 0.55}},
        }
        (run / "results.json").write_text(json.dumps({**values, **results}), encoding="utf-8")
    return run


def test_a_run_that_trains_shows_its_score_beside_the_baseline(tmp_path: Path) -> None:
    elements = page(folder(tmp_path / "mine", lr=1e-3))
    assert elements.named("title")[0][1] == "mine – sst2, 50% done"
    shown = cards(elements)
    assert shown["Best accuracy"] == ["0.7500", "dev set, at step 20"]
    assert shown["Against the baseline"] == ["+0.2000", "without reading the items 0.5500"]
    assert [text for _, text in elements.named("h2")] == ["Scores", "Curves", "Settings", "Environment"]
    first, *_ = elements.data["charts"]
    assert first["key"] == "accuracy" and first["reference"] == {"name": "without reading", "y": 0.55}
    assert first["best"]["step"] == 20 and first["best"]["y"] == 0.75
    assert "best" not in next(chart for chart in elements.data["charts"] if chart["key"] == "loss")


def test_confusions_stand_in_a_table_with_shares(tmp_path: Path) -> None:
    mistakes = [{"id": "7", "right": "bad", "given": "good", "probability": 0.975, "text": NASTY, "second": "很好"}]
    classes = [{"name": "bad", "precision": 0.6, "recall": 0.75, "f1": 0.667, "support": 4, "given": 5}]
    results = {
        "labels": ["bad", "good"],
        "confusions": [[3, 1], [2, 14]],
        "classes": classes,
        "surest_mistakes": mistakes,
        "complete": True,
    }
    run = folder(tmp_path / "mine", results)
    elements = page(run)
    cells = [text.strip() for a, text in elements.named("td") if a.get("style", "") and "heat" not in str(a)]
    assert cells[:4] == ["3", "1", "2", "14"]
    shares = [text for a, text in elements.named("span", **{"class": "unit"}) if text.endswith("%")]
    assert shares == ["75%", "25%", "12%", "88%"]
    texts = [text for _, text in elements.named("p")]
    assert NASTY.replace("\ud800", "\ufffd") in texts and "很好" in texts
    assert ("97.5% sure" in [t for _, t in elements.named("span")]) and elements.named("p", lang="zh")
    assert elements.data["events"] == []


def test_many_classes_are_told_by_their_most_frequent_confusions(tmp_path: Path) -> None:
    counts = [[5 if r == c else 0 for c in range(30)] for r in range(30)]
    counts[3][4] = 5
    elements = page(folder(tmp_path / "mine", {"labels": [f"c{k}" for k in range(30)], "confusions": counts}))
    assert "c3 → c4" in [text for _, text in elements.named("th")]
    assert "50%" in [text for _, text in elements.named("td")]


def test_entities_questions_and_numbers_have_sections(tmp_path: Path) -> None:
    types = [{"name": "PER", "precision": 0.5, "recall": 1.0, "f1": 0.667, "support": 1, "given": 2}]
    taken = {"rows": ["PER", "no entity"], "columns": ["PER", "missed"], "counts": [[1, 0], [1, 0]]}
    place = {"before": "so", "entity": "Ann <b>", "after": "said"}
    confused = [{"right": "no entity", "given": "PER", "count": 1, "examples": [place]}]
    results: dict[str, Any] = {"types": types, "taken_for": taken, "confused": confused}
    elements = page(folder(tmp_path / "tags", results))
    assert elements.named("mark")[0][1] == "Ann <b>" and "1 time" in [text for _, text in elements.named("span")]
    kinds = [{"name": "who", "count": 2, "exact": 0.5, "f1": 0.75}]
    misses = [{"id": "3", "text": "who?", "right": "Ann", "given": "Bob", "f1": 0.0, "second": "so Ann said"}]
    elements = page(folder(tmp_path / "questions", {"questions": kinds, "misses": misses}))
    assert [text for _, text in elements.named("h2")][2:4] == ["Questions", "Misses"]
    assert "75.0%" in [text for _, text in elements.named("td")]
    elements = page(folder(tmp_path / "numbers", {"scatter": [[1.0, 1.5], [2.0, 2.0], [3.0, None]]}))
    assert len(elements.named("circle", **{"class": "point"})) == 2
    assert "2 items; the mean distance between true and predicted is 0.250" in str(elements.named("svg", role="img"))


def test_a_grid_compares_its_settings_and_links_its_runs(tmp_path: Path) -> None:
    names = ["lr-0.001_seed-0", "lr-0.001_seed-1", "lr-1e-05_seed-0"]
    for name in names:
        folder(tmp_path / "grid" / name, {})
    rows = [
        {"setting": "lr-0.001", "runs": 2, "mean": 0.75, "deviation": 0.01, "best": 0.76, "best_run": names[0]},
        {"setting": "lr-1e-05", "runs": 1, "mean": 0.5, "deviation": 0.0, "best": 0.5, "best_run": names[2]},
    ]
    results = {
        "task": "sst2",
        "primary_metric": "accuracy",
        "settings": rows,
        "best": rows[0],
        "runs": [*names, "../../etc"],
    }
    (tmp_path / "grid" / "results.json").write_text(json.dumps({**results, "complete": True}), encoding="utf-8")
    elements = page(tmp_path / "grid")
    links = [a["href"] for a, _ in elements.named("a") if "report" in str(a["href"])]
    assert links == [f"{name}/report.html" for name in names]
    assert cards(elements)["Best mean accuracy"] == ["0.7500", "± 0.0100 over 2 runs"]
    assert len(elements.named("circle", **{"class": "point"})) == 3 and "± 0.0100" in str(elements.found)


def test_an_ensemble_tells_its_patterns_and_what_they_say_together(tmp_path: Path) -> None:
    rows = [
        {"folder": f"pattern-{k}", "score": 0.6 + k / 10, "untrained": 0.5, "text": "{first} [MASK]"} for k in (0, 1)
    ]
    for row in rows:
        folder(tmp_path / "all" / str(row["folder"]), {}, method="cloze")
    results = {"task": "sst2", "primary_metric": "accuracy", "patterns": rows, "together": {"weighted": {"score": 0.8}}}
    (tmp_path / "all" / "results.json").write_text(json.dumps(results), encoding="utf-8")
    elements = page(tmp_path / "all")
    assert cards(elements)["All patterns, weighted"] == ["0.8000", "accuracy"]
    assert [text for _, text in elements.named("td")].count("{first} [MASK]") == 2


def test_files_that_are_broken_or_strange_still_give_a_page(tmp_path: Path) -> None:
    run = folder(
        tmp_path / "mine",
        {
            "confusions": [[1]],
            "labels": ["a", "b"],
            "scatter": 3,
            "classes": [None, 3],
            "surest_mistakes": {"a": 1},
            "taken_for": [],
            "metrics": None,
        },
    )
    assert "Confusions" not in [text for _, text in page(run).named("h2")]
    (run / "finetune.json").write_text("{", encoding="utf-8")
    (run / "run.json").write_text("[]", encoding="utf-8")
    (run / "metrics.jsonl").unlink()
    (run / "results.json").write_text("{}", encoding="utf-8")
    assert page(run).named("h1")[0][1] == "mine"


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.5, 0.51, [0.5, 0.502, 0.504, 0.506, 0.508, 0.51])],
)
def test_ticks_are_round(low: float, high: float, wanted: list[float]) -> None:
    assert ticks(low, high) == wanted


def test_settings_that_hardly_differ_do_not_look_far_apart() -> None:
    low, high = spread([0.501, 0.503], 0.1)
    assert high - low == pytest.approx(0.1) and low + high == pytest.approx(1.004)
    assert spread([0.0, 1.0], 0.1) == (-0.06, 1.06) and spread([2.0, 2.0]) == (1.9, 2.1)


def test_warnings_stand_first_and_odd_values_are_left_out(tmp_path: Path) -> None:
    results = {
        "warnings": ["the model gives the label 1 for all 40 examples of the dev set", 7],
        "advice": ["a higher lr: <at 1e-9>"],
        "intervals": {"accuracy": [0.6, 0.85], "f1": [None, 1], "mcc": 3},
        "baseline": {"metrics": {"accuracy": 0.55}, "interval": [-0.02, 0.4], "better": False},
        "evaluations": 4,
        "items": {"train": 96, "dev": 40},
        "test": {"items": 20, "score": 0.7, "metrics": {"accuracy": 0.7}, "intervals": {"accuracy": [0.5, 0.9]},
                 "baseline": {"metrics": {"accuracy": 0.5}, "interval": [0.05, 0.3], "better": True}},
    }  # fmt: skip
    elements = page(folder(tmp_path / "mine", results))
    assert [text for _, text in elements.named("h2")][:2] == ["Not learnt", "Scores"]
    assert "a higher lr: <at 1e-9>" in [text for _, text in elements.named("li")]
    cells = [text for _, text in elements.named("td")]
    assert "0.6000 to 0.8500" in cells and "0.5000 to 0.9000" in cells
    shown = cards(elements)
    assert shown["Best accuracy"] == ["0.7500", "95%: 0.6000 to 0.8500; dev set, at step 20"]
    assert shown["Test accuracy"] == ["0.7000", "95%: 0.5000 to 0.9000; test set, which chose nothing"]
    assert shown["Against the baseline"] == ["+0.2000", "may be chance; without reading the items 0.5500"]
    texts = [text for _, text in elements.named("p")]
    assert any("chose the checkpoint among 4 evaluations" in text for text in texts)
    assert sum("95% bootstrap interval" in text for text in texts) == 2
