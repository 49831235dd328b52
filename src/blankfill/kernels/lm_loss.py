"""The language-model loss and its gradient, without the matrix of logits.

The loss multiplies hidden states with the output embeddings and computes the gradient in the same pass: the [M, V]
matrix of logits never exists, and the backward pass costs one scaling. A few hundred targets are processed at a time.
On a CPU their scores are computed in blocks of vocabulary columns, each exponentiated against its own largest score
while it is in the cache; after the last block, one factor for each target turns these values into the softmax (online
softmax, Milakov & Gimelshein 2018), and each block is multiplied with the output embeddings and the hidden states.

Shapes: M targets, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.kernels.capability import plain_weight
from blankfill.kernels.half import product_dtype

SCORES = 1 << 24
"""Largest number of fp32 scores that exist at once on a CPU (64 MiB)."""
COLUMNS = 2048
"""Vocabulary columns of a block of scores on a CPU."""
GPU_ROWS = 8192
"""Targets processed at a time on other devices, with all columns in one block."""


class RowTable(Protocol):
    """Output embeddings whose rows are computed when they are needed (quantised ones); they do not learn."""

    def __len__(self) -> int:
        """Return the number of rows."""

    @property
    def device(self) -> torch.device:
        """The device of the rows."""

    def rows(self, at: slice, dtype: torch.dtype) -> Tensor:
        """Return some rows in a type."""


def lm_loss(
    hidden_MD: Tensor,
    table_VD: Tensor | RowTable,
    bias_V: Tensor | None,
    target_M: Tensor,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Tensor:
    """Compute the summed cross-entropy of `hidden @ tableᵀ + bias` against the targets; a scalar with gradient.

    smoothing: share of each target that is spread evenly over the whole vocabulary (Szegedy et al. 2016, section 7).
    z_loss: factor of log² Z, which is added for each target, where Z is the sum of the exponentiated scores; it keeps
    scores near log-probabilities (T5's code, tensorflow/mesh; de Brébisson & Vincent 2016).
    """
    if isinstance(table_VD, Tensor) and not (plain_weight(table_VD) and plain_weight(bias_V)):
        # a weight that only torch's own functions can read
        logits_MV = F.linear(hidden_MD, table_VD, bias_V).float()
        total = F.cross_entropy(logits_MV, target_M, reduction="sum", label_smoothing=smoothing)
        return total + z_loss * logits_MV.logsumexp(-1).square().sum() if z_loss else total
    dtype = compute_dtype(hidden_MD)
    loss: Tensor = _LMLoss.apply(  # type: ignore[no-untyped-call]
        hidden_MD, table_VD, bias_V, target_M, (smoothing, z_loss), dtype, torch.is_grad_enabled()
    )
    return loss


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the type of matrix products with a tensor: autocast's where it is on, the tensor's own otherwise."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


class _LMLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        table_VD: Tensor | RowTable,
        bias_V: Tensor | None,
        target_M: Tensor,
        smoothing: tuple[float, float],
        dtype: torch.dtype,
        with_grad: bool,
    ) -> Tensor:
        M, V = len(target_M), len(table_VD)
        device = table_VD.device
        table, hidden = table_VD, hidden_MD.to(dtype)
        if product_dtype(device, dtype) != dtype:  # blocks of the table are widened one by one
            hidden = hidden.float()
        elif isinstance(table_VD, Tensor):
            table = table_VD.to(dtype)
        grad_hidden = torch.zeros(hidden_MD.shape, dtype=torch.float32, device=device) if with_grad else None
        grad_table = None
        if with_grad and isinstance(table_VD, Tensor) and table_VD.requires_grad:
            grad_table = torch.empty(table_VD.shape, dtype=torch.float32, device=device)
        grad_bias = torch.zeros_like(bias_V, dtype=torch.float32) if with_grad and bias_V is not None else None
        total = torch.zeros((), dtype=torch.float32, device=device)
        on_cpu = device.type == "cpu"
        most = max(1, SCORES // V) if on_cpu else GPU_ROWS
        rows = max(1, -(-M // max(1, -(-M // most))))  # equal shares
        scores = torch.empty(min(M, rows) * V, dtype=torch.float32, device=device)
        for k in range(0, M, rows):
            at = slice(k, min(M, k + rows))
            share = _Share(hidden[at], table, bias_V, target_M[at], scores, COLUMNS if on_cpu else V, *smoothing)
            total += share.loss
            if grad_hidden is not None:
                share.add_gradients(grad_hidden[at], grad_table, grad_bias, first=k == 0)
        if grad_table is not None and not M:
            grad_table.zero_()
        if with_grad:
            ctx.save_for_backward(grad_hidden, grad_table, grad_bias)
            ctx.dtype = hidden_MD.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = upstream
        # in place, since a second table of that size costs more than the scaling; torch refuses a second backward pass
        hidden, table, bias = ctx.saved_tensors
        table = None if table is None else table.mul_(scale)
        bias = None if bias is None else bias.mul_(scale)
        return hidden.mul_(scale).to(ctx.dtype), table, bias, None, None, None, None


def _rows(table_VD: Tensor | RowTable, at: slice, dtype: torch.dtype) -> Tensor:
    return table_VD[at].to(dtype) if isinstance(table_VD, Tensor) else table_VD.rows(at, dtype)


class _Share:
    """Some targets: their scores by blocks of columns, then their loss, then their gradients.

    memory: fp32 buffer of at least M · V scores between the two passes. columns: columns of a block. smoothing and
    z_loss: see `lm_loss`; with smoothing ε and z_loss ζ the loss is norm + ζ · norm² − (1 − ε) · score of the target −
    ε · mean of all scores.
    """

    def __init__(
        self,
        hidden_MD: Tensor,
        table_VD: Tensor | RowTable,
        bias_V: Tensor | None,
        target_M: Tensor,
        memory: Tensor,
        columns: int,
        smoothing: float,
        z_loss: float,
    ) -> None:
        M, V = len(hidden_MD), len(table_VD)
        self.kept, self.spread = 1 - smoothing, smoothing / V
        self.hidden, self.table = hidden_MD, table_VD
        self.at = [slice(v, min(V, v + columns)) for v in range(0, V, columns)]
        self.blocks = [memory[M * at.start : M * at.stop].view(M, -1) for at in self.at]
        self._sort(target_M, columns)
        largest, sums = memory.new_empty(2, len(self.at), M)
        answered, whole = memory.new_empty(M), memory.new_zeros(M)
        for n, (at, block) in enumerate(zip(self.at, self.blocks, strict=True)):
            table = _rows(table_VD, at, hidden_MD.dtype)
            if table.dtype == block.dtype:
                torch.mm(hidden_MD, table.T, out=block)
            else:
                block.copy_(hidden_MD @ table.T)
            if bias_V is not None:
                block.add_(bias_V[at])
            rows, places = self._inside(n)
            answered[rows] = block[rows, places]
            if smoothing:
                whole += block.sum(1)
            torch.amax(block, 1, out=largest[n])
            torch.sum(block.sub_(largest[n, :, None]).exp_(), 1, out=sums[n])
        norm = (largest + sums.log()).logsumexp(0)
        self.factors = (largest - norm).exp_()
        if z_loss:  # the derivative of the norm is the softmax
            self.factors *= 1 + 2 * z_loss * norm
        self.loss = (norm - self.kept * answered - self.spread * whole + z_loss * norm.square()).sum()

    def add_gradients(
        self, grad_hidden: Tensor, grad_table: Tensor | None, grad_bias: Tensor | None, first: bool
    ) -> None:
        """Add the gradients of the loss. grad_table: None if the table is frozen. first: whether it is still
        uninitialised memory."""
        for n, (at, error, factor) in enumerate(zip(self.at, self.blocks, self.factors, strict=True)):
            error.mul_(factor[:, None])
            rows, places = self._inside(n)
            if self.spread:
                error.sub_(self.spread)
            error[rows, places] -= self.kept
            if grad_bias is not None:
                grad_bias[at] += error.sum(0)
            table = _rows(self.table, at, self.hidden.dtype)
            if table.dtype == error.dtype:
                torch.addmm(grad_hidden, error, table, out=grad_hidden)
                if grad_table is not None:
                    torch.addmm(grad_table[at], error.T, self.hidden, beta=0 if first else 1, out=grad_table[at])
            else:
                low = error.to(table.dtype)
                grad_hidden += low @ table
                if grad_table is not None:
                    grad = low.T @ self.hidden
                    grad_table[at] = grad if first else grad_table[at].add_(grad)

    def _sort(self, target_M: Tensor, columns: int) -> None:
        """Sort the targets by the block in which they lie."""
        self.rows = torch.arange(len(target_M), device=target_M.device)
        self.answers, self.edges = target_M, [0, len(target_M)]
        if len(self.at) > 1:  # reading the edges would wait for a GPU, which has one block
            self.rows = target_M.argsort()
            self.answers = target_M[self.rows]
            starts = torch.arange(len(self.at) + 1, device=target_M.device) * columns
            self.edges = torch.searchsorted(self.answers, starts).tolist()

    def _inside(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the rows whose target lies in block n, and the column of each there."""
        part = slice(self.edges[n], self.edges[n + 1])
        return self.rows[part], self.answers[part] - self.at[n].start
