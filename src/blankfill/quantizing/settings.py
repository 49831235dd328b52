"""The settings of a quantisation, and what follows from those that are not given.

Nothing heavy is imported here, so that `blankfill quantize --help` is quick.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from blankfill.errors import ConfigError, setting
from blankfill.system.bounds import COUNT, Bound, at_least, out_of_bounds

Rounding = Literal["exact", "released"]
Method = Literal["nearest", "hqq", "gptq"]
Scheme = Literal["absmax", "zero-point"]
Activations = Literal["keep", "int8"]
Embeddings = Literal["8", "keep"]

GROUPS = (128, 64, 32)
"""Numbers of inputs that can share a scale, besides a whole row."""
USUAL: Mapping[int, tuple[int, Scheme, Method]] = {8: (0, "absmax", "nearest"), 4: (64, "zero-point", "hqq")}
"""Group size, scheme and method by number of bits, where they are not given; docs/quantisation.md has the figures. With
calibration text, the usual method of 4 bits is gptq."""
UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2, "gi": 1024**3}
SIZE = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*(?:(%)|([kmg]i?|)b?)\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class QuantizeSettings:
    """How a model is quantised. A value of None is the usual one: see `USUAL`, and `resolved`."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"calibration_rows": at_least(1), "seed": COUNT}

    bits: Literal[8, 4] | None = None
    """Bits of a weight; None: 8, or with `target_size` 4 or 8 by layer."""
    group_size: Literal[0, 32, 64, 128] | None = None
    """Number of inputs that share a scale; 0: a whole row."""
    scheme: Scheme | None = None
    """Scales symmetric about 0, or with a zero point beside each."""
    method: Method | None = None
    """How the integers are chosen."""
    rounding: Rounding = "exact"
    """`released`: with quotients of fp16, as in the released checkpoints of ChatGLM-6B."""
    target_size: str = ""
    """Largest size of the weights, such as 60MB, or their share of the original's, such as 0.4 or 40%; "": no limit."""
    embeddings: Embeddings | None = None
    """Type of the tables of tokens, and of dense layers between these and the other layers: 8 bits, or as they are."""
    activations: Activations | None = None
    """Type of the inputs of layers of 8 bits: as they are, or 8 bits with a scale for each row. None: 8 bits for models
    that read in both directions and do not write (BERT), and for fine-tuned models of tasks without writing; else as
    they are."""
    calibration: tuple[Path, ...] = ()
    """Files of text for methods that need the inputs of layers; none: the text of the run."""
    calibration_rows: int = 128
    """Largest number of rows, or of items of a task, that are read for calibration."""
    seed: int = 0
    """Seed by which rows are drawn."""

    def check(self) -> None:
        """Raise ConfigError with every problem."""
        if problems := [*out_of_bounds(self), *self.problems()]:
            raise ConfigError(problems)

    def problems(self) -> list[str]:
        """Return a sentence for each setting that does not go with the others."""
        problems = []
        if self.rounding == "released":
            for name, only in (("group_size", 0), ("scheme", "absmax"), ("method", "nearest")):
                value = getattr(self, name)
                if value is not None and value != only:
                    problems.append(
                        f"{setting(name, value)} does not go with {setting('rounding', 'released')}, whose format is "
                        f"{setting(name, only)}; leave one of them out"
                    )
            if self.target_size:
                problems.append(
                    f"{setting('target_size')} does not go with {setting('rounding', 'released')}, whose format has "
                    "the same bits in all layers; leave one of them out"
                )
        if self.activations == "int8":
            for name, only in (("bits", 8), ("group_size", 0)):
                value = getattr(self, name)
                if value is not None and value != only:
                    problems.append(
                        f"{setting(name, value)} does not go with {setting('activations', 'int8')}, whose layers have "
                        "8 bits and a scale for each row; leave one of them out"
                    )
        if self.target_size:
            try:
                size_of(self.target_size, 1)
            except ValueError as error:
                problems.append(str(error))
        reads = self.method == "gptq" or (self.method is None and self.bits == 4 and self.rounding == "exact")
        if self.calibration and not reads and not self.target_size:
            problems.append(
                f"{setting('calibration')} goes with {setting('method', 'gptq')} or {setting('target_size')}; the "
                "other methods read no text"
            )
        return problems


@dataclass(frozen=True)
class Resolved:
    """What is done with layers of some bits: the format of their weights, and how the integers are chosen."""

    bits: int
    group_size: int
    scheme: Scheme
    method: Method
    embeddings: Embeddings = "8"

    def note(self) -> dict[str, Any]:
        """Return the values for a JSON file."""
        return {"group_size": self.group_size, "scheme": self.scheme, "method": self.method}


def released(settings: QuantizeSettings, keeps_format: bool) -> bool:
    """Return whether the format is that of released checkpoints. keeps_format: whether the family's files hold
    quantised layers in that format, which is then the usual one."""
    given = (settings.group_size, settings.scheme, settings.method) != (None, None, None)
    usual = keeps_format and not given and not settings.target_size and not settings.calibration
    return settings.rounding == "released" or usual


def resolved(settings: QuantizeSettings, bits: int, keeps_format: bool = False, has_text: bool = False) -> Resolved:
    """Return what is done with layers of `bits` bits. keeps_format: see `released`; has_text: whether there are
    calibration rows."""
    group, scheme, method = USUAL[bits]
    if has_text and bits == 4:
        method = "gptq"
    if released(settings, keeps_format):
        return Resolved(bits, 0, "absmax", "nearest", settings.embeddings or "keep")
    return Resolved(
        bits,
        group if settings.group_size is None else settings.group_size,
        settings.scheme or scheme,
        settings.method or method,
        settings.embeddings or "8",
    )


def size_of(text: str, whole: int) -> int:
    """Return the bytes of a size such as 60MB, 1.5G, 0.4 or 40%; the last two are shares of `whole` bytes.

    Units are decimal, as sizes are printed. Raises ValueError for anything else.
    """
    wrong = (
        f"{setting('target_size', text)} is no size; give one such as 60MB, or a share of the original's such as 0.4"
    )
    match = SIZE.fullmatch(text)
    if match is None:
        raise ValueError(wrong)
    number, percent, unit = float(match[1]), match[2], (match[3] or "").lower()
    has_unit = percent is None and text.strip()[-1].lower() in "bkmgi"
    if percent or not has_unit:
        share = number / 100 if percent else number
        if not 0 < share <= 1:
            raise ValueError(f"{wrong}; a number without a unit is a share between 0 and 1")
        return int(share * whole)
    if number == 0:
        raise ValueError(wrong)
    return int(number * UNITS[unit])


def fitting_group(inputs: int, wanted: int) -> int:
    """Return the group size of a layer: the wanted one where it divides the inputs, else the largest of `GROUPS` below
    that does, else 0, the whole row; 0 too where the group is the row."""
    for size in (wanted, *(size for size in GROUPS if size < wanted)):
        if size and inputs % size == 0:
            return 0 if size == inputs else size
    return 0
