"""Random numbers of parameters: each is a function of the seed, the name of its parameter and its index there.

So any part of any parameter can be drawn alone, by any number of processes, to the same bits as the whole, and no
parameter depends on which others a model has. Element `k` of a parameter takes the 32 bits number `k` of a Philox
stream (Salmon et al. 2011), whose key is a hash of seed and name; one number makes one element, without rejection. The
uniform number becomes a normal one by the inverse of the normal distribution function (Wichura 1988, algorithm AS 241,
its version of seven digits), a truncated one by the same inverse on a shorter interval. Only conversions, sums,
products, quotients and square roots are computed, which IEEE 754 rounds exactly, so the bits are those of every
processor, whatever its vector units, and of every device, since they are computed on the CPU.

`model.initial` decides the rule of each parameter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 16
"""Elements that are computed at once: enough to hide the cost of calls, few enough for the cache."""
WORDS = 8
"""32-bit numbers for each value of Philox's counter."""
CUT = 2.0
"""Largest distance of truncated normal numbers from 0, in standard deviations."""
WITHIN = math.erf(CUT / math.sqrt(2))
"""The probability of being within."""

CENTRE, REACH = 0.180625, 0.425
"""AS 241: |p − ½| up to 0.425 is computed by a rational function of 0.425² − (p − ½)², the rest by one of √(−log p)."""
NEAR = (59.109374720, 159.29113202, 50.434271938, 3.3871327179), (67.187563600, 78.757757664, 17.895169469, 1.0)
FAR = (0.17023821103, 1.3067284816, 2.7568153900, 1.4234372777), (0.12021132975, 0.73700164250, 1.0)
"""Numerators and denominators, highest power first. 32-bit numbers never reach the third of AS 241's intervals."""
LOGARITHM = tuple(2 / k for k in (11, 9, 7, 5, 3, 1))
"""log x = 2 Σ sᵏ/k over odd k, with s = (x − 1)/(x + 1); highest power first."""
ROOT_HALF = int(np.float32(math.sqrt(0.5)).view(np.int32))
"""The bits of √½."""


@dataclass(frozen=True)
class Patch:
    """Values in place of drawn ones: fp32 [R, C], from a row and a column of the parameter as a matrix."""

    values: Tensor
    row: int = 0
    column: int = 0


@dataclass(frozen=True)
class Rule:
    """The rule for the initial values of a parameter.

    kind: "constant"; "uniform" from −scale to scale; "normal" with standard deviation `scale`; "truncated_normal", the
    same under the condition of being within `CUT` times `scale` of 0. scale: see above, or the constant. first_rows:
    number of rows, from the first, that are multiplied by `factor`. patches: values that replace drawn ones.
    """

    kind: Literal["constant", "uniform", "normal", "truncated_normal"]
    scale: float
    first_rows: int = 0
    factor: float = 1.0
    patches: tuple[Patch, ...] = ()


def draw(seed: int, name: str, shape: Sequence[int], rule: Rule, part: Sequence[slice] = ()) -> Tensor:
    """Draw a parameter, or a part of it.

    Args:
        seed: The seed of the run.
        name: The name of the parameter in the state dict of its model.
        shape: The shape of the whole parameter.
        rule: How its values are made.
        part: A slice for each of the first dimensions; the others are whole.

    Returns:
        The values in fp32, the same bits as those in the whole parameter.

    Raises:
        ValueError: `part` has more slices than the parameter has dimensions, or one with a step.
    """
    out = torch.empty([len(rows) for rows in _ranges(shape, part)])
    draw_into(out, seed, name, shape, rule, part)
    return out


