"""How far the scores of an export with fewer bits are from the model's, on real text, and whether that is allowed.

Shapes: M columns, V outputs, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blankfill.errors import UserError, setting
from blankfill.kernels.divergence import row_differences

LARGEST_LOSS = {8: 0.01, 4: 0.03}
"""Relative increase of perplexity that is allowed with 8 bits or more, and with fewer; also of a quantised model."""
LEAST_COSINE = {8: 0.999, 4: 0.99}
"""Smallest mean cosine of the vectors of texts that is allowed, likewise."""
LARGEST_KL = {8: 0.01, 4: 0.03}
"""Largest mean KL divergence of the scores of labels that is allowed, in nats."""


@dataclass(frozen=True)
class ScoreChange:
    """What became of a model's scores. bits: of a weight, roughly. columns: number of compared distributions.

    kl_mean, kl_99: mean and 99th percentile of the KL divergence of the new from the old ones, in nats. same_top: share
    of columns with the same most probable output. perplexity, new_perplexity: of the targets, NaN where the model
    predicts no tokens. cosine: mean of vectors of texts, NaN where none were compared. seen: number of vectors.
    """

    bits: float
    columns: int = 0
    kl_mean: float = math.nan
    kl_99: float = math.nan
    same_top: float = math.nan
    perplexity: float = math.nan
    new_perplexity: float = math.nan
    cosine: float = math.nan
    seen: int = 0

    @property
    def loss(self) -> float:
        """Relative increase of perplexity."""
        return self.new_perplexity / self.perplexity - 1

    def refusals(self) -> list[str]:
        """Return a clause for each limit that is not kept; a change that cannot be computed keeps none."""
        kind, made = 8 if self.bits >= 8 else 4, []
        if self.perplexity == self.perplexity:
            if not self.loss <= LARGEST_LOSS[kind]:
                made.append(f"its perplexity is {self.loss:.1%} higher, and {LARGEST_LOSS[kind]:.0%} is allowed")
        elif self.columns and not self.kl_mean <= LARGEST_KL[kind]:
            made.append(f"its scores differ by {self.kl_mean:.2g} nats, and {LARGEST_KL[kind]:g} is allowed")
        if self.seen and not self.cosine >= LEAST_COSINE[kind]:
            made.append(f"the cosine of its vectors is {self.cosine:.4f}, and {LEAST_COSINE[kind]:g} is needed")
        return made

    def text(self) -> str:
        """Return the change in words."""
        parts = []
        if self.perplexity == self.perplexity:
            parts.append(f"perplexity {self.perplexity:.3f} → {self.new_perplexity:.3f} ({self.loss:+.2%})")
        if self.columns:
            parts.append(f"KL {self.kl_mean:.2g} (99%: {self.kl_99:.2g}), same top-1 {self.same_top:.1%}")
        if self.seen:
            parts.append(f"cosine of vectors {self.cosine:.5f}")
        return ", ".join(parts)

    def check(self, what: str, remedy: str, force: bool) -> None:
        """Raise UserError when a limit is not kept and `force` is off.

        what: the type of the export. remedy: a clause on what loses less.
        """
        if not force and (clauses := self.refusals()):
            raise UserError(
                f"{what} loses too much: {' and '.join(clauses)}; {remedy}, or write it all the same with "
                f"{setting('force')}"
            )


class ScoreComparison:
    """Collects scores of the model and of its export, row by row."""

    def __init__(self, bits: float) -> None:
        self.bits = bits
        self._kl: list[Tensor] = []
        self._same = self._targets = 0
        self._nll = [0.0, 0.0]
        self._cosines: list[float] = []

    def add_scores(self, before_MV: Tensor, after_MV: Tensor, targets_M: Tensor | None = None) -> None:
        """Add distributions over the same outputs; targets: the right ones, int64[M]."""
        made = row_differences(before_MV, after_MV, targets_M)
        self._kl.append(made.kl)
        self._same += int(made.same.sum())
        self._targets += len(made.nats_before)
        self._nll[0] += float(made.nats_before.sum())
        self._nll[1] += float(made.nats_after.sum())

    def add_vectors(self, before_D: Tensor, after_D: Tensor) -> None:
        """Add the vectors of a text."""
        self._cosines.append(float(torch.cosine_similarity(before_D.double(), after_D.double(), dim=-1)))

    def result(self) -> ScoreChange:
        """Return what became of the scores."""
        nan = math.nan
        kl = torch.cat(self._kl) if self._kl else torch.empty(0)
        before, after = (math.exp(min(nll / self._targets, 709.0)) if self._targets else nan for nll in self._nll)
        return ScoreChange(
            bits=self.bits,
            columns=len(kl),
            kl_mean=float(kl.mean()) if len(kl) else nan,
            kl_99=float(kl.quantile(0.99)) if len(kl) else nan,
            same_top=self._same / len(kl) if len(kl) else nan,
            perplexity=before,
            new_perplexity=after,
            cosine=math.fsum(self._cosines) / len(self._cosines) if self._cosines else nan,
            seen=len(self._cosines),
        )
