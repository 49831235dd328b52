"""Choosing the next token from its scores: greedy or drawn, after filters.

Each filter is a pure function of the scores and agrees with the corresponding processor of transformers; filters run in
the same order: repetition penalty, n-grams, temperature, top-k, top-p. Before the temperature, `Penalties` change the
scores as OpenAI's API describes it. Every row has its own settings and generator,
seeded with (seed, number of the sample), so that a sample does not depend on the other rows.

Shapes: B rows, G rows with the same filters, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from blankfill.errors import ConfigError
from blankfill.system.bounds import COUNT, MOST, Bound, above, out_of_bounds

NEVER = float("-inf")
COLDEST = 1e-3
"""Lowest temperature above 0; scores divided by less leave the range of a float."""


@dataclass(frozen=True)
class Sampling:
    """Settings for choosing the next token."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(("top_k", "no_repeat_ngram"), COUNT),
        "temperature": Bound(COLDEST, MOST, also=(0,)),
        "top_p": above(0, 1),
        "repetition_penalty": above(0),
    }

    temperature: float = 1.0
    """Divisor of the scores, usually 0.7 to 1; smaller is more predictable, 0 always takes the likeliest token."""
    top_k: int = 0
    """Number of likeliest tokens to draw from, for example 50; 0 is no limit."""
    top_p: float = 1.0
    """Probability mass to draw from: the fewest likeliest tokens that reach it together, usually 0.9 to 1; 1 is no
    limit."""
    repetition_penalty: float = 1.0
    """Factor that lowers the scores of tokens that occurred already, usually 1 to 1.3 (CTRL); 1 has no effect."""
    no_repeat_ngram: int = 0
    """Length of n-grams that may not occur twice, for example 3; 0 is no limit."""
    seed: int = 0
    """Seed of the draws."""

    def check(self) -> None:
        """Raise a ConfigError that names every value out of range."""
        problems = out_of_bounds(self)
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True, eq=False)
class Penalties:
    """What is taken from or added to scores, as OpenAI's API describes it; compared by identity.

    frequency: taken for each time that the row has generated the token, −2 to 2. presence: taken once from tokens that
    it has generated. bias: added to the scores of tokens, by id, −100 to 100.
    """

    frequency: float = 0.0
    presence: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)


def penalise_counts(scores_BV: Tensor, counts_BV: Tensor, frequency: float, presence: float) -> Tensor:
    """Lower the scores of generated tokens by `count · frequency + [count > 0] · presence`."""
    return scores_BV - counts_BV * frequency - (counts_BV > 0) * presence


def add_bias(scores_BV: Tensor, bias: Mapping[int, float]) -> Tensor:
    """Add a number to the scores of some tokens, by id."""
    ids = torch.tensor([*bias], dtype=torch.int64, device=scores_BV.device)
    values = torch.tensor([*bias.values()], dtype=scores_BV.dtype, device=scores_BV.device)
    return scores_BV.index_add(1, ids, values.expand(len(scores_BV), -1))


