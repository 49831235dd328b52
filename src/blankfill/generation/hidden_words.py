"""Hidden words: how often a model names a word that is hidden in text that it has never read.

Some hundred words are drawn at random from the validation text, and each is hidden alone, with the text around it in
view. The model, the frequency of words and a table of pairs of neighbours each rank the same candidates: the words that
are one token of the vocabulary. Shares at rank 1 and among the first five say more to most readers than a loss.

For models that fill blanks by places (`Format.fill_method`): BERT and its like, and XLNet. The draw depends on the
corpus and a seed alone, so runs on one corpus can be compared. Not here: the samples of a run (`samples`), whose
sentences are few and chosen to be read.

Shapes: N hidden words, C candidates, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blankfill.checkpoint.load import Loaded
from blankfill.corpus.indexed import IndexedCorpus
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.data.batching import collate
from blankfill.model.view import evaluation_view
from blankfill.types import Int32, Vocabulary

WORDS = 300
"""Number of words that are hidden."""
CONTEXT = 32
"""Largest number of tokens in view on each side of a hidden word."""
COUNTED_TOKENS = 20_000_000
"""Largest number of training tokens from which the baselines are counted."""
PRIOR = 2.0
"""Weight of the frequency of words in the table of neighbours, in occurrences of a pair."""
UNSEEN = 1e-3
"""Occurrences of a token that are added to those counted, so that no share is 0."""
_ROWS = 64
_COUNTED_AT_ONCE = 1 << 20
ScoresOf = Callable[[NDArray[np.int64]], NDArray[np.float64]]


@dataclass(frozen=True)
class HiddenWord:
    """A hidden word. before and after: ids in view around it; id: its token."""

    before: Int32
    id: int
    after: Int32


@dataclass(frozen=True)
class Named:
    """The answers to N hidden words.

    ranks: int64[N], rank of the hidden word among the candidates, from 1. first: int64[N], id of the candidate at rank
    1. probability and own_probability: float64[N], that of the candidate at rank 1 and that of the hidden word, among
    the candidates.
    """

    ranks: NDArray[np.int64]
    first: NDArray[np.int64]
    probability: NDArray[np.float64]
    own_probability: NDArray[np.float64]

    def share(self, most: int) -> float:
        """Return the share of hidden words whose rank is at most `most`."""
        return float((self.ranks <= most).mean())


class HiddenWords:
    """Words hidden in a validation text, and the baselines of a training text; see the module."""

    def __init__(
        self,
        train: IndexedCorpus,
        valid: IndexedCorpus,
        tokenizer: Tokenizer,
        vocabulary: Vocabulary,
        count: int = WORDS,
        context: int = CONTEXT,
        seed: int = 0,
    ) -> None:
        """Draw the words.

        context: largest number of tokens in view on each side. `covered` is the share of the words of the validation
        text among which they were drawn.
        """
        self.candidates = candidates(tokenizer, vocabulary)
        self.words, self.covered = draw(valid, self.candidates, vocabulary, count, context, seed)
        self._train, self._size = train, vocabulary.size

    @property
    def ids(self) -> NDArray[np.int64]:
        """The tokens of the hidden words, int64[N]."""
        return np.array([word.id for word in self.words], np.int64)

    @torch.inference_mode()
    def ask(self, loaded: Loaded) -> Named:
        """Let a model rank the candidates for each hidden word."""
        model = evaluation_view(loaded.language_model)
        device, dtype = model.device, model.dtype
        pad = loaded.vocabulary.roles.get("pad", 0)
        listed = torch.from_numpy(self.candidates).to(device)

        def scores_of(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
            rows = []
            for k in numbers.tolist():
                word = self.words[k]
                text = np.concatenate([word.before, [word.id], word.after]).astype(np.int32)
                rows += loaded.format.open_places(text[None], [len(word.before)])
            batch = collate([[row] for row in rows], pad, multiple=1).to(device)
            logits = model(batch, dtype, logits_at=batch.target_index).logits
            assert isinstance(logits, Tensor)
            scores: NDArray[np.float64] = logits.float()[:, listed].log_softmax(-1).double().cpu().numpy()
            return scores

        lengths = [len(word.before) + len(word.after) for word in self.words]
        return self._named(scores_of, np.argsort(lengths, kind="stable"))

    @cached_property
    def by_frequency(self) -> Named:
        """Rank the candidates by their number in the training text: the same order for each hidden word."""
        scores_C = np.log(self._shares)
        return self._named(lambda numbers: np.broadcast_to(scores_C, (len(numbers), len(scores_C))))

    @property
    def by_word_before(self) -> Named:
        """Rank the candidates by a bigram table of the training text.

        The score of a word w behind the token a is log P(w | a): the share of w among the tokens that follow a, with
        `PRIOR` occurrences distributed by frequency.
        """
        return self._by_pairs[0]

    @property
    def by_neighbours(self) -> Named:
        """Rank the candidates by a bigram table of the training text, read on both sides.

        The score of a word w between the tokens a and b is log P(w | a) + log P(b | w), both as in `by_word_before`.
        """
        return self._by_pairs[1]

    @cached_property
    def _by_pairs(self) -> tuple[Named, Named]:
        """The answers by the word before, and by both neighbours."""
        before = np.array([word.before[-1] if len(word.before) else -1 for word in self.words], np.int64)
        after = np.array([word.after[0] if len(word.after) else -1 for word in self.words], np.int64)
        tokens = self._tokens
        follows, totals, rows_before = self._pairs(tokens[:-1], tokens[1:], before)
        precedes, _, rows_after = self._pairs(tokens[1:], tokens[:-1], after)
        occurrences_C = self._counts[self.candidates]
        smoothed = self._counts + UNSEEN
        share_after = smoothed[np.maximum(after, 0)] / smoothed.sum()

        def of_word_before(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
            rows = rows_before[numbers]
            shares = (follows[rows] + PRIOR * self._shares) / (totals[rows, None] + PRIOR)
            return np.asarray(np.log(shares), np.float64)

        def of_neighbours(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
            given = (precedes[rows_after[numbers]] + PRIOR * share_after[numbers, None]) / (occurrences_C + PRIOR)
            return of_word_before(numbers) + np.where((after[numbers] >= 0)[:, None], np.log(given), 0.0)

        return self._named(of_word_before), self._named(of_neighbours)

    def _pairs(
        self, given: NDArray[np.integer], other: NDArray[np.integer], wanted: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        """Count the pairs of neighbours whose `given` is wanted[n].

        Returns the number of each candidate as the `other` [D, C], the number of all [D], and the row in both of each
        n [N], for the D distinct tokens among `wanted`; -1 there is no token.
        """
        place = np.full(self._size, -1, np.int32)
        place[self.candidates] = np.arange(len(self.candidates))
        distinct, row = np.unique(wanted, return_inverse=True)
        index = np.full(self._size, -1, np.int32)
        index[distinct[distinct >= 0]] = np.flatnonzero(distinct >= 0)
        counts = np.zeros((len(distinct), len(self.candidates)), np.int32)
        flat, totals = counts.reshape(-1), np.zeros(len(distinct), np.int64)
        for start in range(0, len(given), _COUNTED_AT_ONCE):
            part = slice(start, start + _COUNTED_AT_ONCE)
            rows, places = index[given[part]], place[other[part]]
            totals += np.bincount(rows[rows >= 0], minlength=len(distinct))
            used = (rows >= 0) & (places >= 0)
            np.add.at(flat, rows[used].astype(np.int64) * len(self.candidates) + places[used], np.int32(1))
        return counts, totals, row

    @property
    def _tokens(self) -> NDArray[np.integer]:
        """The training tokens from which the baselines are counted."""
        tokens: NDArray[np.integer] = self._train.tokens[:COUNTED_TOKENS]
        return tokens

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        """Number of each token in the training text, int64[V]."""
        tokens, counts = self._tokens, np.zeros(self._size, np.int64)
        for start in range(0, len(tokens), _COUNTED_AT_ONCE):
            counts += np.bincount(tokens[start : start + _COUNTED_AT_ONCE], minlength=self._size)
        return counts

    @cached_property
    def _shares(self) -> NDArray[np.float64]:
        """Share of each candidate among the candidates of the training text, float64[C]."""
        counts = self._counts[self.candidates] + UNSEEN
        return np.asarray(counts / counts.sum(), np.float64)

    def _named(self, scores_of: ScoresOf, order: NDArray[np.int64] | None = None) -> Named:
        """Rank the candidates, for some hidden words at a time.

        scores_of: the scores of the candidates, float64[K, C], for the numbers of K hidden words. order: numbers of all
        hidden words in the order in which they are scored; None: as they come.
        """
        ids, count = self.ids, len(self.words)
        named = Named(np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count), np.empty(count))
        for start in range(0, count, _ROWS):
            numbers = np.arange(count)[start : start + _ROWS] if order is None else order[start : start + _ROWS]
            scores_KC = scores_of(numbers)
            right = np.searchsorted(self.candidates, ids[numbers])
            own = scores_KC[np.arange(len(right)), right]
            # of equal scores, the candidate with the smaller id comes first
            ahead = (scores_KC > own[:, None]) | (
                (scores_KC == own[:, None]) & (np.arange(len(self.candidates)) < right[:, None])
            )
            first, most = scores_KC.argmax(1), scores_KC.max(1)
            probability = 1 / np.exp(scores_KC - most[:, None]).sum(1)
            named.ranks[numbers], named.first[numbers] = 1 + ahead.sum(1), self.candidates[first]
            named.probability[numbers], named.own_probability[numbers] = probability, probability * np.exp(own - most)
        return named


def candidates(tokenizer: Tokenizer, vocabulary: Vocabulary) -> NDArray[np.int64]:
    """Return the ids of the tokens that are a whole word of letters, ascending, int64[C]."""
    starts = vocabulary.word_start
    ids = [id for id in range(vocabulary.size) if id not in vocabulary.special and (starts is None or starts[id])]
    return np.array([id for id in ids if tokenizer.decode([id]).strip().isalpha()], np.int64)


def draw(
    valid: IndexedCorpus, candidates: NDArray[np.int64], vocabulary: Vocabulary, count: int, context: int, seed: int
) -> tuple[list[HiddenWord], float]:
    """Draw words at random from all places of a text where a whole word is one of the candidates.

    context: largest number of tokens in view on each side, within the document. Returns the words in order of the text,
    and the share of such places among the places where a word of letters begins.
    """
    tokens = np.asarray(valid.tokens)
    bounds = valid.document_tokens
    listed = np.zeros(vocabulary.size, np.bool_)
    listed[candidates] = True
    begins = np.ones(len(tokens) + 1, np.bool_)
    if vocabulary.word_start is not None:
        begins[:-1] = vocabulary.word_start[tokens]
        begins[bounds] = True
    is_place = listed[tokens] & begins[1:]
    places = np.flatnonzero(is_place)
    covered = len(places) / max(1, int((listed[tokens] & begins[:-1]).sum()))
    rng = np.random.default_rng(seed)
    picked = np.sort(rng.choice(places, min(count, len(places)), replace=False)) if len(places) else places
    words = []
    for at in picked.tolist():
        document = int(np.searchsorted(bounds, at, "right")) - 1
        begin, end = max(int(bounds[document]), at - context), min(int(bounds[document + 1]), at + context + 1)
        before, after = tokens[begin:at].astype(np.int32), tokens[at + 1 : end].astype(np.int32)
        words.append(HiddenWord(before, int(tokens[at]), after))
    return words, covered
