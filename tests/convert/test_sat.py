"""Checkpoints of SwissArmyTransformer: GLM-130B cut into tensor-parallel parts, and its ChatGLM-6B."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from blankfill.checkpoint.hf_loading import ExternalCheckpoint, open_external
from blankfill.errors import UserError
from blankfill.kernels.integers import WeightFormat, quantize
from blankfill.model.transformer import Transformer
from blankfill.types import Batch
from chatglm_folders import GOLDEN, HEADS, random_weights, write_folder

needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="the outputs of the original code are not here")


def cut(weights: Mapping[str, Tensor], parts: int, blocks: bool = False) -> list[dict[str, Tensor]]:
    """Cut a checkpoint as SwissArmyTransformer's tools do."""
    out: list[dict[str, Tensor]] = [{} for _ in range(parts)]
    for name, tensor in weights.items():
        if name.endswith(("attention.dense.weight", "dense_4h_to_h.weight")):
            pieces = tensor.chunk(parts, 1)
        elif "dense_h_to_4h" in name and tensor.shape[0] == 2 * weights[OUTER].shape[1]:
            halves = [half.chunk(parts) for half in tensor.chunk(2)]
            pieces = [torch.cat([half[k] for half in halves]) for k in range(parts)]
        elif "query_key_value" in name and blocks:
            thirds = [third.chunk(parts) for third in tensor.chunk(3)]
            pieces = [torch.cat([third[k] for third in thirds]) for k in range(parts)]
        elif any(part in name for part in ("word_embeddings", "query_key_value", "dense_h_to_4h", "lm_head")):
            pieces = tensor.chunk(parts)
        else:
            pieces = [tensor] * parts
        for rank, piece in zip(out, pieces, strict=True):
            rank[name] = piece.clone()
    return out


OUTER = "transformer.layers.0.mlp.dense_4h_to_h.weight"


def write_sat(folder: Path, ranks: list[dict[str, Tensor]]) -> Path:
    """Write the folder: `latest`, and a pickle for each rank with settings beside the weights."""
    (folder / "20000").mkdir(parents=True)
    (folder / "latest").write_text("20000", encoding="utf-8")
    for k, weights in enumerate(ranks):
        torch.save({"module": weights}, folder / "20000" / f"mp_rank_{k:02}_model_states.pt")
    return folder


@pytest.fixture
def golden() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return load_file(GOLDEN / "glm130b_weights.safetensors"), load_file(GOLDEN / "glm130b_reference.safetensors")


def logits(checkpoint: ExternalCheckpoint, reference: Mapping[str, Tensor], case: str) -> Tensor:
    """Our logits of a row of the reference."""
    with torch.device("meta"):
        model = Transformer(checkpoint.checkpoint_format.config)
    model.load_state_dict(checkpoint.state(), assign=True)
    ids, positions = reference[f"{case}.input_ids"], reference[f"{case}.position_ids"]
    ids, positions = ids.reshape(1, -1), positions.reshape(1, -1)
    rank = (torch.arange(ids.shape[1])[None] - (ids == 252).int().argmax(1)[:, None] + 1).clamp_(min=0).int()
    batch = Batch.of_rows(ids, positions[None], torch.zeros_like(rank), rank, rank)
    with torch.inference_mode():
        made = model.eval()(batch, logits_at="all").logits
    assert isinstance(made, Tensor)
    return made


@needs_golden
@pytest.mark.data
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_join_to_the_logits_of_the_original(tmp_path: Path, golden: Any, parts: int) -> None:
    weights, reference = golden
    folder = write_sat(tmp_path / "model", cut(weights, parts))
    checkpoint = open_external(folder, heads=4)
    assert checkpoint.checkpoint_format.family.name == "glm-130b"
    assert checkpoint.checkpoint_format.config.ffn_size == 128
    for case in ("gmask", "mask"):
        made = logits(checkpoint, reference, case)
        expected = reference[f"{case}.logits"].reshape(made.shape)
        assert (made - expected).abs().max() < 1e-4


