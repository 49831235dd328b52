"""Fine-tuning runs whose data, options, first model or patterns were changed under them; grids and ensembles too."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cloze_run import OWN

from blankfill.checkpoint import store
from blankfill.cli.main import main
from blankfill.errors import UserError
from blankfill.finetuning.config import FinetuneConfig, read_config
from blankfill.finetuning.grid import combinations, run_grid
from blankfill.finetuning.pet import SOFT_LABELS, run_pet
from blankfill.finetuning.predictor import Predictor
from blankfill.finetuning.run import finetune
from blankfill.runs import inputs
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.run_files import CONFIG, RESULTS
from small_run import edit_state, permute
from small_tasks import QUICK, classes, model_folder

SHORT = dataclasses.replace(QUICK, epochs=1, eval_every=4)


def config_in(root: Path, **options: Any) -> FinetuneConfig:
    """A config for a cloze run on data of our own, made in `root` where they are not there yet."""
    if not (root / "data").exists():
        classes(root / "data")
        model_folder(root)
        (root / "own.yaml").write_text(OWN, encoding="utf-8")
        (root / "more.tsv").write_text("sentence\n" + "the cat sat on the big mat\n" * 12, encoding="utf-8")
    given = {"method": "cloze", "patterns": str(root / "own.yaml"), **options}
    return FinetuneConfig("sst2", root / "data", root / "made" / "step-0", dataclasses.replace(SHORT, **given))


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run of a cloze with texts without labels, its last checkpoint gone, so that there is something left to do."""
    config = config_in(tmp_path, mlm_weight=0.1, unlabelled=str(tmp_path / "more.tsv"))
    finetune(config, tmp_path / "run")
    return cut(tmp_path)


def cut(root: Path) -> Path:
    run = root / "run"
    steps = sorted(store.steps_in(run / "checkpoints"))
    if len(steps) > 1:
        shutil.rmtree(run / "checkpoints" / f"step-{steps[-1]}")
    (run / RESULTS).unlink()
    return root


def resumed(root: Path) -> Any:
    return finetune(read_config(root / "run"), root / "run", resume=True)