def penalise_repeats(scores_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    """Divide positive scores of seen tokens by the penalty, multiply negative ones (Keskar et al. 2019, CTRL)."""
    lowered = torch.where(scores_BV < 0, scores_BV * penalty, scores_BV / penalty)
    return torch.where(seen_BV, lowered, scores_BV)


def forbid_ngrams(scores_BV: Tensor, histories: Sequence[Sequence[int]], size: int) -> Tensor:
    """Rule out tokens that would complete an n-gram of `size` tokens that is in the history of the row."""
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
    """Divide scores by a temperature above 0."""
    return scores_BV / temperature


def keep_top_k(scores_BV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Keep only the `count` likeliest tokens: their scores [B, K] and ids int64[B, K], best first."""
    best = scores_BV.topk(min(count, scores_BV.shape[-1]))
    return best.values, best.indices


def keep_top_p(scores_BV: Tensor, share: float) -> Tensor:
    """Rule out all but the fewest likeliest tokens whose probabilities reach `share`; the likeliest always stays."""
    ordered_BV, index_BV = scores_BV.sort(descending=False)
    outside_BV = ordered_BV.softmax(-1).cumsum(-1) <= 1 - share
    outside_BV[:, -1] = False
    return scores_BV.masked_fill(outside_BV.scatter(1, index_BV, outside_BV), NEVER)


def draw(scores_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Return the token where the cumulated probabilities exceed `uniform_B` (each in [0, 1)); int64[B]."""
    cumulated_BV = scores_BV.softmax(-1).cumsum(-1)
    whole_B1 = cumulated_BV[:, -1:]
    wanted_B1 = uniform_B[:, None].to(whole_B1) * whole_B1
    wanted_B1 = torch.minimum(wanted_B1, torch.nextafter(whole_B1, torch.zeros_like(whole_B1)))
    return torch.searchsorted(cumulated_BV, wanted_B1, right=True)[:, 0]


FILTERS = tuple(option.name for option in fields(Sampling) if option.name != "seed")
"""The options of `Sampling` that filter scores."""


class SampledRow:
    """The state of one row's choices: settings, generator, and the tokens so far."""

    def __init__(
        self,
        sampling: Sampling,
        history: Sequence[int],
        banned_V: Tensor,
        number: int = 0,
        penalties: Penalties | None = None,
    ) -> None:
        """history: ids of the row's prompt, without special tokens. banned_V: bool[V], ids that are never generated.
        number: number of the sample; rows of one seed with different numbers draw differently."""
        self.sampling, self.banned_V, self.penalties = sampling, banned_V, penalties
        self.history = list(history)
        self.read = len(self.history)
        """Number of the tokens of the history that were not generated."""
        self.generator = _generator(sampling.seed, number)
        self.seen_V: Tensor | None = None
        """bool[V], the tokens of the history; made when a filter first needs it."""

    @property
    def filters(self) -> tuple[Any, ...]:
        """The settings by which rows are grouped for filtering."""
        return (*(getattr(self.sampling, name) for name in FILTERS), id(self.banned_V), id(self.penalties))


@dataclass(frozen=True)
class _Group:
    """Rows with the same filters. places: their indices among all rows; None for all rows. seen: bool[G, V]; the
    `seen_V` of each row is a view of it. counts: float[G, V], how often each row has generated each token, where
    `Penalties` need it."""

    rows: list[SampledRow]
    places: Tensor | None
    seen: Tensor | None
    counts: Tensor | None


class Sampler:
    """Chooses the next token of rows that join and leave; rows are numbered as in `slots.Slots`."""

    def __init__(self, rows: Iterable[SampledRow] = ()) -> None:
        self.rows = list(rows)
        self._groups: list[_Group] = []

    @classmethod
    def alike(cls, sampling: Sampling, histories: Sequence[Sequence[int]], banned_V: Tensor) -> Sampler:
        """Make a sampler of rows with the same settings, as the first samples of the seed."""
        return cls(SampledRow(sampling, history, banned_V, row) for row, history in enumerate(histories))

    @property
    def histories(self) -> list[list[int]]:
        """The ids of each row's prompt and of its generated tokens."""
        return [row.history for row in self.rows]

    def join(self, row: SampledRow) -> None:
        """Add a row after the others."""
        self.rows.append(row)
        self._groups = []

    def leave(self, row: int) -> None:
        """Remove a row; the last row takes its number."""
        self.rows[row] = self.rows[-1]
        del self.rows[-1]
        self._groups = []

    @torch.inference_mode()
    def __call__(self, scores_BV: Tensor) -> list[int]:
        """Return the next token of each row, from the model's scores [B, V]."""
        if not self._groups:
            self._groups = list(_grouped(self.rows))
        if len(self._groups) == 1:
            return _next_tokens(scores_BV, self._groups[0])
        ids = [0] * len(self.rows)
        for group in self._groups:
            assert group.places is not None
            tokens = _next_tokens(scores_BV[group.places], group)
            for place, token in zip(group.places.tolist(), tokens, strict=True):
                ids[place] = token
        return ids


def _grouped(rows: Sequence[SampledRow]) -> Iterator[_Group]:
    """Group the rows by their filters."""
    places: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.filters, []).append(place)
    for group in places.values():
        members = [rows[place] for place in group]
        seen_GV = None
        if members[0].sampling.repetition_penalty != 1.0:
            seen_GV = torch.stack([_seen(row) for row in members])
            for row, seen_V in zip(members, seen_GV, strict=True):
                row.seen_V = seen_V
        index = None if len(places) == 1 else torch.tensor(group, device=members[0].banned_V.device)
        penalties = members[0].penalties
        counted = penalties is not None and (penalties.frequency or penalties.presence)
        yield _Group(members, index, seen_GV, torch.stack([*map(_counts, members)]) if counted else None)


def _counts(row: SampledRow) -> Tensor:
    """Return how often a row has generated each token, float[V]."""
    new = torch.tensor(row.history[row.read :], dtype=torch.int64, device=row.banned_V.device)
    return torch.bincount(new, minlength=len(row.banned_V)).float()


def _seen(row: SampledRow) -> Tensor:
    if row.seen_V is None:
        row.seen_V = torch.zeros_like(row.banned_V)
        row.seen_V[row.history] = True
    return row.seen_V


def _next_tokens(scores_GV: Tensor, group: _Group) -> list[int]:
    """Choose the next tokens of rows with the same filters, and add them to the histories."""
    rows = group.rows
    options = rows[0].sampling
    scores_GV = scores_GV.float()
    if group.seen is not None:
        scores_GV = penalise_repeats(scores_GV, group.seen, options.repetition_penalty)
    penalties = rows[0].penalties
    if penalties is not None and group.counts is not None:
        scores_GV = penalise_counts(scores_GV, group.counts, penalties.frequency, penalties.presence)
    if penalties is not None and penalties.bias:
        scores_GV = add_bias(scores_GV, penalties.bias)
    unfiltered_GV = scores_GV = scores_GV.masked_fill(rows[0].banned_V, NEVER)
    if options.no_repeat_ngram:
        scores_GV = forbid_ngrams(scores_GV, [row.history for row in rows], options.no_repeat_ngram)
        nothing_G1 = scores_GV.isneginf().all(1, keepdim=True)
        scores_GV = torch.where(nothing_G1, unfiltered_GV, scores_GV)  # where every token would repeat an n-gram
    ids: list[int] = _choose(scores_GV, options, rows).tolist()
    for k, (row, token) in enumerate(zip(rows, ids, strict=True)):
        row.history.append(token)
        if group.seen is not None:
            group.seen[k, token] = True
        if group.counts is not None:
            group.counts[k, token] += 1
    return ids


def _choose(scores_GV: Tensor, options: Sampling, rows: Sequence[SampledRow]) -> Tensor:
    if options.temperature == 0:
        return scores_GV.argmax(-1)
    if options.temperature != 1.0:
        scores_GV = temper(scores_GV, options.temperature)
    tokens_GV = None
    if options.top_k:
        scores_GV, tokens_GV = keep_top_k(scores_GV, options.top_k)
    if options.top_p < 1.0:
        scores_GV = keep_top_p(scores_GV, options.top_p)
    uniform = [torch.rand((), generator=row.generator, dtype=torch.float64) for row in rows]
    drawn_G = draw(scores_GV, torch.stack(uniform).to(scores_GV.device))
    return drawn_G if tokens_GV is None else tokens_GV.gather(1, drawn_G[:, None])[:, 0]


def _generator(seed: int, row: int) -> torch.Generator:
    (state,) = np.random.SeedSequence([seed, row]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state) >> 1)
