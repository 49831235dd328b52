"""Each optimiser against its published rule, written out in numpy, and against other people's code."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import Transformer, build
from blankfill.training.optimizer import build_optimizer
from blankfill.training.optimizers import Adafactor, Lamb
from blankfill.training.options import TrainOptions

NAMES = ["adamw", "adam", "sgd", "adafactor", "lamb"]
STEPS = 12
OPTIONS = TrainOptions(
    steps=STEPS, lr=3e-2, embedding_lr_multiplier=4.0, weight_decay=0.1, beta2=0.99, warmup=3, eps=1e-6
)
CONFIG = TransformerConfig(vocab_size=9, hidden_size=4, num_layers=1, num_heads=2, ffn_size=6, position_sizes=(5,))

Array = NDArray[np.float64]


def double_model() -> Transformer:
    """A model whose weights are doubles and none of them 0."""
    model = build(CONFIG).double()
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(0, 0.3, tuple(parameter.shape))))
    return model


def gradients(model: Transformer) -> list[dict[str, Array]]:
    """Gradients of each step by name, of sizes from 1e-3 to 10."""
    rng = np.random.default_rng(2)
    return [
        {name: 10 ** rng.uniform(-3, 1) * rng.normal(size=tuple(p.shape)) for name, p in model.named_parameters()}
        for _ in range(STEPS)
    ]


def run(model: Transformer, options: TrainOptions, steps: list[dict[str, Array]]) -> None:
    optimizer = build_optimizer(model, options)
    for step, grads in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = options.lr_at(step) * group["lr_scale"]
        for name, parameter in model.named_parameters():
            parameter.grad = torch.from_numpy(grads[name])
        optimizer.step()


def rms(values: Array) -> float:
    return float(np.sqrt((values**2).mean()))


def adam_direction(grads: list[Array], t: int, corrected: bool) -> Array:
    """m̂ / (√v̂ + eps) after gradient number t (from 1), summed up anew from all gradients."""
    b1, b2 = OPTIONS.beta1, OPTIONS.beta2
    m = sum((1 - b1) * b1 ** (t - k) * grads[k - 1] for k in range(1, t + 1))
    v = sum((1 - b2) * b2 ** (t - k) * grads[k - 1] ** 2 for k in range(1, t + 1))
    if corrected:
        m, v = m / (1 - b1**t), v / (1 - b2**t)
    return np.asarray(m / (np.sqrt(v) + OPTIONS.eps))


def squares(grads: list[Array], t: int) -> Array:
    """Adafactor's running mean of squared gradients, unfactored."""
    moment = np.zeros_like(grads[0])
    for k in range(1, t + 1):
        b2 = 1 - k**-0.8
        moment = b2 * moment + (1 - b2) * (grads[k - 1] ** 2 + 1e-30)
    return moment


def published(name: str, w: Array, grads: list[Array], rates: list[float], decay: float, adapt: bool) -> Array:
    """What a weight has become after all gradients, from the formulas of the papers."""
    velocity = np.zeros_like(w)
    for t, lr in enumerate(rates, 1):
        if name == "adamw":
            w = w - lr * decay * w - lr * adam_direction(grads, t, True)
        elif name == "adam":
            w = w - lr * (adam_direction(grads, t, False) + decay * w)
        elif name == "sgd":
            velocity = OPTIONS.momentum * velocity + grads[t - 1] + decay * w
            w = w - lr * velocity
        elif name == "lamb":
            r = adam_direction(grads, t, True) + decay * w
            w = w - lr * (np.linalg.norm(w) / np.linalg.norm(r) if adapt else 1.0) * r
        else:
            v = squares(grads, t)
            if w.ndim == 2:
                v = np.outer(v.sum(1), v.sum(0)) / v.sum()
            u = grads[t - 1] / np.sqrt(v)
            w = (1 - lr * decay) * w - lr * max(1e-3, rms(w)) * u / max(1.0, rms(u))
    return w


@pytest.mark.parametrize("name", NAMES)
def test_a_run_follows_the_published_rule(name: str) -> None:
    """Warm-up and decay of the rate, the word table's own rate, and who is spared from decay, all at once."""
    model = double_model()
    start = {key: p.detach().numpy().copy() for key, p in model.named_parameters()}
    steps = gradients(model)
    run(model, dataclasses.replace(OPTIONS, optimizer=name), steps)
    for key, parameter in model.named_parameters():
        words, spared = key == "token_embeddings.weight", start[key].ndim == 1
        scale = OPTIONS.embedding_lr_multiplier if words else 1.0
        rates = [OPTIONS.lr_at(step) * scale for step in range(STEPS)]
        decay = 0.0 if spared else OPTIONS.weight_decay / scale
        expected = published(name, start[key], [grads[key] for grads in steps], rates, decay, not spared)
        moved = np.abs(expected - start[key]).max()
        assert moved > 1e-3
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=0, atol=1e-12 * max(1.0, moved))


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "adafactor"])
def test_decay_alone_shrinks_the_word_table_as_fast_as_the_rest(name: str) -> None:
    """Without gradients every decayed weight has the same factor. (LAMB would make a whole step of the decay alone.)"""
    model = double_model()
    start = {key: p.detach().clone() for key, p in model.named_parameters()}
    zeros = [{key: np.zeros(tuple(p.shape)) for key, p in model.named_parameters()}] * 3
    options = dataclasses.replace(OPTIONS, optimizer=name, momentum=0.0, schedule="constant", warmup=0)
    run(model, options, zeros)
    for key, parameter in model.named_parameters():
        factor = (1 - options.lr * options.weight_decay) ** 3 if parameter.dim() > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), start[key] * factor, rtol=1e-12, atol=0)


