"""Devices by their names: what is not there is refused by every command, before anything is computed."""

from pathlib import Path

import pytest
import torch

from blankfill.cli.main import main
from blankfill.config.recipe import load_recipe
from blankfill.errors import UserError
from blankfill.pretraining.run import pretrain
from blankfill.system.device import pick_device
from small_run import SMALL, texts_in

ODD = ["meta", "xla", "hpu", "vulkan", "cuda:99"]
"""Devices that torch knows by name, and that no test machine computes on."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    (folder / "texts").mkdir()
    small = {**SMALL, "train.steps": 2, "train.precision": "fp32", "train.threads": 1}
    pretrain([texts_in(folder / "texts", 4)], load_recipe("bert-nano", small), folder / "run")
    (folder / "lines.txt").write_text("a wooden boat\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", [*ODD, "nan", "", "  ", "\x1b[31m", "9" * 5000])
def test_a_name_that_is_none_and_a_device_that_is_not_there_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"give auto, cpu, cuda, cuda:1 or mps|torch finds no such device here"):
        pick_device(name)


def test_what_is_there_is_taken() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["meta", "cuda:99", "nowhere"])
@pytest.mark.parametrize("command", ["fill", "embed", "evaluate", "pretrain", "finetune", "bench", "plan"])
def test_every_command_refuses_it(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    run, lines, out = str(trained / "run"), str(trained / "lines.txt"), tmp_path / "out"
    small = [f"--{option.replace('_', '-')}={value}" for option, value in SMALL.items() if option[:4] != "corp"]
    (tmp_path / "rows.tsv").write_text("text\tlabel\n" + "a boat\tgood\na wall\tpoor\n" * 4, encoding="utf-8")
    task = ["--task", "classify", "--data", str(tmp_path / "rows.tsv"), "--out", str(out)]
    given = {
        "fill": ["--model", run, "a [MASK]", "--device", name],
        "embed": ["--model", run, lines, "--device", name],
        "evaluate": ["--model", run, "--task", "pseudo-perplexity", "--data", lines, "--device", name],
        "pretrain": [f"{run}/corpus", "--recipe", "bert-nano", "--out", str(out), *small, "--train.device", name],
        "finetune": ["--from", run, *task, "--device", name],
        "bench": ["--device", name],
        "plan": [f"{run}/corpus", "--recipe", "bert-nano", *small, "--train.device", name],
    }
    assert main([command, *given[command]]) == 2
    assert "--device is" in (err := capsys.readouterr().err) and "Traceback" not in err
    assert not (out / "checkpoints").exists()
