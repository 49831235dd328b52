"""Filling the blanks of a text with any trained model, through one call for all families.

The objective's format chooses the method (`Format.fill_method`): prediction at open places of the text (`fill_places`),
or generation with or without ranking by the text after the blank (`fill_written`). Rows have the special tokens of
training. Probabilities are the model's over its whole vocabulary; special tokens are never generated.

Not here: how a user writes blanks (`blanks`), continuing a text (`write`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blankfill.errors import UserError, setting
from blankfill.generation.blanks import (
    HOW,
    Blank,
    Candidate,
    FillResult,
    Words,
    assemble,
    blank_token,
    find_blanks,
    own_mask,
    parse_lengths,
)
from blankfill.generation.cancel import CancelFlag, CancelledError
from blankfill.generation.engine import banned
from blankfill.generation.fill_places import fill_places
from blankfill.generation.fill_written import fill_by_ranking, fill_by_writing
from blankfill.model.view import evaluation_view
from blankfill.system.reading import mended

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded


FillTexts = Callable[["Filler", Sequence["BlankedText"]], list[list[list[Candidate]] | Exception]]


@dataclass(frozen=True)
class BlankedText:
    """A text split at its blanks.

    runs: ids between the blanks, one run more than blanks. ranges: smallest and largest number of tokens of each blank;
    None when neither the blank nor the caller gives it. first: for each blank, bool[V], ids that may not come first;
    None when all may. cancel: a flag that is checked before each pass of the model.
    """

    text: str
    blanks: tuple[Blank, ...]
    runs: tuple[tuple[int, ...], ...]
    ranges: tuple[tuple[int, int] | None, ...]
    first: tuple[Tensor | None, ...]
    top_k: int
    length_penalty: float
    cancel: CancelFlag | None = None

    @property
    def roles(self) -> list[str]:
        """The kind of each blank."""
        return [blank.role for blank in self.blanks]

    @property
    def beams(self) -> int:
        """Beam width."""
        return max(8, 2 * self.top_k)


class Filler:
    """Fills blanks with a loaded model; tables that depend only on the vocabulary are made once."""

    def __init__(self, loaded: Loaded) -> None:
        """Raises UserError when the model's objective cannot fill, or its tokenizer lacks a token that it needs."""
        check_can_fill(loaded)
        vocabulary, objective = loaded.vocabulary, loaded.objective
        self.loaded, self.vocabulary, self.format = loaded, vocabulary, loaded.format
        self.model = evaluation_view(loaded.language_model, lasting=True)
        self.device = self.model.device
        rows = self.model.config.vocab_size
        self.blank_token = blank_token(objective, vocabulary)
        self.words = Words(loaded.tokenizer, vocabulary, rows, self.blank_token if objective.reads_blanks else None)
        self.banned_V = torch.from_numpy(banned(vocabulary, rows)).to(self.device)
        self.inside_V = torch.from_numpy(~self.words.begins).to(self.device)
        """Ids that do not begin a word; `BlankedText.first` of every blank that begins one."""

    def fill(
        self,
        text: str,
        top_k: int = 5,
        lengths: str | None = None,
        length_penalty: float = 0.0,
        cancel: CancelFlag | None = None,
    ) -> FillResult:
        """Fill the blanks of a text.

        top_k: number of candidates for each blank. lengths: number of tokens of blanks without a number of their own,
        `"2"` or `"1-3"`; None means 1 for masked models, one word for GPT, and the model's own choice for GLM, T5 and
        BART. length_penalty: above 0, longer fills of GLM and T5 rank higher (see `beam_search`). cancel: a flag that
        is checked before each pass of the model; once it is set, CancelledError is raised. Raises UserError for a text
        without blanks, a text that is too long for the model, and lengths that cannot be read.
        """
        (result,) = self.fill_blanked([self.prepare(text, top_k, lengths, length_penalty, cancel)])
        if isinstance(result, Exception):
            raise result
        return result

    def fill_many(
        self,
        texts: Sequence[str],
        top_k: int = 5,
        lengths: str | None = None,
        length_penalty: float = 0.0,
        cancel: CancelFlag | None = None,
    ) -> list[FillResult]:
        """Fill the blanks of several texts, each as `fill` does. Masked models and XLNet read all texts together;
        the texts of other models are filled one after another. Raises the error of the first text that has one."""
        prepared = [self.prepare(text, top_k, lengths, length_penalty, cancel) for text in texts]
        results = []
        for result in self.fill_blanked(prepared):
            if isinstance(result, Exception):
                raise result
            results.append(result)
        return results

    def prepare(
        self,
        text: str,
        top_k: int = 5,
        lengths: str | None = None,
        length_penalty: float = 0.0,
        cancel: CancelFlag | None = None,
    ) -> BlankedText:
        """Return a text as `fill_blanked` takes it; the arguments and errors of `fill`. It computes nothing with the
        model, so any thread may call it."""
        if top_k < 1:
            raise UserError(f"{setting('top_k', flag='top')} is {top_k}; it must be at least 1")
        return replace(self.take_apart(mended(text), top_k, lengths, length_penalty), cancel=cancel)

    @torch.inference_mode()
    def fill_blanked(self, texts: Sequence[BlankedText]) -> list[FillResult | Exception]:
        """Fill texts that `prepare` has made. The error of a text, UserError or CancelledError, stands in its place."""
        results: list[FillResult | Exception] = []
        for blanked, candidates in zip(texts, FILL[self.format.fill_method](self, texts), strict=True):
            results.append(candidates if isinstance(candidates, Exception) else self._result(blanked, candidates))
        return results

    def _result(self, blanked: BlankedText, candidates: Sequence[Sequence[Candidate]]) -> FillResult | UserError:
        for blank, fills in zip(blanked.blanks, candidates, strict=True):
            if not fills:
                return UserError(f"the model finds nothing for {blank.written}; try other lengths")
        shares = "candidates" if self.format.fill_method == "ranking" else "model"
        return FillResult(
            blanked.text, assemble(blanked.text, blanked.blanks, [fills[0].text for fills in candidates]),
            blanked.blanks, tuple(map(tuple, candidates)), shares, self.loaded.objective.name,
        )  # fmt: skip

    def take_apart(self, text: str, top_k: int, lengths: str | None, length_penalty: float) -> BlankedText:
        """Split a text at its blanks, and return the ids between them and the constraints of each blank."""
        blanks = find_blanks(text, own_mask(self.loaded.tokenizer, self.vocabulary))
        if not blanks:
            raise UserError(f"the text has no blank; {HOW}")
        if len(blanks) > (most := self.format.max_columns):
            raise UserError(f"the text has {len(blanks):,} blanks, and the model reads {most:,} tokens; shorten it")
        given = parse_lengths(lengths) if lengths is not None else None
        ends = [0, *(blank.end for blank in blanks)]
        starts = [*(blank.start for blank in blanks), len(text)]
        pieces = [text[end:start] for end, start in zip(ends, starts, strict=True)]
        runs = self._encode([self.words.before_blank(piece) for piece in pieces[:-1]] + pieces[-1:])
        first = []
        for blank in blanks:
            may = self.words.may_begin(text[: blank.start])
            first.append(None if may is None else self.inside_V)
        ranges = [(blank.length, blank.length) if blank.length else given for blank in blanks]
        return BlankedText(text, tuple(blanks), runs, tuple(ranges), tuple(first), top_k, length_penalty)

    def _encode(self, pieces: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        tokenizer, mask = self.loaded.tokenizer, self.blank_token
        if mask is None:
            return tuple(tuple(tokenizer.encode(piece)) for piece in pieces)
        runs: list[list[int]] = [[]]
        for token in tokenizer.encode(tokenizer.token(mask).join(pieces), inline=True):
            if token == mask:
                runs.append([])
            else:
                runs[-1].append(token)
        return tuple(map(tuple, runs))

    def candidate(
        self, blanked: BlankedText, k: int, ids: tuple[int, ...], probability: float, score: float
    ) -> Candidate:
        """Return a fill of blank k as it reads in the text."""
        return Candidate(self.words.read(ids, blanked.text[: blanked.blanks[k].start]), ids, probability, score)


def _each(fill: Callable[[Filler, BlankedText], list[list[Candidate]]]) -> FillTexts:
    """Return the function that fills texts one after another."""

    def fill_each(filler: Filler, texts: Sequence[BlankedText]) -> list[list[list[Candidate]] | Exception]:
        results: list[list[list[Candidate]] | Exception] = []
        for blanked in texts:
            try:
                results.append(fill(filler, blanked))
            except (UserError, CancelledError) as error:
                results.append(error)
        return results

    return fill_each


FILL: dict[str, FillTexts] = {
    "places": fill_places, "writing": _each(fill_by_writing), "ranking": _each(fill_by_ranking),
}  # fmt: skip
"""The candidates of each blank of each text, best first, by `Format.fill_method`; a text's error stands in its
place."""


def check_can_fill(loaded: Loaded) -> None:
    """Raise UserError when the model's objective cannot fill blanks, or its tokenizer lacks a token that it needs."""
    objective = loaded.objective
    if not objective.fills:
        learnt = objective.fill_option
        option = f" with {learnt} {getattr(objective, learnt)}" if learnt else ""
        raise UserError(f"{loaded.path}: a model of the objective {objective.name}{option} cannot fill blanks")
    if not loaded.model.config.lm_head:
        raise UserError(
            f"{loaded.path}: the model is a bare encoder without a language-model head, so it cannot fill blanks; "
            "give a model with its masked-language-model head"
        )
    loaded.check_tokens("fill", f"without which a model of the objective {objective.name} cannot fill blanks")
