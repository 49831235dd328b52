"""Choosing the next token from its scores: greedy or drawn, after filters.

Each filter is a pure function of the scores that agrees with the processor of the same purpose in transformers; they
run in its order: repetition penalty, no repeated n-grams, temperature, top-k, top-p. Every row draws from a generator
of its own, made of (seed, row), so that a sample does not depend on how many are drawn beside it.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from blankfill.errors import ConfigError
from blankfill.system.bounds import COUNT, MOST, Bound, above, out_of_bounds

NEVER = float("-inf")
COLDEST = 1e-3
"""The lowest temperature but 0: scores divided by less leave the range of a float."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(("top_k", "no_repeat_ngram"), COUNT),
        "temperature": Bound(COLDEST, MOST, also=(0,)),
        "top_p": above(0, 1),
        "repetition_penalty": above(0),
    }

    temperature: float = 1.0
    """Divides the scores; below 1 is more predictable, 0 always takes the best token."""
    top_k: int = 0
    """Draw from this many best tokens only; 0 is no limit."""
    top_p: float = 1.0
    """Draw from the fewest best tokens that together have this probability; 1 is no limit."""
    repetition_penalty: float = 1.0
    """Above 1: scores of tokens that have already occurred are lowered by this factor (CTRL)."""
    no_repeat_ngram: int = 0
    """No run of this many tokens occurs twice; 0 is no limit."""
    seed: int = 0
    """Seed of the draws."""

    def check(self) -> None:
        """Raise a ConfigError that names every value out of range."""
        found = out_of_bounds(self)
        if found:
            raise ConfigError(found)


def penalise_repeats(scores_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    """Divide positive scores of seen tokens by the penalty, multiply negative ones (Keskar et al. 2019, CTRL)."""
    lowered = torch.where(scores_BV < 0, scores_BV * penalty, scores_BV / penalty)
    return torch.where(seen_BV, lowered, scores_BV)


def forbid_ngrams(scores_BV: Tensor, histories: Sequence[Sequence[int]], size: int) -> Tensor:
    """Rule out tokens that would complete an n-gram of `size` which a row's history already has."""
    scores_BV = scores_BV.clone()
    for row, history in enumerate(histories):
        if len(history) + 1 < size:
            continue
        tail = tuple(history[len(history) - size + 1 :])
        ends = [
            history[k + size - 1]
            for k in range(len(history) - size + 1)
            if tuple(history[k : k + size - 1]) == tail
        ]  # fmt: skip
        scores_BV[row, ends] = NEVER
    return scores_BV


def temper(scores_BV: Tensor, temperature: float) -> Tensor:
    """Scores divided by a temperature above 0."""
    return scores_BV / temperature


def keep_top_k(scores_BV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best tokens alone: their scores [B, K] and ids int64[B, K], best first."""
    best = scores_BV.topk(min(count, scores_BV.shape[-1]))
    return best.values, best.indices


def keep_top_p(scores_BV: Tensor, share: float) -> Tensor:
    """Rule out all but the fewest best tokens whose probabilities reach `share`; the best always stays."""
    ordered_BV, index_BV = scores_BV.sort(descending=False)
    outside_BV = ordered_BV.softmax(-1).cumsum(-1) <= 1 - share
    outside_BV[:, -1] = False
    return scores_BV.masked_fill(outside_BV.scatter(1, index_BV, outside_BV), NEVER)


def draw(scores_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The token where the cumulated probabilities pass `uniform_B` (each in [0, 1)); int64[B]."""
    cumulated_BV = scores_BV.softmax(-1).cumsum(-1)
    whole_B1 = cumulated_BV[:, -1:]
    wanted_B1 = uniform_B[:, None].to(whole_B1) * whole_B1
    wanted_B1 = torch.minimum(wanted_B1, torch.nextafter(whole_B1, torch.zeros_like(whole_B1)))
    return torch.searchsorted(cumulated_BV, wanted_B1, right=True)[:, 0]


class Sampler:
    """The chooser of one generation: filters, generators and what each row has written."""

    def __init__(self, sampling: Sampling, histories: Sequence[Sequence[int]], banned_V: Tensor) -> None:
        """histories: the ids of each row's prompt (without specials). banned_V: bool[V], ids never to be written."""
        self.sampling = sampling
        self.banned_V = banned_V
        self.histories = [list(history) for history in histories]
        self._generators = [_generator(sampling.seed, row) for row in range(len(histories))]
        self._seen = torch.zeros((len(histories), len(banned_V)), dtype=torch.bool, device=banned_V.device)
        for row, history in enumerate(self.histories):
            self._seen[row, history] = True

    @torch.inference_mode()
    def __call__(self, scores_BV: Tensor) -> list[int]:
        """The next token of each row, from the model's scores [B, V]."""
        options = self.sampling
        scores_BV = scores_BV.float()
        if options.repetition_penalty != 1.0:
            scores_BV = penalise_repeats(scores_BV, self._seen, options.repetition_penalty)
        if options.no_repeat_ngram:
            scores_BV = forbid_ngrams(scores_BV, self.histories, options.no_repeat_ngram)
        scores_BV = scores_BV.masked_fill(self.banned_V, NEVER)
        ids = self._choose(scores_BV).tolist()
        for row, token in enumerate(ids):
            self.histories[row].append(token)
            if options.repetition_penalty != 1.0:
                self._seen[row, token] = True
        return ids

    def _choose(self, scores_BV: Tensor) -> Tensor:
        options = self.sampling
        if options.temperature == 0:
            return scores_BV.argmax(-1)
        if options.temperature != 1.0:
            scores_BV = temper(scores_BV, options.temperature)
        kept = None
        if options.top_k:
            scores_BV, kept = keep_top_k(scores_BV, options.top_k)
        if options.top_p < 1.0:
            scores_BV = keep_top_p(scores_BV, options.top_p)
        uniform = [torch.rand((), generator=generator, dtype=torch.float64) for generator in self._generators]
        drawn_B = draw(scores_BV, torch.stack(uniform).to(scores_BV.device))
        return drawn_B if kept is None else kept.gather(1, drawn_B[:, None])[:, 0]


def _generator(seed: int, row: int) -> torch.Generator:
    (state,) = np.random.SeedSequence([seed, row]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state) >> 1)
