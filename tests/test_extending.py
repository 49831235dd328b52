"""`docs/extending.md`, done: its files are written and installed, its commands and programs run unchanged."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from blankfill.cli.main import main
from blankfill.families import FAMILIES
from blankfill.objectives import OBJECTIVES
from blankfill.system.registry import Registry
from blankfill.tasks.datasets.registry import TASKS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPINIONS = (
    ("dirty", "cold", "awful"),
    ("small", "noisy"),
    ("plain", "quiet"),
    ("clean", "warm"),
    ("lovely", "perfect"),
)
"""Words of reviews with one star, two, …"""


def files_of(page: str) -> dict[str, str]:
    """The blocks whose first line is a comment with the name of a file."""
    named = {}
    for _, text in BLOCK.findall(page):
        if match := re.match(r"# (\S+\.(?:py|toml|yaml))\n", text):
            named[match[1]] = text
    return named


def commands_of(page: str) -> list[list[str]]:
    """The command lines of the page, without `blankfill`."""
    lines = [line for kind, text in BLOCK.findall(page) if kind == "console" for line in text.splitlines()]
    assert lines and all(line.startswith("$ blankfill ") for line in lines)
    return [shlex.split(line.removeprefix("$ blankfill ")) for line in lines]


def write_texts(folder: Path) -> None:
    """Reviews that a model can tell apart, and the same texts to pretrain on."""
    rng = np.random.default_rng(1)
    (folder / "reviews").mkdir()
    (folder / "texts").mkdir()
    for name, count in (("train", 160), ("dev", 40)):
        lines, texts = [], []
        for _ in range(count):
            stars = int(rng.integers(5))
            room, staff = rng.choice(OPINIONS[stars], 2).tolist()
            thing = ("room", "hall", "garden")[int(rng.integers(3))]
            texts.append(f"the {thing} was {room} and the staff {staff} on that day in {('may', 'june')[stars % 2]}.")
            lines.append(f"{'*' * (stars + 1)} {texts[-1]}")
        (folder / "reviews" / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / "texts" / f"{name}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of the page and its texts, which is the current one and where modules are found."""
    for name, text in files_of(PAGE.read_text(encoding="utf-8")).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    write_texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    registries: list[Registry] = [FAMILIES, OBJECTIVES]
    before = [dict(registry._known) for registry in registries]
    tasks = dict(TASKS)
    for registry in registries:
        registry._entry_points_read = False
    yield tmp_path
    for registry, known in zip(registries, before, strict=True):
        registry._known, registry._entry_points_read = known, False
    TASKS.clear()
    TASKS.update(tasks)
    for name in [name for name in sys.modules if name.startswith("my_models")]:
        del sys.modules[name]


def install(site: Path) -> None:
    """Leave what `pip install` leaves of the page's `pyproject.toml`: the metadata with the entry points."""
    written = tomllib.loads((site / "pyproject.toml").read_text(encoding="utf-8"))
    # Beside `texts` and `reviews` setuptools would refuse to guess which folder is the package.
    assert written["tool"]["setuptools"]["packages"] == ["my_models"]
    project = written["project"]
    folder = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    folder.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(metadata, encoding="utf-8")
    points = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items())
        for group, named in project["entry-points"].items()
    ]
    (folder / "entry_points.txt").write_text("\n".join(points), encoding="utf-8")


def test_the_commands_of_the_page_know_what_is_installed(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site)
    commands = commands_of(PAGE.read_text(encoding="utf-8"))
    said = {}
    first, *others = commands
    shown = subprocess.run(
        [sys.executable, "-m", "blankfill", *first], capture_output=True, text=True, check=False, cwd=site
    )
    assert shown.returncode == 0, shown.stderr
    for command in others:
        assert main(command) == 0, capsys.readouterr().err
        said[command[0]] = capsys.readouterr().out
    assert "the room was" in said["fill"] and said["generate"].startswith("the room was")
    assert "perplexity" in said["evaluate"]
    state = json.loads(next((site / "runs" / "prefix" / "checkpoints").glob("step-60/state.json")).read_text("utf-8"))
    assert state["recipe"]["objective"]["name"] == "prefix-lm" and state["recipe"]["objective"]["min_target"] == 6
    assert state["model"]["norm_kind"] == "rms" and state["model"]["position_scheme"] == "rotary"
    results = json.loads((site / "tuned" / "results.json").read_text(encoding="utf-8"))
    assert results["primary_metric"] == "within-one" and set(results["metrics"]) >= {"accuracy", "within-one"}

    stars = {"*" * k: k for k in range(1, 6)}
    dev = [line.split(" ")[0] for line in (site / "reviews" / "dev.txt").read_text(encoding="utf-8").splitlines()]
    predicted = [json.loads(line) for line in (site / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    near = [abs(stars[row["label"]] - stars[gold]) <= 1 for row, gold in zip(predicted, dev, strict=True)]
    assert results["metrics"]["within-one"] == pytest.approx(sum(near) / len(near))


def test_the_programs_of_the_page_register_what_is_not_installed(site: Path) -> None:
    for name in ("test_prefix.py", "train.py"):
        done = subprocess.run([sys.executable, name], capture_output=True, text=True, check=False, cwd=site)
        assert done.returncode == 0, done.stderr
    generated, filled, scores = done.stdout.splitlines()[-3:]
    assert generated.startswith("the room was") and filled.startswith("the ") and "within-one" in scores
    assert main(["fill", "--model", "runs/python", "the [MASK] was small"]) == 2  # nobody registered it here


def test_a_line_without_stars_is_refused(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site)
    (site / "reviews" / "dev.txt").write_text("six ****** the room\n", encoding="utf-8")
    (site / "predictions.jsonl").write_text('{"id": "1", "label": "*"}\n', encoding="utf-8")
    assert main(["evaluate", "--task", "reviews", "--data", "reviews", "predictions.jsonl"]) == 2
    assert "dev.txt, line 1 does not begin with one to five stars" in capsys.readouterr().err
