"""Files that are written one tensor at a time, and the memory that reading and writing a model take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from blankfill.checkpoint import weights as weights_module
from blankfill.checkpoint.streams import Stream, write_safetensors, write_shards
from blankfill.checkpoint.weights import open_weights
from chatglm_folders import values_of

TENSORS = {
    "b.weight": torch.arange(6, dtype=torch.float32).view(2, 3), "a.weight": torch.ones(3, 2, dtype=torch.float16),
    "c": torch.tensor(7), "d": torch.zeros(0, 4), "e": torch.arange(5, dtype=torch.int8),
    "f": torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).bfloat16(), "g": torch.tensor([True, False]),
    "é": torch.arange(4, dtype=torch.float64),
}  # fmt: skip


def test_the_bytes_are_those_of_the_safetensors_package(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "theirs", {"format": "pt"})
    write_safetensors(tmp_path / "ours", TENSORS)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    plan = {name: tensor.to("meta") for name, tensor in reversed(TENSORS.items())}
    write_safetensors(tmp_path / "stream", Stream(plan, TENSORS.__getitem__))  # read in another order
    assert (tmp_path / "stream").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_file_that_is_mapped_can_be_written_again(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", TENSORS)
    mapped = load_file(tmp_path / "x.safetensors")
    write_safetensors(tmp_path / "x.safetensors", {**mapped, "c": torch.tensor(8)})
    assert torch.equal(mapped["b.weight"], TENSORS["b.weight"])
    assert int(load_file(tmp_path / "x.safetensors")["c"]) == 8


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a and b are one tensor|b and a are one tensor"):
        write_safetensors(tmp_path / "x", {"a": TENSORS["b.weight"], "b": TENSORS["b.weight"]})
    with pytest.raises(ValueError, match="is not as planned"):
        write_safetensors(tmp_path / "x", Stream({"a": torch.empty(3, device="meta")}, lambda name: torch.ones(4)))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_hold_at_most_so_many_bytes(tmp_path: Path, kind: str) -> None:
    tensors = {f"t{k}": torch.full((4,), float(k)) for k in range(5)}
    files = write_shards(tmp_path, tensors, 40, kind)  # two of 16 bytes each
    assert files == [
        f"{'model' if kind == 'safetensors' else 'pytorch_model'}-0000{k}-of-00003.{kind}" for k in (1, 2, 3)
    ]
    index = next(tmp_path.glob("*.index.json"))
    values = json.loads(index.read_text(encoding="utf-8"))
    assert values["metadata"] == {"total_size": 80} and values["weight_map"]["t4"] == files[2]
    opened = open_weights(index)
    assert all(torch.equal(opened[name], tensor) for name, tensor in tensors.items())
    (tmp_path / "one").mkdir()
    assert len(write_shards(tmp_path / "one", tensors, 80, kind)) == 1


def test_a_file_is_closed_after_some_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read and converted must not stay mapped; tensors in use stay whole."""
    monkeypatch.setattr(weights_module, "MAPPED", 20)
    for kind in ("safetensors", "bin"):
        tensors = {f"t{k}": torch.full((4,), float(k)) for k in range(6)}
        write_shards(tmp_path, tensors, 1 << 20, kind)
        opened = open_weights(next(tmp_path.glob(f"*.{kind}")))
        file, seen = opened._files["t0"], []
        read = {}
        for name in tensors:
            read[name] = opened[name]
            seen.append(file.bytes_read)
        assert max(seen) <= 20 + 16 and seen.count(16) >= 3
        assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


IMPORT = """
import json, sys
from pathlib import Path
from blankfill.checkpoint import store, weights
from blankfill.checkpoint.hf_loading import open_external
from blankfill.checkpoint.streams import Renamed
import torch
torch.set_num_threads(1)
weights.MAPPED = 8 << 20
torch.randn(64, 64).half() @ torch.randn(64, 64).half()
source, out, what = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))
before = status("VmRSS")
checkpoint = open_external(source, dtype=torch.bfloat16 if what == "convert" else None)
stream = checkpoint.stream()
store.write_weights(out, Renamed(checkpoint.table, stream))
print(json.dumps({"before": before, "peak": status("VmHWM")}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("what", ["copy", "convert"])
def test_copying_a_model_takes_a_part_of_its_size(tmp_path: Path, what: str) -> None:
    """Eight shards of 10 MB each: what was read, joined, converted and written does not stay in memory.

    The weights are 78 MB; the largest weight, read and converted, and 8 MB of mapped files are a fifth of it.
    """
    width, layers = 512, 12
    shapes: dict[str, tuple[int, ...]] = {"transformer.word_embeddings.weight": (2048, width)}
    for k in range(layers):
        for name, rows, columns in (
            ("attention.query_key_value", 3 * width, width), ("attention.dense", width, width),
            ("mlp.dense_h_to_4h", 4 * width, width), ("mlp.dense_4h_to_h", width, 4 * width),
        ):  # fmt: skip
            shapes |= {
                f"transformer.layers.{k}.{name}.weight": (rows, columns),
                f"transformer.layers.{k}.{name}.bias": (rows,),
            }
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"transformer.layers.{k}.{name}.{part}": (width,) for part in ("weight", "bias")}
    shapes |= {f"transformer.final_layernorm.{part}": (width,) for part in ("weight", "bias")}
    plan = {name: torch.empty(shape, dtype=torch.float16, device="meta") for name, shape in shapes.items()}
    total = 2 * sum(tensor.numel() for tensor in plan.values())
    source = tmp_path / "source"
    source.mkdir()
    write_shards(
        source, Stream(plan, lambda name: torch.full(shapes[name], 0.5, dtype=torch.float16)), total // 8, "bin"
    )
    values = values_of(
        hidden_size=width, num_layers=layers, num_attention_heads=4, inner_hidden_size=4 * width, vocab_size=2048
    )
    (source / "config.json").write_text(json.dumps(values), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, str(source), str(tmp_path / "out"), what],
        capture_output=True,
        text=True,
        check=True,
    )
    made = json.loads(done.stdout.splitlines()[-1])
    assert (tmp_path / "out").stat().st_size > total > 70 << 20
    assert made["peak"] - made["before"] < total // 2
