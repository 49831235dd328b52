"""Reading weights while their checksum is computed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from blankfill.checkpoint import store, verified
from blankfill.checkpoint.verified import convert, read_with_checksum
from blankfill.checkpoint.weights import OwnWeights, WeightFile
from blankfill.errors import UserError
from blankfill.system.marks import checksum

TENSORS = {
    "a": torch.randn(300, 70, generator=torch.Generator().manual_seed(0)).half(),
    "b": torch.arange(12, dtype=torch.int64),
    "c": torch.randn(5, generator=torch.Generator().manual_seed(1)).half(),
    "d": torch.zeros(0, 3).half(),
    "e": torch.randn(40, 40, generator=torch.Generator().manual_seed(2)),
}


def weights_of(path: Path, dtype: torch.dtype | None) -> OwnWeights:
    weights = OwnWeights(path, dtype)
    weights.add(WeightFile(path))
    return weights


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("read", "ahead"), [(8 << 20, 256 << 20), (100, 1), (64, 5000), (50_000, 100)])
def test_weights_and_checksum(
    tmp_path: Path, dtype: torch.dtype | None, read: int, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the two threads wait for, also for a tensor that is larger than their distance."""
    monkeypatch.setattr(verified, "READ", read)
    monkeypatch.setattr(verified, "AHEAD", ahead)
    monkeypatch.setattr(verified, "BLOCK", 1000)
    file = tmp_path / "model.safetensors"
    store.write_weights(file, TENSORS)
    made, digest = read_with_checksum(file, weights_of(file, dtype))
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest() and len(made) == len(TENSORS)
    assert set(made) == TENSORS.keys()
    for name, tensor in TENSORS.items():
        right = tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)
        assert made[name].dtype == right.dtype and torch.equal(made[name], right)


def test_a_converted_tensor_is_given_away(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    store.write_weights(file, TENSORS)
    made, _ = read_with_checksum(file, weights_of(file, torch.float32))
    first: Tensor = made["a"]
    assert torch.equal(made["a"], first) and made["a"].data_ptr() != first.data_ptr()  # read again


def test_damage_is_found_after_and_during_conversion(tmp_path: Path) -> None:
    for cut in (slice(0, -1), slice(0, 40), slice(0, 0)):
        folder = tmp_path / f"{cut.stop}"
        folder.mkdir()
        store.write_files(folder, 1, TENSORS, {}, {})
        file = folder / store.MODEL
        file.write_bytes(file.read_bytes()[cut])
        with pytest.raises(UserError, match="is damaged"):
            store.read(folder, dtype=torch.bfloat16)
    whole = tmp_path / "whole"
    whole.mkdir()
    store.write_files(whole, 1, TENSORS, {}, {})
    data = bytearray((whole / store.MODEL).read_bytes())
    data[-3] ^= 1
    (whole / store.MODEL).write_bytes(data)
    with pytest.raises(UserError, match="is damaged: its checksum differs"):
        store.read(whole, dtype=torch.bfloat16)


def test_a_failing_read_ends_both_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.safetensors"
    store.write_weights(file, TENSORS)
    monkeypatch.setattr(verified, "AHEAD", 1)
    monkeypatch.setattr(verified, "READ", 64)

    def broken(*_: object) -> Tensor:
        raise RuntimeError("no memory")

    monkeypatch.setattr(verified, "convert", broken)
    with pytest.raises(RuntimeError, match="no memory"):
        read_with_checksum(file, weights_of(file, torch.bfloat16))
    assert checksum(file) == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_file_that_cannot_be_read_is_an_error(dtype: torch.dtype | None, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    store.write_weights(file, TENSORS)
    weights, moved = weights_of(file, dtype), tmp_path / "moved"
    file.rename(moved)
    file.mkdir()
    with pytest.raises(IsADirectoryError):
        read_with_checksum(file, weights)


@pytest.mark.parametrize("kinds", [("float16", "bfloat16"), ("bfloat16", "float16"), ("float32", "bfloat16"),
                                   ("float16", "float32"), ("float64", "float16")])  # fmt: skip
def test_conversion_is_that_of_torch(kinds: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "BLOCK", 100)
    stored, wanted = (getattr(torch, kind) for kind in kinds)
    for source in (torch.randn(60, 40, generator=torch.Generator().manual_seed(3)), torch.tensor(3.7), torch.zeros(0)):
        for made in (source.to(stored), source.to(stored).t()) if source.dim() == 2 else (source.to(stored),):
            assert torch.equal(convert(made, wanted), made.to(wanted))
