"""Quantised tables of tokens: what looks rows up, what multiplies with them, and every command on such a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import blankfill
from blankfill.checkpoint.load import load_model
from blankfill.cli.main import main
from blankfill.convert.check import our_scores
from blankfill.data.batching import collate
from blankfill.generation.engine import Decoder
from blankfill.kernels.integers import WeightFormat, quantize
from blankfill.kernels.lm_loss import lm_loss
from blankfill.model.layout import optimize_for_inference
from blankfill.model.quantized import (
    QuantizedTable,
    float_table,
    quantizable_tables,
    quantized_matrices,
    table_rows,
    table_scores,
)
from blankfill.model.transformer import Transformer
from blankfill.quantizing.plan import Matrices, plan_of
from blankfill.quantizing.run import keeps_format, quantize_model
from blankfill.quantizing.settings import QuantizeSettings
from blankfill.training.distil import soft_loss
from blankfill.training.loss import loss_sums
from blankfill.types import Batch, Document
from conftest import make_document
from head_models import OBJECTIVES, SPECIAL, WORDS, family_folder

BESIDE = {
    "albert": {"embedding_projection", "lm_head.dense"},
    "electra": {"lm_head.dense", "heads.replaced_tokens.generator.embedding_projection"},
    "spanbert": {"lm_head.dense", "span_boundary_head.first", "span_boundary_head.second"},
    **{key: {"lm_head.dense"} for key in ("bert", "roberta", "modernbert", "distilbert", "ernie", "unilm")},
}


def dequantised(model: Transformer) -> Transformer:
    """The plain model with the dequantised weights of a quantised one."""
    with torch.device("meta"):
        plain = Transformer(model.config)
    matrices = dict(quantized_matrices(model))
    state = {name: part for name, part in model.state_dict().items() if name.rpartition(".")[0] not in matrices}
    state |= {f"{name}.bias": part for name in matrices if (part := model.state_dict().get(f"{name}.bias")) is not None}
    names = {name: name if name == "lm_head.table" else f"{name}.weight" for name in matrices}
    state |= {names[name]: matrix.float_weight() for name, matrix in matrices.items()}
    plain.load_state_dict(state, assign=True)
    return plain.eval()


def without_kernels(model: Transformer) -> Transformer:
    """The model, whose products are those of dequantised matrices to the last bits."""
    for _, matrix in quantized_matrices(model):
        matrix.kernel = None
    return model


def document_of(length: int) -> Document:
    """A document of ordinary tokens, which all families' vocabularies have."""
    ids = (len(SPECIAL) + np.arange(length) % len(WORDS)).astype(np.int32)
    return replace(make_document(length), ids=ids, words=np.ones(length, np.bool_))


def batch_of(loaded: Any) -> Batch:
    """Training rows of an objective."""
    rng = np.random.default_rng(1)
    rows = [[loaded.objective.example(document_of(n), loaded.vocabulary, rng)] for n in (20, 11)]
    return collate(rows, loaded.vocabulary["pad"])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", OBJECTIVES)
def test_scores_and_losses_are_those_of_the_dequantised_model(tmp_path: Path, family: str, tied: bool) -> None:
    if not tied and family not in ("t5", "xlnet", "bert", "distilbert"):
        pytest.skip("one table in all models of the family")
    folder = family_folder(tmp_path / "model", family, tied=tied)
    quantize_model(folder, tmp_path / "int8", QuantizeSettings(activations="keep"))
    loaded = load_model(tmp_path / "int8")
    model, own = loaded.model, "lm_head.table"
    assert set(quantizable_tables(model)) == {"token_embeddings", *BESIDE.get(family, ()), *(() if tied else (own,))}
    assert quantizable_tables(model).keys() <= dict(quantized_matrices(model)).keys()
    assert model.dtype == torch.float32 and model.device.type == "cpu"
    plain = dequantised(model)
    batch = batch_of(loaded)
    with torch.no_grad():
        hidden, expected = model(batch).hidden, plain(batch).hidden
        assert (hidden - expected).abs().max() < 1e-3 * expected.abs().max()
        without_kernels(model)
        losses, right = loss_sums(model, batch), loss_sums(plain, batch)
        assert losses.keys() == right.keys()
        for name, loss in losses.items():
            assert torch.allclose(loss, right[name], rtol=1e-4), name
        if not model.config.generator_size:
            row = loaded.format.export_row(document_of(12).ids.astype(np.int64))
            scores = our_scores(loaded, row)
            assert (scores - our_scores(replace(loaded, model=plain), row)).abs().max() < 1e-4
    low = load_model(tmp_path / "int8", dtype=torch.bfloat16).model
    assert low.dtype == torch.bfloat16
    with torch.no_grad():
        hidden, expected = low(batch, torch.bfloat16).hidden.float(), plain(batch).hidden
    assert (hidden - expected).abs().max() < 0.1 * expected.abs().max()


