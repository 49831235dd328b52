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
        device, dtype = model.token_embeddings.weight.device, model.token_embeddings.weight.dtype
        pad = loaded.vocabulary.roles.get("pad", 0)
        listed = torch.from_numpy(self.candidates).to(device)
        scores: list[Tensor] = []
        order = sorted(range(len(self.words)), key=lambda k: len(self.words[k].before) + len(self.words[k].after))
        for start in range(0, len(order), _ROWS):
            rows = []
            for k in order[start : start + _ROWS]:
                word = self.words[k]
                text = np.concatenate([word.before, [word.id], word.after]).astype(np.int32)
                rows += loaded.format.open_places(text[None], [len(word.before)])
            batch = collate([[row] for row in rows], pad, multiple=1).to(device)
            logits = model(batch, dtype, logits_at=batch.target_index).logits
            assert isinstance(logits, Tensor)
            scores.append(logits.float()[:, listed].log_softmax(-1).double().cpu())
        scores_NC = np.empty((len(order), len(self.candidates)))
        scores_NC[order] = torch.cat(scores).numpy()
        return self._named(scores_NC)

    @cached_property
    def by_frequency(self) -> Named:
        """Rank the candidates by their number in the training text: the same order for each hidden word."""
        shares = self._shares()
        return self._named(np.log(shares)[None].repeat(len(self.words), 0))

    @cached_property
    def by_word_before(self) -> Named:
        """Rank the candidates by a bigram table of the training text.

        The score of a word w behind the token a is log P(w | a): the share of w among the tokens that follow a, with
        `PRIOR` occurrences distributed by frequency.
        """
        return self._named(self._scores_after())

    @cached_property
    def by_neighbours(self) -> Named:
        """Rank the candidates by a bigram table of the training text, read on both sides.

        The score of a word w between the tokens a and b is log P(w | a) + log P(b | w), both as in `by_word_before`.
        """
        after = np.array([word.after[0] if len(word.after) else -1 for word in self.words], np.int64)
        tokens, shares = self._tokens(), self._counts() + UNSEEN
        share_b = shares[np.maximum(after, 0)] / shares.sum()
        precedes, _ = self._pairs(tokens[1:], tokens[:-1], after)
        given = (precedes + PRIOR * share_b[:, None]) / (self._counts()[self.candidates] + PRIOR)
        return self._named(self._scores_after() + np.where((after >= 0)[:, None], np.log(given), 0.0))

    def _scores_after(self) -> NDArray[np.float64]:
        """Return log P(candidate | token before the hidden word), float64[N, C]."""
        before = np.array([word.before[-1] if len(word.before) else -1 for word in self.words], np.int64)
        tokens = self._tokens()
        follows, total = self._pairs(tokens[:-1], tokens[1:], before)
        return np.asarray(np.log((follows + PRIOR * self._shares()) / (total[:, None] + PRIOR)), np.float64)

    def _pairs(
        self, given: NDArray[np.integer], other: NDArray[np.integer], wanted: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Count pairs of neighbours whose `given` is wanted[n]: each candidate as the `other` [N, C], and all [N]."""
        place = np.full(self._size, -1, np.int64)
        place[self.candidates] = np.arange(len(self.candidates))
        distinct, row = np.unique(wanted, return_inverse=True)
        index = np.full(self._size, -1, np.int64)
        index[distinct[distinct >= 0]] = np.flatnonzero(distinct >= 0)
        rows = index[given]
        counts = np.zeros((len(distinct), len(self.candidates)))
        totals = np.bincount(rows[rows >= 0], minlength=len(distinct)).astype(np.float64)
        used = (rows >= 0) & (place[other] >= 0)
        np.add.at(counts, (rows[used], place[other[used]]), 1)
        return counts[row], totals[row]

    def _tokens(self) -> NDArray[np.integer]:
        tokens: NDArray[np.integer] = self._train.tokens[:COUNTED_TOKENS]
        return tokens

    def _counts(self) -> NDArray[np.int64]:
        return np.bincount(self._tokens(), minlength=self._size)

    def _shares(self) -> NDArray[np.float64]:
        counts = self._counts()[self.candidates] + UNSEEN
        return np.asarray(counts / counts.sum(), np.float64)

    def _named(self, scores_NC: NDArray[np.float64]) -> Named:
        right = np.searchsorted(self.candidates, self.ids)
        own = scores_NC[np.arange(len(right)), right]
        # of equal scores, the candidate with the smaller id comes first
        ahead = (scores_NC > own[:, None]) | (
            (scores_NC == own[:, None]) & (np.arange(len(self.candidates)) < right[:, None])
        )
        first = scores_NC.argmax(1)
        most = scores_NC.max(1)
        probability = 1 / np.exp(scores_NC - most[:, None]).sum(1)
        return Named(1 + ahead.sum(1), self.candidates[first], probability, probability * np.exp(own - most))


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