def reworded(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def retagged(**values: Any) -> Callable[[Path], None]:
    """Change what the first model's state says of it."""

    def change(root: Path) -> None:
        edit_state(root / "made" / "step-0" / store.STATE, **values)

    return change


def longer(root: Path) -> None:
    with open(root / "data" / "train.tsv", "a", encoding="utf-8") as file:
        file.write("the cat sat fine\t1\n")


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a word of the training data": (reworded("data/train.tsv", " cat ", " dog "), r"`train` are others \(96 then and"),
    "a row more": (longer, r"`train` are others \(96 then, 97 now\)"),
    "a label of the dev set": (reworded("data/dev.tsv", "\t1\n", "\t0\n"), r"items of `dev` are others \(40 then and"),
    "texts without labels": (reworded("more.tsv", "mat", "dog"), r"`unlabelled` are others"),
    "an option": (reworded("run/finetune.json", '"lr": 0.005', '"lr": 0.004'), r"lr is 0\.004 and was 0\.005"),
    "the run's patterns": (reworded("run/patterns.yaml", "ran on the", "sat on the"), r"the patterns are others"),
    "the model's tokenizer": (lambda root: permute(root / "made/step-0/tokenizer.json"), r"tokenizer of \S*step-0 is"),
    "the run's tokenizer": (
        lambda root: permute(root / "run/tokenizer.json"),
        r"run/tokenizer\.json is another .*step-0 is the same",
    ),
    "the model's word rate": (
        retagged(embedding_lr_multiplier=4.0),
        r"in the model it began from embedding_lr_multiplier is 4\.0 and was 1\.0",
    ),
    "the model's roles": (retagged(roles={"pad": 3}), r"in the model it began from roles\.pad is 3 and was"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_under_a_run_is_refused(name: str, begun: Path) -> None:
    change, message = CHANGES[name]
    change(begun)
    before = {path: path.read_bytes() for path in (begun / "run").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message):
        resumed(begun)
    assert before == {path: path.read_bytes() for path in (begun / "run").rglob("*") if path.is_file()}
    assert main(["finetune", "--resume", str(begun / "run")]) == 2


def test_what_stays_the_same_goes_on(begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file rewritten with the same items, and options of the machine."""
    text = (begun / "data" / "train.tsv").read_text(encoding="utf-8")
    (begun / "data" / "train.tsv").write_text(text.replace("\n", "\r\n") + "\n\n", encoding="utf-8")
    reworded("run/finetune.json", '"micro_batch": 0', '"micro_batch": 3')(begun)
    resumed(begun)
    assert "other inputs" not in capsys.readouterr().err
    newest = store.newest(begun / "run" / "checkpoints")
    assert newest is not None
    assert newest.state["inputs"] == json.loads((begun / "run" / inputs.FILE).read_text(encoding="utf-8"))


def other_weights(root: Path) -> None:
    split = store.read(root / "made" / "step-0")
    moved = {name: tensor + 1 for name, tensor in split.model.items()}
    tokenizer = (root / "made" / "step-0" / "tokenizer.json").read_bytes()
    saved = store.save(root / "made", 0, moved, {}, {name: split.state[name] for name in ("model", "objective")})
    (saved / "tokenizer.json").write_bytes(tokenizer)


def test_other_weights_of_the_first_model(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a checkpoint they do not matter, which is said; without one the run would begin from them."""
    shutil.copytree(begun / "run", begun / "same")
    finetune(read_config(begun / "run"), begun / "same", resume=True)
    other_weights(begun)
    shutil.copytree(begun / "run", begun / "early")
    resumed(begun)
    assert "other weights than when" in capsys.readouterr().err
    ends = [store.newest(begun / name / "checkpoints") for name in ("same", "run")]
    assert ends[0] is not None and ends[1] is not None and ends[0].step == ends[1].step
    assert all(torch.equal(tensor, ends[1].model[name]) for name, tensor in ends[0].model.items())
    shutil.rmtree(begun / "early" / "checkpoints")
    (begun / "early" / "latest").unlink()  # as a kill before the first checkpoint leaves it
    with pytest.raises(UserError, match=r"step-0 has other weights\. Put back what it was begun with"):
        finetune(read_config(begun / "run"), begun / "early", resume=True)


def test_a_run_of_an_older_version_goes_on_with_one_sentence(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (begun / "run" / inputs.FILE).unlink()
    for path in (begun / "run" / "checkpoints").glob("*/state.json"):
        edit_state(path, "inputs")
    resumed(begun)
    assert capsys.readouterr().err.count("did not note its inputs") == 1
    longer(begun)
    with pytest.raises(UserError, match="96 then, 97 now"):
        resumed(begun)


def test_a_model_does_not_answer_with_another_tokenizer_or_patterns(begun: Path) -> None:
    resumed(begun)
    Predictor(begun / "run", "cpu", 1)
    original = (begun / "run" / "tokenizer.json").read_bytes()
    permute(begun / "run" / "tokenizer.json")
    with pytest.raises(UserError, match=r"run/tokenizer\.json is not the tokenizer that the model .* trained with"):
        Predictor(begun / "run", "cpu", 1)
    (begun / "run" / "tokenizer.json").write_bytes(original)
    reworded("run/patterns.yaml", "ran on the", "sat on the")(begun)
    with pytest.raises(UserError, match=r"patterns\.yaml is not what the model was trained with"):
        Predictor(begun / "run", "cpu", 1)


def settings_of(options: FinetuneOptions) -> list[tuple[str, FinetuneOptions]]:
    return combinations(options, ["lr=5e-3,1e-3"], 1)


def test_a_grid_is_of_one_thing(tmp_path: Path) -> None:
    """Finished runs are not put beside runs on other data, from another model or with other options."""
    config = config_in(tmp_path, method="head", patterns="")
    out = tmp_path / "grid"
    list(run_grid(config, settings_of(config.options), out))
    written = {path: path.stat().st_mtime_ns for path in out.glob(f"*/{CONFIG}")}
    assert len(written) == 2
    shutil.rmtree(out / "lr-0.005_seed-0")  # is to be run again, before the other one

    def refused(message: str, options: FinetuneOptions = config.options) -> None:
        with pytest.raises(UserError, match=message):
            list(run_grid(dataclasses.replace(config, options=options), settings_of(options), out))
        assert not (out / "lr-0.005_seed-0").exists()

    refused(
        r"lr-0\.001_seed-0 .*warmup is 0\.2 and was 0\.1.*give another out",
        dataclasses.replace(config.options, warmup=0.2),
    )
    original = (tmp_path / "data" / "train.tsv").read_bytes()
    longer(tmp_path)
    refused("96 then, 97 now")
    (tmp_path / "data" / "train.tsv").write_bytes(original)
    list(run_grid(config, settings_of(config.options), out))
    assert (out / "lr-0.001_seed-0" / CONFIG).stat().st_mtime_ns == written[out / "lr-0.001_seed-0" / CONFIG]
    shutil.rmtree(out / "lr-0.005_seed-0")
    other_weights(tmp_path)
    refused(r"step-0 has other weights")


def test_an_ensemble_is_of_one_thing(tmp_path: Path) -> None:
    config = config_in(tmp_path, pattern="all", distil=str(tmp_path / "more.tsv"), distil_epochs=1)
    out = tmp_path / "all"
    list(run_pet(config, out))
    list(run_pet(config, out))
    reworded("own.yaml", "ran on the", "sat on the")(tmp_path)
    with pytest.raises(UserError, match=r"pattern-0 was begun with other inputs: the patterns are others"):
        list(run_pet(config, out))
    reworded("own.yaml", "sat on the", "ran on the")(tmp_path)
    original = (out / SOFT_LABELS).read_bytes()
    reworded("more.tsv", "mat", "dog")(tmp_path)
    with pytest.raises(UserError, match=r"the texts of \S*more\.tsv are others.*soft_labels"):
        list(run_pet(config, out))
    reworded("more.tsv", "dog", "mat")(tmp_path)
    lines = [json.loads(line) for line in original.decode().splitlines()]
    lines[0]["scores"] = dict.fromkeys(lines[0]["scores"], -1.0)
    (out / SOFT_LABELS).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(UserError, match=r"distilled was begun with other inputs: the items of `scores` are others"):
        list(run_pet(config, out))