def test_the_parts_of_electra_share_the_integers(tmp_path: Path) -> None:
    quantize_model(family_folder(tmp_path / "model", "electra"), tmp_path / "int8")
    loaded = load_model(tmp_path / "int8")
    without_kernels(loaded.model)
    whole = loaded.model.token_embeddings
    for part in (loaded.language_model, loaded.encoder):
        assert isinstance(part.token_embeddings, QuantizedTable)
        assert part.token_embeddings.weight.data_ptr() == whole.weight.data_ptr()
        batch = batch_of(loaded)
        assert torch.isfinite(part(batch).hidden).all()
    right = dequantised(loaded.language_model)
    with torch.no_grad():
        made, expected = (model(batch, logits_at=batch.target_index).logits for model in (loaded.language_model, right))
    assert isinstance(made, Tensor) and isinstance(expected, Tensor)
    assert (made - expected).abs().max() < 1e-4


def table_of(bits: int = 8, rows: int = 50, width: int = 16) -> tuple[QuantizedTable, Tensor]:
    """A random table, and its dequantised rows."""
    made = QuantizedTable(rows, width, WeightFormat(bits), scores=True)
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(bits))
    made.load_state_dict(quantize(drawn, WeightFormat(bits)).tensors())
    return made, made.float_weight()