@torch.no_grad()
def draw_into(out: Tensor, seed: int, name: str, shape: Sequence[int], rule: Rule, part: Sequence[slice] = ()) -> None:
    """Draw a parameter or a part of it as `draw` does, into a tensor of any type and device.

    The values are made a few rows at a time and then converted, so that this needs hardly any memory of its own.
    """
    if out.is_meta:
        return
    if rule.kind == "constant" and not rule.patches:
        out.fill_(rule.scale)
        return
    ranges = _ranges(shape, part)
    rows, columns = ranges[0] if ranges else range(1), tuple(slice(r.start, r.stop) for r in ranges[1:])
    width = math.prod(shape[1:])
    stream, many = _Stream(seed, name), max(1, BLOCK // max(1, width))
    for first in range(rows.start, rows.stop, many):
        last = min(first + many, rows.stop)
        made = torch.from_numpy(_rows(stream, rule, first, last, width)).view(last - first, *shape[1:])
        into = out[first - rows.start : last - rows.start] if ranges else out[None]
        into.copy_(made[(slice(None), *columns)])


def _ranges(shape: Sequence[int], part: Sequence[slice]) -> list[range]:
    """The indices of a part, one range for each dimension."""
    if len(part) > len(shape):
        raise ValueError(f"the parameter has {len(shape)} dimensions, and {len(part)} slices are given")
    cuts = [*part, *[slice(None)] * (len(shape) - len(part))]
    ranges = [range(size)[cut] for size, cut in zip(shape, cuts, strict=True)]
    if any(indices.step != 1 for indices in ranges):
        raise ValueError("a part of a parameter is drawn by slices without steps")
    return ranges


def _rows(stream: _Stream, rule: Rule, first: int, last: int, width: int) -> np.ndarray:
    """Rows of a parameter as a matrix, float32 [last − first, width]."""
    made = np.empty((last - first, width), np.float32)
    flat, start = made.reshape(-1), first * width
    for begin in range(0, flat.size, BLOCK):
        values = flat[begin : begin + BLOCK]
        if rule.kind == "constant":
            values.fill(rule.scale)
        else:
            stream.fill(values, rule, start + begin)
    if first < rule.first_rows:
        made[: rule.first_rows - first] *= np.float32(rule.factor)
    for patch in rule.patches:
        begin, end = max(first, patch.row), min(last, patch.row + len(patch.values))
        if begin < end:
            values = patch.values[begin - patch.row : end - patch.row].numpy()
            made[begin - first : end - first, patch.column : patch.column + values.shape[1]] = values
    return made


class _Stream:
    """The random numbers of a parameter, by their index."""

    def __init__(self, seed: int, name: str) -> None:
        digest = hashlib.blake2b(f"{seed}\n{name}".encode(), digest_size=16).digest()
        self.key = np.frombuffer(digest, "<u8").astype(np.uint64)
        self.space = np.empty((4, BLOCK), np.float32)

    def words(self, start: int, count: int) -> np.ndarray:
        """Random numbers as int32 [count], which begin at an index."""
        counter, skipped = divmod(start, WORDS)
        stream = np.random.Philox(key=self.key, counter=np.array([counter, 0, 0, 0], np.uint64))
        raw: np.ndarray = stream.random_raw((skipped + count + 1) // 2)
        return raw.astype("<u8", copy=False).view("<i4")[skipped : skipped + count]

    def fill(self, out: np.ndarray, rule: Rule, start: int) -> None:
        """Make the elements from an index on, at most `BLOCK`; out: float32 [count]."""
        word, (q, r, top, bottom) = self.words(start, out.size), self.space[:, : out.size]
        within = WITHIN if rule.kind == "truncated_normal" else 1.0
        scale, half = np.float32(rule.scale), np.float32(0.5)
        np.copyto(q, word, casting="unsafe")  # p − ½ = (word + ½) / 2³², from −½ to ½
        q += half
        q *= np.float32(within * 2**-32)
        if rule.kind == "uniform":
            np.multiply(q, 2 * scale, out=out)
            return
        np.subtract(np.float32(CENTRE), np.multiply(q, q, out=r), out=r)
        np.divide(_polynomial(NEAR[0], r, top), _polynomial(NEAR[1], r, bottom), out=out)
        out *= q
        far = np.flatnonzero(r < 0)
        out[far] = _far(word[far], within)
        out *= scale


def _far(word: np.ndarray, within: float) -> np.ndarray:
    """The normal numbers of words far from 0, float32."""
    to_end = np.where(word < 0, word ^ -(2**31), word ^ (2**31 - 1))  # exact, where ½ − |p − ½| would not be
    p = (to_end.astype(np.float32) + np.float32(0.5)) * np.float32(within * 2**-32)
    p += np.float32((1 - within) / 2)
    r = np.sqrt(-_logarithm(p)) - np.float32(1.6)
    value = _polynomial(FAR[0], r, np.empty_like(r)) / _polynomial(FAR[1], r, np.empty_like(r))
    if within < 1:
        np.minimum(value, np.float32(CUT), out=value)  # rounding alone leads beyond
    result: np.ndarray = np.copysign(value, word.astype(np.float32))
    return result


def _logarithm(x: np.ndarray) -> np.ndarray:
    """Return log x of float32 by operations that all processors round in the same way; numpy's log depends on the
    processor."""
    bits = x.view(np.int32)
    exponent = (bits - ROOT_HALF) >> 23  # so that what is left is between √½ and √2
    part = (bits - (exponent << 23)).view(np.float32)
    s = (part - np.float32(1)) / (part + np.float32(1))
    made = _polynomial(LOGARITHM, s * s, np.empty_like(s))
    made *= s
    result: np.ndarray = made + exponent.astype(np.float32) * np.float32(math.log(2))
    return result


def _polynomial(coefficients: Sequence[float], x: np.ndarray, out: np.ndarray) -> np.ndarray:
    """A polynomial by Horner's rule in the type of x, highest power first."""
    np.multiply(x, x.dtype.type(coefficients[0]), out=out)
    for coefficient in coefficients[1:-1]:
        out += x.dtype.type(coefficient)
        out *= x
    out += x.dtype.type(coefficients[-1])
    return out
