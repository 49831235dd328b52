"""The methods that choose integers: HQQ and GPTQ on matrices, and GPTQ through whole models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from blankfill.kernels.integers import QuantizedWeight, WeightFormat, dequantize, quantize
from blankfill.model.quantized import quantizable
from blankfill.quantizing.calibration import Subject, open_subject
from blankfill.quantizing.methods import grid
from blankfill.quantizing.methods.gptq import Hessian, factor, gptq
from blankfill.quantizing.methods.hqq import POWER, hqq
from blankfill.quantizing.settings import QuantizeSettings
from blankfill.quantizing.walk import Walk, real_rows
from written_models import OBJECTIVES, write_model

FORMATS = [
    WeightFormat(bits, group, scheme)
    for bits, group in ((4, 0), (4, 32), (4, 64), (8, 0))
    for scheme in ("absmax", "zero-point")
]
TEXT = "the old boat sings on the sea. the red lamp sleeps near the boat, the sea sleeps.\n\n" * 30


def matrix(outputs: int = 24, inputs: int = 128, seed: int = 1) -> Tensor:
    """Weights with a few outliers and means that differ from 0."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator) + torch.randn(outputs, 1, generator=generator)
    weight[:, ::37] *= 3
    return weight


def correlated(rows: int = 400, inputs: int = 128) -> Tensor:
    """Inputs of which a few directions carry most of the size."""
    generator = torch.Generator().manual_seed(2)
    mixed = torch.randn(rows, 12, generator=generator) @ torch.randn(12, inputs, generator=generator)
    return mixed + 0.1 * torch.randn(rows, inputs, generator=generator)


def restored(made: QuantizedWeight, format: WeightFormat) -> Tensor:
    return dequantize(made, format, torch.float32)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_gptq_keeps_outputs_better_than_the_nearest(format: WeightFormat) -> None:
    weight, x = matrix(), correlated()
    errors = {
        name: float(((restored(made, format) - weight) @ x.T).square().sum())
        for name, made in {
            "nearest": quantize(weight, format),
            "ordered": gptq(weight, x.T @ x, format),
            "in order": gptq(weight, x.T @ x, format, ordered=False),
        }.items()
    }
    assert errors["ordered"] < 0.5 * errors["nearest"] and errors["in order"] < 0.5 * errors["nearest"]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_without_correlation_gptq_is_the_nearest_on_its_grid(format: WeightFormat, ordered: bool) -> None:
    weight = matrix()
    made, expected = gptq(weight, 3 * torch.eye(128), format, ordered=ordered), hqq(weight, format)
    assert all(torch.equal(a, b) for a, b in zip(made.tensors().values(), expected.tensors().values(), strict=True))


@pytest.mark.parametrize("group", [0, 32, 64])
@pytest.mark.parametrize("scheme", ["absmax", "zero-point"])
def test_hqq_makes_its_error_smaller(scheme: str, group: int) -> None:
    format = WeightFormat(4, group, scheme)  # type: ignore[arg-type]
    weight = matrix()
    sizes = [
        float((restored(made, format) - weight).abs().pow(POWER).sum())
        for made in (hqq(weight, format), quantize(weight, format))
    ]
    assert sizes[0] < 0.97 * sizes[1]


@pytest.mark.parametrize("scheme", ["absmax", "zero-point"])
def test_matrices_at_the_edges(scheme: str) -> None:
    """Rows of zeros and of equal weights come back; inputs that are always 0 do no harm."""
    format = WeightFormat(4, 32, scheme)  # type: ignore[arg-type]
    weight = matrix()
    weight[0], weight[1], weight[2, :32] = 0.0, 0.5, -0.25
    x = correlated()
    x[:, 5:20] = 0
    for made in (hqq(weight, format), gptq(weight, x.T @ x, format)):
        got = restored(made, format)
        assert torch.isfinite(got).all() and torch.equal(got[0], torch.zeros(128))
        assert (got - weight).abs().max() < weight.abs().max()
    assert (restored(hqq(weight, format), format)[1:3, :32] - weight[1:3, :32]).abs().max() < 1e-3
    for method in (hqq, lambda weight, format: gptq(weight, torch.eye(weight.shape[1]), format)):
        with pytest.raises(ValueError, match="does not fit 48 inputs"):
            method(weight[:, :48], format)


def test_the_factor_is_that_of_the_inverse() -> None:
    x = correlated(inputs=24)
    hessian = x.T @ x
    upper = factor(hessian, 0.01)
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(24)
    assert torch.equal(upper, upper.triu())
    assert torch.allclose(upper.T @ upper @ damped, torch.eye(24), atol=1e-3)
    with pytest.raises(ValueError, match="not finite"):
        factor(hessian * torch.nan)
    singular = torch.ones(8, 8)
    assert torch.isfinite(factor(singular)).all()


def test_zero_points_use_all_sixteen_levels() -> None:
    format = WeightFormat(4, 32, "zero-point")
    weight = torch.linspace(-1, 2, 32)[None]
    scale, zero = grid.widest(weight[:, None], format)
    q = grid.integers(weight[:, None], scale, zero, format)
    assert q.min() == -8 and q.max() == 7
    assert (grid.weights(q, scale, zero)[:, 0] - weight).abs().max() <= scale.max() / 2 + 1e-6


def subject_of(tmp_path: Path, family: str) -> Subject:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    settings = QuantizeSettings(method="gptq", calibration=(tmp_path / "text.txt",), calibration_rows=12)
    return open_subject(write_model(tmp_path / "model", family), False, settings)


@pytest.mark.parametrize("family", OBJECTIVES)
def test_each_layer_sees_the_inputs_of_the_quantised_layers_before_it(tmp_path: Path, family: str) -> None:
    subject = subject_of(tmp_path, family)
    formats = {name: WeightFormat(4) for name in quantizable(subject.encoder)}
    seen: list[str] = []

    def choose(name: str, weight: Tensor, hessian: Tensor) -> QuantizedWeight:
        seen.append(name)
        assert torch.allclose(hessian, whole_hessian(subject, name), rtol=1e-4, atol=1e-3)
        return gptq(weight, hessian, formats[name])

    made = Walk(subject, formats).run(choose)
    assert sorted(seen) == sorted(formats) == sorted(made)
    for name, layer in quantizable(subject.encoder).items():
        assert torch.equal(layer.weight, restored(made[name], formats[name]))
    assert all("forward" not in module.__dict__ for module in subject.encoder.modules())


@torch.no_grad()
def whole_hessian(subject: Subject, name: str) -> Tensor:
    """Σ x xᵀ of a layer, from passes in which nothing is skipped."""
    layer = quantizable(subject.encoder)[name]
    hessian = Hessian(layer.in_features)
    skipped = {module: module.__dict__.pop("forward") for module in subject.encoder.modules()
               if "forward" in module.__dict__}  # fmt: skip
    for batch in subject.batches:

        def add(module: nn.Module, given: tuple[Tensor, ...], batch: object = batch) -> None:
            hessian.add(real_rows(given[0], batch, False))  # type: ignore[arg-type]

        hook = layer.register_forward_pre_hook(add)
        subject.run(batch)
        hook.remove()
    for module, forward in skipped.items():
        module.forward = forward  # type: ignore[method-assign]
    return hessian.sum_II
