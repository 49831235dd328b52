"""The options of the gate; cheap to import, for the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from blankfill.checkpoint.dtypes import WeightType
from blankfill.system.bounds import COUNT, Bound, above

GATE_BOUNDS: Mapping[str, Bound] = {
    "max_loss": Bound(0, 1000), "min_cosine": Bound(0, 1), "gate_rows": COUNT, "gate_seconds": above(0),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """What a quantised model is measured on, and what it may lose."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = GATE_BOUNDS

    text: tuple[Path, ...] = ()
    """Text to measure the loss on: files or folders, for a pretrained model; without it, the validation text of its
    run. It must not be text that the model was trained on."""
    data: Path | None = None
    """Labelled data to measure a fine-tuned model on: the folder of its task or a file; without it, the dev set of its
    run."""
    max_loss: float = 0.0
    """Largest relative increase of the perplexity, and largest decrease of a task's metric in absolute terms; 0: 0.01
    for 8 bits, 0.03 where a layer has 4."""
    min_cosine: float = 0.0
    """Smallest mean cosine of the vectors of sentences before and after, for an encoder without a language-model head;
    0: 0.999 for 8 bits, 0.99 where a layer has 4."""
    gate_rows: int = 256
    """Largest number of rows of text, or of items of a task (eight times as many), that are measured; 0: all."""
    gate_seconds: float = 60.0
    """Time of the measurements in seconds, roughly: fewer rows are measured where it is short."""
    force: bool = False
    """Keep the new folder although the model loses more than it may, or is slower."""
    dtype: WeightType = "auto"
    """Number type in which both models are measured: fp32, bf16 or fp16; auto: as they are stored. Fine-tuned models
    compute in fp32."""

    def gate_options(self) -> GateOptions:
        """Return these options alone, from a class that extends them."""
        return GateOptions(**{field.name: getattr(self, field.name) for field in fields(GateOptions)})
