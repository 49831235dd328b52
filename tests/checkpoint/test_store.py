"""Checkpoints: written whole, checked when read, kept in number, never left half-made."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from blankfill.checkpoint import store
from blankfill.errors import UserError


def model_and_optimizer(seed: int = 0) -> tuple[torch.nn.Linear, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.1)
    for _ in range(3):
        model(torch.randn(4, 3)).sum().backward()
        optimizer.step()
    return model, optimizer


def save(folder: Path, step: int, keep: int = 2, best: int | None = None) -> None:
    model, optimizer = model_and_optimizer(step)
    store.save(folder, step, model.state_dict(), store.optimizer_tensors(optimizer), {"note": step}, keep, best)


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    store.save(tmp_path / "checkpoints", 7, model.state_dict(), store.optimizer_tensors(optimizer), {"note": "x"})
    assert (tmp_path / "latest").read_text() == "step-7\n"
    checkpoint = store.newest(tmp_path / "checkpoints")
    assert checkpoint is not None and (checkpoint.step, checkpoint.state["note"]) == (7, "x")
    other, fresh = torch.nn.Linear(3, 2), None
    other.load_state_dict(checkpoint.model)
    assert torch.equal(other.weight, model.weight)
    fresh = torch.optim.AdamW(other.named_parameters(), lr=0.1)
    store.restore_optimizer(fresh, checkpoint.optimizer)
    for pair in zip(fresh.state.values(), optimizer.state.values(), strict=True):
        assert all(torch.equal(pair[0][name], pair[1][name]) for name in pair[1])
    for m, o in ((model, optimizer), (other, fresh)):
        o.zero_grad()
        m(torch.ones(1, 3)).sum().backward()
        o.step()
    assert torch.equal(other.weight, model.weight)


def test_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path / "checkpoints", step, keep=2, best=1)
    assert sorted(store.steps_in(tmp_path / "checkpoints")) == [1, 3, 4]
    assert (tmp_path / "best").read_text() == "step-1\n"


@pytest.mark.parametrize("name", [store.MODEL, store.OPTIMIZER, store.STATE])
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / "step-2" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data[: len(data) - 5]))
    damaged: list[str] = []
    checkpoint = store.newest(tmp_path, damaged=damaged)
    assert checkpoint is not None and checkpoint.step == 1
    assert len(damaged) == 1 and "step-2" in damaged[0]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "step-1" / store.MODEL).unlink()
    with pytest.raises(UserError, match=r"model\.safetensors does not exist"):
        store.read(tmp_path / "step-1")


def test_no_space_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_safetensors", full)
    with pytest.raises(UserError, match="No space left on device"):
        save(tmp_path, 2)
    assert store.steps_in(tmp_path) == [1]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_state_is_plain_json(tmp_path: Path) -> None:
    save(tmp_path, 1)
    state = json.loads((tmp_path / "step-1" / store.STATE).read_text(encoding="utf-8"))
    assert state["step"] == 1 and set(state["sha256"]) == {store.MODEL, store.OPTIMIZER}


def test_a_changed_state_is_seen_and_one_of_an_older_version_is_read(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = tmp_path / "step-1"
    file = path / store.STATE
    values = json.loads(file.read_text(encoding="utf-8"))
    assert store.read(path).step == 1
    file.write_text(json.dumps(values), encoding="utf-8")  # laid out otherwise
    assert store.read(path).step == 1
    file.write_text(json.dumps({**values, "step": 2}), encoding="utf-8")
    with pytest.raises(UserError, match=r"state\.json is damaged: its checksum"):
        store.read(path)
    file.write_text(
        json.dumps({name: value for name, value in values.items() if name != store.OWN_SUM}), encoding="utf-8"
    )
    assert store.read(path).state == {name: value for name, value in values.items() if name != store.OWN_SUM}


def two_layers(names: tuple[str, ...] = ("first", "second"), width: int = 3) -> torch.nn.ModuleDict:
    """Layers by name, in the order of the names."""
    return torch.nn.ModuleDict({name: torch.nn.Linear(width, 3) for name in names})


def stepped(model: torch.nn.Module) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.1)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, number + 1.0)
    optimizer.step()
    return optimizer


def test_the_state_of_an_optimizer_is_kept_by_name() -> None:
    """Parameters in another order, and one more of them, each get what is theirs."""
    tensors = store.optimizer_tensors(stepped(two_layers()))
    assert set(tensors) == {
        f"{layer}.{part}.{kind}"
        for layer in ("first", "second")
        for part in ("weight", "bias")
        for kind in ("step", "exp_avg", "exp_avg_sq")
    }
    other = two_layers(("new", "second", "first"))
    optimizer = torch.optim.AdamW(other.named_parameters(), lr=0.1)
    store.restore_optimizer(optimizer, tensors)
    assert other["new"].weight not in optimizer.state
    for layer in ("first", "second"):
        assert torch.equal(optimizer.state[other[layer].weight]["exp_avg"], tensors[f"{layer}.weight.exp_avg"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (two_layers(("first",)), r"2 unknown names \('second.bias', 'second.weight'\); train it again$"),
        (two_layers(width=4), r"2 of another shape \('first.weight', 'second.weight'\); train it again$"),
    ],
)
def test_state_of_another_model_is_told_by_name(model: torch.nn.Module, message: str) -> None:
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.1)
    with pytest.raises(UserError, match=message):
        store.restore_optimizer(optimizer, store.optimizer_tensors(stepped(two_layers())))
    assert not optimizer.state


def test_state_by_number_is_of_an_older_version() -> None:
    optimizer = torch.optim.AdamW(two_layers().named_parameters(), lr=0.1)
    with pytest.raises(UserError, match=r"numbers the parameters \(version 0\.1\)"):
        store.restore_optimizer(optimizer, {"0.exp_avg": torch.zeros(3, 3)})


def test_weights_of_another_model_are_told_by_name(tmp_path: Path) -> None:
    tensors = two_layers(("first", "third")).state_dict()
    tensors["first.weight"] = torch.zeros(1)
    message = (
        r"2 missing names \('second.bias', 'second.weight'\) and 2 unknown names \('third.bias', 'third.weight'\) "
        r"and 1 of another shape \('first.weight'\)"
    )
    with pytest.raises(UserError, match=message):
        store.put_weights(two_layers(), tensors, tmp_path)


class Recorder:
    """A writer that only notes what it is handed, as a sharded one would take its share."""

    def __init__(self) -> None:
        self.files: dict[str, list[str]] = {}
        self.state: dict[str, object] = {}

    def write(self, file: str, tensors: Mapping[str, torch.Tensor]) -> None:
        assert not self.state
        self.files[file] = list(tensors)

    def write_text(self, file: str, text: str) -> None:
        self.files[file] = [text]

    def finish(self, state: Mapping[str, object]) -> None:
        self.state = dict(state)


def test_a_checkpoint_is_written_through_any_writer() -> None:
    model, optimizer = model_and_optimizer()
    writer = Recorder()
    store.write_checkpoint(writer, 7, model.state_dict(), store.optimizer_tensors(optimizer), {"note": "x"})
    assert writer.files[store.MODEL] == ["weight", "bias"] and len(writer.files[store.OPTIMIZER]) == 6
    assert writer.state == {"note": "x", "step": 7}