def test_the_first_step_of_berts_adam_by_hand() -> None:
    """m = 0.1 g and v = 0.001 g², so each weight moves by lr · 0.1 / √0.001 against its gradient, and decays."""
    model = double_model()
    before = model.layers[0].ffn.inner.weight.detach().clone()
    grads = {key: np.full(tuple(p.shape), -2.0) for key, p in model.named_parameters()}
    options = TrainOptions(optimizer="adam", lr=0.01, warmup=0, schedule="constant", weight_decay=0.5, eps=0.0)
    run(model, options, [grads])
    expected = before + 0.01 * (0.1 / np.sqrt(0.001) - 0.5 * before)
    torch.testing.assert_close(model.layers[0].ffn.inner.weight.detach(), expected)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("lr", [1e-3, 0.7])
def test_adafactor_is_that_of_transformers(lr: float, dtype: torch.dtype, rtol: float) -> None:
    """Also with a rate far above 1/√step, which torch's would bound, and gradients of which some are 0 throughout."""
    theirs_module = pytest.importorskip("transformers.optimization", reason="transformers is not installed")
    rng = np.random.default_rng(3)
    shapes = [(6, 11), (11, 6), (7,), (2, 3, 4)]
    start = [torch.from_numpy(rng.normal(size=shape)).to(dtype) for shape in shapes]
    ours, others = ([torch.nn.Parameter(w.clone()) for w in start] for _ in range(2))
    optimizer = Adafactor(ours, lr=lr)
    reference = theirs_module.Adafactor(others, lr=lr, relative_step=False, scale_parameter=True)
    for _ in range(15):
        size = 10 ** rng.uniform(-9, 0)
        for a, b in zip(ours, others, strict=True):
            a.grad = torch.from_numpy(size * rng.normal(size=tuple(a.shape))).to(dtype)
            a.grad[:1] = 0
            b.grad = a.grad.clone()
        optimizer.step()
        reference.step()
    for a, b in zip(ours, others, strict=True):
        assert bool(a.isfinite().all())
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol / 1000)


def test_adafactor_is_that_of_torch_where_torch_does_not_bound_the_rate() -> None:
    rng = np.random.default_rng(4)
    start = [torch.from_numpy(rng.normal(size=shape)) for shape in [(5, 8), (8,)]]
    ours, others = ([torch.nn.Parameter(w.clone()) for w in start] for _ in range(2))
    optimizer = Adafactor(ours, lr=0.01, weight_decay=0.1)
    reference = torch.optim.Adafactor(others, lr=0.01, weight_decay=0.1, eps=(1e-15, 1e-3))
    for _ in range(12):
        for a, b in zip(ours, others, strict=True):
            a.grad = torch.from_numpy(rng.normal(size=tuple(a.shape)))
            b.grad = a.grad.clone()
        optimizer.step()
        reference.step()
    for a, b in zip(ours, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_adafactor_keeps_rows_and_columns_only() -> None:
    table = torch.nn.Parameter(torch.ones(300, 20))
    table.grad = torch.ones(300, 20)
    optimizer = Adafactor([table], lr=0.1)
    optimizer.step()
    assert sum(value.numel() for value in optimizer.state[table].values()) == 300 + 20 + 1


def lamb_steps(scale: float, eps: float, count: int = 10) -> list[torch.Tensor]:
    """The moves of a matrix under LAMB without decay, its gradients times `scale`."""
    rng = np.random.default_rng(5)
    weight = torch.nn.Parameter(torch.from_numpy(rng.normal(size=(6, 4))))
    optimizer = Lamb([weight], lr=0.02, eps=eps)
    moves = []
    for _ in range(count):
        before = weight.detach().clone()
        weight.grad = torch.from_numpy(scale * rng.normal(size=(6, 4)))
        optimizer.step()
        moves.append(weight.detach() - before)
        # the length of a step is the rate times the length of the weight
        assert float(moves[-1].norm()) == pytest.approx(0.02 * float(before.norm()), rel=1e-12)
    return moves


def test_lambs_step_does_not_depend_on_the_size_of_the_gradient() -> None:
    for small, large in zip(lamb_steps(1.0, 1e-12), lamb_steps(1000.0, 1e-12), strict=True):
        torch.testing.assert_close(small, large, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("adapt", [True, False])
def test_lamb_takes_adams_step_where_there_is_no_ratio(adapt: bool) -> None:
    """A weight of zeros (a ratio of 1) or a group that is not adapted: the first step is lr · sign of the gradient."""
    weight = torch.nn.Parameter(torch.zeros(3) if adapt else torch.full((3,), 5.0))
    before = weight.detach().clone()
    optimizer = Lamb([{"params": [weight], "adapt": adapt}], lr=0.1, eps=0.0)
    weight.grad = torch.tensor([2.0, -3.0, 0.5])
    optimizer.step()
    torch.testing.assert_close(weight.detach() - before, torch.tensor([-0.1, 0.1, -0.1]))


def test_lamb_leaves_alone_what_has_neither_gradient_nor_decay() -> None:
    """A zero update has no direction: its ratio is 1, not infinite."""
    weight = torch.nn.Parameter(torch.ones(3, 2))
    weight.grad = torch.zeros(3, 2)
    Lamb([weight], lr=0.1).step()
    assert torch.equal(weight.detach(), torch.ones(3, 2))
