"""Types that weights may be loaded in, by name; light, for the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

WeightType = Literal["auto", "fp32", "bf16", "fp16"]
"""auto: the type that the weights are stored in."""


def dtype_named(name: WeightType) -> torch.dtype | None:
    """torch's type of a name; None for auto."""
    import torch

    return {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def name_of(dtype: torch.dtype) -> str:
    """torch's name of a type, such as float16."""
    return str(dtype).removeprefix("torch.")
