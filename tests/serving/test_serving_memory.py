"""The files of models before they are opened: their memory, the threads of each, and whether they have changed."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from blankfill.errors import UserError
from blankfill.serving import memory
from blankfill.serving.memory import check_fits, checkpoint_of, fingerprint, need_of, weight_files
from blankfill.serving.run import threads_of
from written_models import write_model


def write_tensors(path: Path, tensors: Sequence[tuple[str, int]]) -> None:
    """A safetensors file with tensors of types and sizes in bytes."""
    header, end = {}, 0
    for number, (kind, size) in enumerate(tensors):
        header[str(number)] = {"dtype": kind, "shape": [size], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def test_the_weights_of_a_model_are_counted_before_it_is_opened(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", [("F32", 4000), ("I8", 100)])
    write_tensors(tmp_path / "optimizer.safetensors", [("F32", 8000)])
    size = (tmp_path / "model.safetensors").stat().st_size
    assert need_of("a", tmp_path) == memory.Need("a", size, True)
    assert need_of("a", tmp_path, "fp32") == memory.Need("a", 4100, True)
    half = need_of("a", tmp_path, "bf16")
    assert half == memory.Need("a", 2100, False) and "2.1 kB, of memory in each process" in half.sentence
    assert need_of("a", tmp_path, adapter=tmp_path).bytes == 2 * size


def test_a_run_is_counted_by_its_newest_checkpoint(tmp_path: Path) -> None:
    for step, size in ((9, 40), (10, 400)):
        (tmp_path / "checkpoints" / f"step-{step}").mkdir(parents=True)
        write_tensors(tmp_path / "checkpoints" / f"step-{step}" / "model.safetensors", [("F32", size)])
    (tmp_path / "best").write_text("step-9\n", encoding="utf-8")
    assert checkpoint_of(tmp_path).name == "step-10"
    assert checkpoint_of(tmp_path / "best") == tmp_path / "checkpoints" / "step-9"
    assert need_of("a", tmp_path, "fp32").bytes == 400
    assert need_of("a", tmp_path / "best", "fp32").bytes == 40


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 9) + b'{"a": {}}'])
def test_weights_in_another_form_are_of_unknown_size(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    need = need_of("a", tmp_path)
    assert need.bytes == 0 and "is not known" in need.sentence
    assert need_of("a", tmp_path / "nothing").bytes == 0


def test_weights_of_pytorch_are_read_into_memory(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(500))
    assert need_of("a", tmp_path) == memory.Need("a", 500, False)
    assert weight_files(tmp_path / "pytorch_model.bin") == []


def test_models_that_do_not_fit_are_refused_before_they_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "usable_memory", lambda: 1000)
    own, mapped = memory.Need("own", 300, False), memory.Need("mapped", 600, True)
    assert check_fits([own, mapped]) == [own.sentence, mapped.sentence, "together 900 B, and 1 kB of memory is free"]
    with pytest.raises(UserError, match=r"need 1.2 kB, and 1 kB of memory is free; lower workers, serve fewer models"):
        check_fits([own, mapped], processes=2)
    with pytest.raises(UserError, match=r"mapped need 1.2 kB.*; serve fewer models.*or give force=True"):
        check_fits([mapped, mapped], processes=1)
    assert check_fits([own, mapped], processes=2, force=True)


def test_threads_are_shared_among_models_and_workers(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from blankfill.serving import run

    monkeypatch.setattr(run, "usable_cores", lambda: 8)
    monkeypatch.setattr(run, "from_variables", lambda: 0)
    assert [threads_of(0, models, workers) for models, workers in ((2, 1), (2, 2), (3, 1), (9, 1))] == [4, 2, 2, 1]
    assert threads_of(4, 2, 1) == 4 and capsys.readouterr().err == ""
    assert threads_of(4, 2, 2) == 4
    assert "4 models compute with 4 threads each, and there are 8 cores" in capsys.readouterr().err
    assert threads_of(1, 9, 1) == 1 and capsys.readouterr().err == ""


def test_a_change_of_files_is_seen(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "bert", "bert")
    before = fingerprint(folder, None)
    assert fingerprint(folder, None) == before and before
    os.utime(folder / "state.json", ns=(1, 1))
    after = fingerprint(folder, None)
    assert after != before
    (folder / "new").write_text("x", encoding="utf-8")
    assert fingerprint(folder, None) != after
    assert fingerprint(folder / "nothing") == ()


def test_no_compiled_products_are_kept_unless_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(memory.CACHE, raising=False)
    memory.keep_no_products()
    assert os.environ[memory.CACHE] == "0"
    monkeypatch.setenv(memory.CACHE, "64")
    memory.keep_no_products()
    assert os.environ[memory.CACHE] == "64"