@pytest.mark.parametrize("bits", [8, 4])
def test_rows_and_scores(bits: int) -> None:
    table, whole = table_of(bits)
    ids, x, bias = torch.tensor([[3, 0], [49, 3]]), torch.randn(2, 5, 16), torch.randn(50)
    assert torch.equal(table(ids), whole[ids]) and table(ids, torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(table_rows(table, ids[0], torch.float32), table_rows(whole, ids[0], torch.float32))
    assert torch.equal(float_table(table, torch.float32), whole) and len(table) == 50
    assert torch.allclose(table_scores(x, table, bias), table_scores(x, whole, bias), atol=1e-5)
    assert table.to(torch.bfloat16).weight_scale.dtype == torch.float16


@pytest.mark.parametrize("rest", [(0.0, 0.0), (0.1, 1e-3)])
def test_the_loss_has_the_gradient_of_the_hidden_states_alone(rest: tuple[float, float]) -> None:
    """The table gets none, whether it is quantised or a frozen tensor; results are the same to the bit."""
    table, whole = table_of()
    targets, bias = torch.tensor([1, 49, 7]), torch.randn(50, requires_grad=True)
    results = []
    for kind in (table, whole, whole.clone().requires_grad_()):
        hidden = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
        bias.grad = None
        loss = lm_loss(hidden, kind, bias, targets, *rest)
        loss.backward()
        assert hidden.grad is not None and bias.grad is not None
        results.append((loss.detach(), hidden.grad, bias.grad))
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


def test_a_quantised_teacher_teaches(tmp_path: Path) -> None:
    folder = family_folder(tmp_path / "model", "bert")
    quantize_model(folder, tmp_path / "int8")
    student, teacher = load_model(folder).model, load_model(tmp_path / "int8").model
    hidden = torch.randn(4, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        made = soft_loss(student, hidden, teacher, hidden, 2.0)
        assert torch.allclose(made, soft_loss(student, hidden, dequantised(teacher), hidden, 2.0), atol=1e-5)


def test_a_decoder_with_a_quantised_table_alone(tmp_path: Path) -> None:
    """The layers are plain, so that single columns are computed apart from the forward pass."""
    folder = family_folder(tmp_path / "model", "gpt2")
    quantize_model(folder, tmp_path / "int8")
    loaded = load_model(tmp_path / "int8")
    model = without_kernels(loaded.model)
    plain = dequantised(model)
    mixed = dequantised(model)
    mixed.token_embeddings = model.token_embeddings
    optimize_for_inference(mixed)
    written = []
    for kind in (plain, mixed):
        context = loaded.format.continuation(np.arange(12, 17))
        decoder = Decoder(kind, [context], 4)
        scores = [decoder.prefill()]
        scores += [decoder.step(scores[-1].argmax(-1)) for _ in range(3)]
        written.append(torch.cat(scores))
    assert (written[0] - written[1]).abs().max() < 1e-4


def test_whole_tables_stay_where_they_are_wanted(tmp_path: Path) -> None:
    folder = family_folder(tmp_path / "model", "t5", tied=False)
    from blankfill.checkpoint import store

    state = store.read_state(folder)[0]
    matrices, plain = Matrices.of(state, folder), keeps_format(state, folder)
    plan = plan_of(matrices, QuantizeSettings(bits=4), 4, plain)
    assert not plan.whole and plan.formats["layers.0.ffn.inner"].bits == 4
    assert plan.formats["token_embeddings"].bits == plan.formats["lm_head.table"].bits == 8
    whole = plan_of(matrices, QuantizeSettings(bits=4, embeddings="keep"), 4, plain)
    assert "token_embeddings" not in whole.formats and whole.layers == plan.layers
    released = plan_of(matrices, QuantizeSettings(bits=4), 4, keeps_format=True)
    assert not released.tables and set(released.formats.values()) == {WeightFormat(4)}


def test_commands_that_write(tmp_path: Path, capsys: Any) -> None:
    quantize_model(family_folder(tmp_path / "model", "gpt2"), tmp_path / "int8")
    model = str(tmp_path / "int8")
    assert main(["generate", "--model", model, "--prompt", "the cat", "--max-new-tokens", "3"]) == 0
    (tmp_path / "text.txt").write_text("the cat sat on the mat.\n" * 40, encoding="utf-8")
    more = "--task", "perplexity", "--data", str(tmp_path / "text.txt"), "--threads", "1", "--out", str(tmp_path / "e")
    assert main(["evaluate", "--model", model, *more]) == 0
    assert "perplexity" in capsys.readouterr().out


TINY = ["--epochs", "1", "--batch-size", "8", "--max-length", "16", "-q"]


@pytest.mark.parametrize("how", [["--lora-rank", "2"], ["--prefix-length", "3"], ["--features", "last"]])
def test_fine_tuning_on_top(tmp_path: Path, how: list[str]) -> None:
    rows = "".join(f"{'red' if k % 2 else 'big'} cat\t{'a' if k % 2 else 'b'}\n" for k in range(16))
    (tmp_path / "rows").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / "rows" / name).write_text(f"text\tlabel\n{rows}", encoding="utf-8")
    quantize_model(family_folder(tmp_path / "model", "roberta"), tmp_path / "int8")
    data, model, out = str(tmp_path / "rows"), str(tmp_path / "int8"), str(tmp_path / "run")
    command = ["finetune", "--task", "classify", "--data", data, "--from", model, "--out", out, *TINY, *how]
    assert main(command) == 0
    assert main(["predict", "--model", out, f"{data}/dev.tsv", "--out", str(tmp_path / "p.jsonl")]) == 0


def test_python_fills_and_embeds(tmp_path: Path) -> None:
    quantize_model(family_folder(tmp_path / "model", "bert"), tmp_path / "int8")
    model = blankfill.load(tmp_path / "int8")
    assert model.fill("the cat [MASK] on the mat .")
    assert np.isfinite(model.embed(["the cat", "the mat"])).all()
