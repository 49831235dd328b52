"""Types in which weights may be loaded, by name; cheap to import, for the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

WeightType = Literal["auto", "fp32", "bf16", "fp16"]
"""auto: the type that the weights are stored in."""


def dtype_named(name: WeightType) -> torch.dtype | None:
    """Return torch's type for a name; None for auto."""
    import torch

    return {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def name_of(dtype: torch.dtype) -> str:
    """Return torch's name of a type, such as float16."""
    return str(dtype).removeprefix("torch.")