def sat_weights(blocks: bool) -> dict[str, Tensor]:
    """ChatGLM-6B as SwissArmyTransformer names it."""
    out = {}
    for name, tensor in random_weights().items():
        if "query_key_value" in name and blocks:
            by_head = tensor.unflatten(0, (HEADS, 3, -1))
            tensor = by_head.transpose(0, 1).flatten(0, 2)
        out["mixins.chatglm-final.lm_head.weight" if name == "lm_head.weight" else name] = tensor
    return out


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("parts", [1, 2])
def test_chatglm_of_sat_is_that_of_the_release(
    tmp_path: Path, blocks: bool, parts: int, capsys: pytest.CaptureFixture[str]
) -> None:
    released = open_external(write_folder(tmp_path / "released", random_weights(), tokenizer=False)).state()
    folder = write_sat(tmp_path / "sat", cut(sat_weights(blocks), parts, blocks))
    checkpoint = open_external(folder, heads=HEADS, qkv="blocks" if blocks else "heads")
    assert checkpoint.checkpoint_format.family.name == "chatglm"
    message = capsys.readouterr().err
    assert "there is no config.json; by the shapes of the weights it is a model of the family chatglm with" in message
    state = checkpoint.state()
    assert state.keys() == released.keys()
    assert all(torch.equal(state[name], released[name]) for name in state)
    if parts == HEADS:
        return  # a part has one head, and both orders are one
    other = open_external(folder, heads=HEADS, qkv="heads" if blocks else "blocks").state()
    assert not torch.equal(other["layers.0.attention.qkv.weight"], state["layers.0.attention.qkv.weight"])


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    ranks = cut(sat_weights(False), 2)
    cases: list[tuple[str, Any, str]] = [
        ("first", lambda folder: (folder / "mp_rank_00_model_states.pt").unlink(), "copy or download all parts"),
        ("second", lambda folder: (folder / "mp_rank_01_model_states.pt").unlink(), "1 of 2 parts"),
        ("gap", lambda folder: (folder / "mp_rank_01_model_states.pt").rename(folder / "mp_rank_02_model_states.pt"),
         "has mp_rank_02_model_states.pt and not part 1"),
        ("cut", lambda folder: (folder / "mp_rank_01_model_states.pt").write_bytes(b"PK"), "not a complete file"),
    ]  # fmt: skip
    for name, damage, words in cases:
        folder = write_sat(tmp_path / name, ranks)
        damage(folder / "20000")
        with pytest.raises(UserError, match=words):
            open_external(folder, heads=HEADS)
    with pytest.raises(UserError, match=r"its width 16 is no multiple of 128.*give (--)?heads"):
        open_external(write_sat(tmp_path / "heads", ranks))
    with pytest.raises(UserError, match=r"heads 3 does|heads=3 does not divide"):
        open_external(tmp_path / "heads", heads=3)
    for rank in ranks:
        rank["transformer.layers.0.attention.dense.weight"], scale, _ = quantize(
            rank["transformer.layers.0.attention.dense.weight"].float(), WeightFormat(8)
        )
        rank["transformer.layers.0.attention.dense.weight_scale"] = scale
    with pytest.raises(UserError, match="quantised parts with scales of their own, which cannot be joined"):
        open_external(write_sat(tmp_path / "int8", ranks), heads=HEADS)
    lacking = cut(sat_weights(False), 2)
    del lacking[1]["transformer.final_layernorm.bias"]
    with pytest.raises(UserError, match=r"mp_rank_01_model_states\.pt has no"):
        open_external(write_sat(tmp_path / "lacking", lacking), heads=HEADS)


def test_parts_of_two_models_are_told(tmp_path: Path) -> None:
    """Two parts whose tensors have the same names, and other sizes."""
    first, second = cut(sat_weights(False), 2)
    name = "transformer.layers.0.attention.dense.weight"
    wrong = write_sat(tmp_path / "wrong", [first, second | {name: second[name][:-1]}])
    with pytest.raises(UserError, match=r"mp_rank_01.*attention\.dense\.weight' is \[15, 8\]"):
        open_external(wrong, heads=2)


def test_another_order_is_only_for_families_that_have_one(tmp_path: Path) -> None:
    from written_models import write_model

    folder = write_model(tmp_path / "model", "bert")
    (folder / "state.json").unlink()
    with pytest.raises(UserError, match=r"has no other order of queries, keys and values; leave out (--)?qkv"):
        open_external(folder, qkv="blocks")


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    folder = write_sat(tmp_path / "sat", cut(sat_weights(False), 2))

    class Bad:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    ranks = cut(sat_weights(False), 2)
    torch.save({"module": ranks[1], "args": Bad()}, folder / "20000" / "mp_rank_01_model_states.pt")
    with pytest.raises(UserError):
        open_external(folder, heads=HEADS)
    assert not (tmp_path / "ran").exists()
