"""Attention of short rows on a CPU, without gradient, by a kernel of this package (`native/short_attention.c`).

Torch's kernel is made for long rows: with some 16 columns, most of its time is not arithmetic. This one reads the
output of the joint projection as it lies and writes what the next product reads, so that nothing is transposed or
copied. It computes in fp32 for all types.

Shapes: B rows, T columns, H heads, E width of a head.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from blankfill.kernels.capability import recorded
from blankfill.kernels.native.library import TYPES, AttentionJob, library

LONGEST = 96
"""Columns up to which it is faster."""
WIDEST = 128
"""Largest width of a head."""
MULTIPLE = 16
"""Divisor of the width."""


def short_attention(qkv_BT3HE: Tensor, bias_B1TT: Tensor | None, scale: float | None = None) -> Tensor | None:
    """Compute scaled dot-product self-attention, [B, T, H·E]; None where this kernel cannot.

    bias: added to the scaled scores, or None. scale: factor of the scores; None means 1/√E.
    """
    B, T, _, H, E = qkv_BT3HE.shape
    if torch.is_grad_enabled() or qkv_BT3HE.device.type != "cpu" or recorded(qkv_BT3HE):
        return None
    if not 0 < T <= LONGEST or E > WIDEST or E % MULTIPLE or qkv_BT3HE.dtype not in TYPES or not B:
        return None
    made = library()
    if made is None:
        return None
    qkv_BT3HE = qkv_BT3HE.contiguous()
    if bias_B1TT is not None:
        bias_B1TT = bias_B1TT.float().expand(B, 1, T, T).contiguous()
    out = qkv_BT3HE.new_empty(B, T, H * E)
    job = AttentionJob(
        qkv_BT3HE.data_ptr(), 0 if bias_B1TT is None else bias_B1TT.data_ptr(), out.data_ptr(), B, T, H, E,
        E**-0.5 if scale is None else scale, TYPES[qkv_BT3HE.dtype],
    )  # fmt: skip
    return None if made.short_attention(ctypes.byref(job)) else out
