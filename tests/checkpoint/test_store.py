"""Checkpoints: written whole, checked when read, kept in number, never left half-made."""

import json
from pathlib import Path

import pytest
import torch

from blankfill.checkpoint import store
from blankfill.errors import UserError


def model_and_optimizer(seed: int = 0) -> tuple[torch.nn.Linear, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
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
    found = store.newest(tmp_path / "checkpoints")
    assert found is not None and (found.step, found.state["note"]) == (7, "x")
    other, fresh = torch.nn.Linear(3, 2), None
    other.load_state_dict(found.model)
    assert torch.equal(other.weight, model.weight)
    fresh = torch.optim.AdamW(other.parameters(), lr=0.1)
    store.restore_optimizer(fresh, found.optimizer)
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
    found = store.newest(tmp_path, damaged=damaged)
    assert found is not None and found.step == 1
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

    monkeypatch.setattr(store, "save_file", full)
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
    file.write_text(json.dumps({name: one for name, one in values.items() if name != store.OWN_SUM}), encoding="utf-8")
    assert store.read(path).state == {name: one for name, one in values.items() if name != store.OWN_SUM}
