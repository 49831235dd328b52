"""Filling the blanks of a sentence with any trained model: one call for all families.

*Masked models* (bert, mlm) see the whole sentence at once. A blank is as many [MASK]s as its length; of several blanks
the one whose best fill is the most certain (by mean log-probability of its tokens) is filled first, and the others are
predicted anew with it in place; while a blank waits it is as long as its shortest length. Inside a blank a small beam
fills the most certain token first. When a range of lengths is tried, fills are ranked by mean log-probability.
*XLNet* does the same with query slots in place of [MASK]s (`generation.query_stream`), as it was trained.

*GLM* writes each blank token by token until [E], from left to right, each seeing the ones before it, by beam search; it
finds the lengths itself. A fill's probability is the product of its tokens and [E].

*T5* does as GLM: the blanks are sentinels, and the next sentinel, behind the last blank also the end of the text, ends
a fill.

*GPT* sees only what is to the left. Beam search proposes words, and the whole sentence decides: candidates are ranked
by the likelihood of fill and following text together. Their probabilities are shares among the candidates.
*BART* writes the whole text again: what is known is forced, and beam search proposes fills, each of which ends where
the known text may go on. They are ranked by the likelihood of fill and known text up to the next blank, so that a
proposal counts for what it makes of the text behind it; among the proposals their shares are the probabilities that
the fill has, given what is known up to there.

Rows are framed as in training. Probabilities are the model's over its whole vocabulary; specials are never written.

Shapes: N rows, T columns, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from blankfill.attention.kernels import Mask
from blankfill.errors import UserError
from blankfill.generation.beam import Grammar, beam_search
from blankfill.generation.blanks import HOW, Blank, Candidate, FillResult, Words, assemble, find_blanks, parse_lengths
from blankfill.generation.cancel import CancelFlag, check_cancelled
from blankfill.generation.engine import Decoder, banned, read_sources
from blankfill.generation.query_stream import query_states
from blankfill.generation.rows import (
    bart_context,
    check_room,
    fills,
    glm_part_a,
    needed_roles,
    own_mask,
    parting_token,
    t5_context,
    t5_ends,
)
from blankfill.model.cross import Reading
from blankfill.model.view import evaluation_view
from blankfill.objectives import T5, Bart, Glm, Gpt, Mlm, Xlnet
from blankfill.objectives.glm import glm_input
from blankfill.objectives.gpt import gpt_input
from blankfill.system.reading import mended
from blankfill.types import DecoderInput

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded

LONGEST_WORD = 8
"""Most tokens of a word that GPT proposes."""
LONGEST_FILL = {"mask": 40, "smask": 128, "gmask": 256}
"""Most tokens that GLM, T5 and BART write into a blank; 39 is the longest GLM meets in training at token level."""
SCORED_AT_ONCE = 256
"""How many columns' scores of the whole vocabulary are held at a time."""


def fill(
    loaded: Loaded,
    text: str,
    top_k: int = 5,
    lengths: str | None = None,
    length_penalty: float = 0.0,
    cancel: CancelFlag | None = None,
) -> FillResult:
    """Fill the blanks of a text; see `Filler.fill`. For many texts make one `Filler`."""
    return Filler(loaded).fill(text, top_k, lengths, length_penalty, cancel)


@dataclass(frozen=True)
class _Task:
    """A text taken apart: the ids between its blanks (one run more than blanks), and what each blank may be."""

    text: str
    blanks: tuple[Blank, ...]
    runs: tuple[tuple[int, ...], ...]
    ranges: tuple[tuple[int, int] | None, ...]
    first: tuple[Tensor | None, ...]
    """Of each blank, bool[V]: ids that may not come first."""
    top_k: int
    length_penalty: float
    cancel: CancelFlag | None = None

    @property
    def beams(self) -> int:
        return max(8, 2 * self.top_k)


class Filler:
    """A loaded model that fills blanks; the tables that depend on the vocabulary alone are made once."""

    def __init__(self, loaded: Loaded) -> None:
        """Raises UserError when the model's objective cannot fill, or its tokenizer lacks a token that it needs."""
        check_can_fill(loaded)
        vocabulary = loaded.vocabulary
        self.loaded, self.vocabulary = loaded, vocabulary
        self.model = evaluation_view(loaded.model, lasting=True)
        self.device = self.model.words.weight.device
        rows = self.model.config.vocab_size
        self.parting = parting_token(loaded)
        """The token that stands for blanks in what is encoded; None where there is none."""
        parting = self.parting if loaded.objective.reads_blanks else None
        self.words = Words(loaded.tokenizer, vocabulary, rows, parting)
        self.banned_V = torch.from_numpy(banned(vocabulary, rows)).to(self.device)

    @torch.inference_mode()
    def fill(
        self,
        text: str,
        top_k: int = 5,
        lengths: str | None = None,
        length_penalty: float = 0.0,
        cancel: CancelFlag | None = None,
    ) -> FillResult:
        """Fill the blanks of a text.

        top_k: how many candidates are given for each blank. lengths: how many tokens a blank may have that does not
        say so itself, `"2"` or `"1-3"`; None means 1 for masked models, one word for GPT, and the model's own choice
        for GLM, T5 and BART. length_penalty: above 0, longer fills of GLM and T5 rank higher (see `beam_search`).
        cancel: a flag that is asked before each pass of the model; CancelledError is raised once it is set. Raises
        UserError for a text without blanks, one that is too long for the model, and lengths that say nothing.
        """
        if top_k < 1:
            raise UserError(f"top is {top_k}; it must be at least 1")
        text = mended(text)
        task = replace(self._take_apart(text, top_k, lengths, length_penalty), cancel=cancel)
        objective = self.loaded.objective
        if isinstance(objective, Glm):
            candidates = self._fill_glm(task, objective)
        elif isinstance(objective, Gpt):
            candidates = self._fill_gpt(task)
        elif isinstance(objective, T5):
            candidates = self._fill_t5(task)
        elif isinstance(objective, Bart):
            candidates = self._fill_bart(task)
        else:
            candidates = self._fill_masked(task, objective.position_offset if isinstance(objective, Mlm) else 0)
        for blank, found in zip(task.blanks, candidates, strict=True):
            if not found:
                raise UserError(f"the model finds nothing for {blank.written}; try other lengths")
        shares = "candidates" if isinstance(objective, Gpt | Bart) else "model"
        return FillResult(
            text, assemble(text, task.blanks, [found[0].text for found in candidates]), task.blanks,
            tuple(map(tuple, candidates)), shares, objective.name,
        )  # fmt: skip

    def _take_apart(self, text: str, top_k: int, lengths: str | None, length_penalty: float) -> _Task:
        blanks = find_blanks(text, own_mask(self.loaded))
        if not blanks:
            raise UserError(f"the text has no blank; {HOW}")
        given = parse_lengths(lengths) if lengths is not None else None
        ends = [0, *(blank.end for blank in blanks)]
        starts = [*(blank.start for blank in blanks), len(text)]
        pieces = [text[end:start] for end, start in zip(ends, starts, strict=True)]
        runs = self._encode([self.words.before_blank(piece) for piece in pieces[:-1]] + pieces[-1:])
        first = []
        for blank in blanks:
            may = self.words.may_begin(text[: blank.start])
            first.append(None if may is None else torch.from_numpy(~may).to(self.device))
        ranges = [(blank.length, blank.length) if blank.length else given for blank in blanks]
        return _Task(text, tuple(blanks), runs, tuple(ranges), tuple(first), top_k, length_penalty)

    def _encode(self, pieces: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        tokenizer, mask = self.loaded.tokenizer, self.parting
        if mask is None:
            return tuple(tuple(tokenizer.encode(piece)) for piece in pieces)
        runs: list[list[int]] = [[]]
        for token in tokenizer.encode(tokenizer.token(mask).join(pieces)):
            if token == mask:
                runs.append([])
            else:
                runs[-1].append(token)
        return tuple(map(tuple, runs))

    def _candidate(self, task: _Task, k: int, ids: tuple[int, ...], probability: float, score: float) -> Candidate:
        return Candidate(self.words.read(ids, task.text[: task.blanks[k].start]), ids, probability, score)

    def _fill_masked(self, task: _Task, offset: int) -> list[list[Candidate]]:
        limit = self.model.config.position_sizes[0] - offset
        ranges = [found or (1, 1) for found in task.ranges]
        check_room(2 + sum(map(len, task.runs)) + sum(least for least, _ in ranges), limit)
        fills: list[tuple[int, ...] | None] = [None] * len(task.blanks)
        candidates: list[list[Candidate]] = [[] for _ in task.blanks]
        while None in fills:
            reader = _MaskReader(self, offset)
            best = -1
            for k, fill_k in enumerate(fills):
                if fill_k is not None:
                    continue
                candidates[k] = []
                for length in range(ranges[k][0], ranges[k][1] + 1):
                    row, slots = self._masked_row(task, fills, ranges, k, length)
                    if len(row) > limit:
                        break
                    candidates[k] += self._fill_slots(task, k, row, slots, reader)
                candidates[k].sort(key=lambda candidate: -candidate.score)
                del candidates[k][task.top_k :]
                if candidates[k] and (best < 0 or candidates[k][0].score > candidates[best][0].score):
                    best = k
            if best < 0:
                break
            fills[best] = candidates[best][0].ids
        return candidates

    def _masked_row(
        self,
        task: _Task,
        fills: Sequence[tuple[int, ...] | None],
        ranges: Sequence[tuple[int, int]],
        k: int,
        length: int,
    ) -> tuple[tuple[int, ...], range]:
        mask = self.vocabulary["mask"]
        row = [*([] if isinstance(self.loaded.objective, Xlnet) else [self.vocabulary["cls"]]), *task.runs[0]]
        slots = range(0)
        for j, (fill_j, run) in enumerate(zip(fills, task.runs[1:], strict=True)):
            if j == k:
                slots = range(len(row), len(row) + length)
                row += [mask] * length
            else:
                row += [mask] * ranges[j][0] if fill_j is None else fill_j
            row += run
        row.append(self.vocabulary["sep"])
        if isinstance(self.loaded.objective, Xlnet):
            row.append(self.vocabulary["cls"])
        return tuple(row), slots

    def _fill_slots(
        self, task: _Task, k: int, row: tuple[int, ...], slots: range, reader: _MaskReader
    ) -> list[Candidate]:
        beams = task.beams if len(slots) > 1 else task.top_k
        states = {row: 0.0}
        for _ in slots:
            check_cancelled(task.cancel)
            grown: dict[tuple[int, ...], float] = {}
            for state, scores_by_slot in zip(states, reader.read(list(states)), strict=True):
                open_slots = [slot for slot in slots if state[slot] == reader.mask]
                scores_SV = torch.stack([scores_by_slot[slot] for slot in open_slots])
                scores_SV = scores_SV.masked_fill(self.banned_V, -math.inf)
                first = task.first[k]
                if first is not None and open_slots[0] == slots[0]:
                    scores_SV[0].masked_fill_(first, -math.inf)
                surest = int(scores_SV.amax(-1).argmax())
                best = scores_SV[surest].topk(min(beams, scores_SV.shape[-1]))
                at = open_slots[surest]
                for score, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                    if score > -math.inf:
                        new = (*state[:at], token, *state[at + 1 :])
                        grown[new] = max(grown.get(new, -math.inf), states[state] + score)
            states = dict(sorted(grown.items(), key=lambda item: -item[1])[:beams])
        return [
            self._candidate(task, k, state[slots[0] : slots[-1] + 1], math.exp(total), total / len(slots))
            for state, total in states.items()
        ]

    def _fill_glm(self, task: _Task, objective: Glm) -> list[list[Candidate]]:
        part_a, places = glm_part_a(self.loaded, objective, task.runs, [blank.role for blank in task.blanks])
        tables = self.model.config.position_sizes
        check_room(len(part_a), tables[0])
        sop, eop, eos = (self.vocabulary[role] for role in ("sop", "eop", "eos"))

        def context(k: int, written: Sequence[tuple[int, ...]]) -> DecoderInput:
            return glm_input(part_a, list(zip(places, written, strict=False)), places[k], sop, tables)

        def ends(k: int) -> list[int]:
            return [eop, eos] if places[k] == len(part_a) - 1 else [eop]

        return self._write_blanks(task, context, ends)

    def _fill_t5(self, task: _Task) -> list[list[Candidate]]:
        def context(k: int, written: Sequence[tuple[int, ...]]) -> DecoderInput:
            return t5_context(self.vocabulary, task.runs, written)

        reading = read_sources(self.model, [context(0, ())])
        return self._write_blanks(task, context, lambda k: t5_ends(self.vocabulary, k, len(task.blanks)), reading)

    def _write_blanks(
        self,
        task: _Task,
        context_of: Callable[[int, Sequence[tuple[int, ...]]], DecoderInput],
        ends_of: Callable[[int], list[int]],
        reading: Reading | None = None,
    ) -> list[list[Candidate]]:
        """Blanks written one after the other, each seeing the best fills of those before it. context_of: what is read
        before blank k, given those; ends_of: the tokens that end it."""
        written: list[tuple[int, ...]] = []
        candidates = []
        for k, blank in enumerate(task.blanks):
            context = context_of(k, written)
            least, most = task.ranges[k] or (1, LONGEST_FILL[blank.role])
            if least > context.room:
                raise UserError(f"{blank.written} asks for {least} tokens, and the model writes at most {context.room}")
            most = min(most, context.room)
            grammar = self._ending_with(ends_of(k), task.first[k], least)
            decoder = Decoder(self.model, [context], most, self.vocabulary["pad"], reading)
            (found,) = beam_search(decoder, task.beams, grammar, most, task.length_penalty, cancel=task.cancel)
            kept = distinct(
                [self._candidate(task, k, h.ids, math.exp(h.log_probability), h.score) for h in found]
            )[: task.top_k]  # fmt: skip
            candidates.append(kept)
            if not kept:
                break
            written.append(kept[0].ids)
        return candidates + [[] for _ in task.blanks[len(candidates) :]]

    def _ending_with(self, ends: Sequence[int], first: Tensor | None, least: int) -> Grammar:
        def grammar(scores_NV: Tensor, count: int) -> tuple[Tensor, Tensor]:
            end_N = scores_NV[:, sorted(set(ends))].logsumexp(-1)
            if count < least:
                end_N = torch.full_like(end_N, -math.inf)
            allowed_NV = scores_NV.masked_fill(self.banned_V, -math.inf)
            if count == 0 and first is not None:
                allowed_NV = allowed_NV.masked_fill(first, -math.inf)
            return allowed_NV, end_N

        return grammar

    def _fill_gpt(self, task: _Task) -> list[list[Candidate]]:
        (table,) = self.model.config.position_sizes
        left = [self.vocabulary["eos"], *task.runs[0]]
        ranges = [found or (1, LONGEST_WORD) for found in task.ranges]

        def grammar(k: int) -> Grammar:
            return self._ending_at_a_word(task.first[k], ranges[k][0], whole_word=task.ranges[k] is None)

        def context(begun: Sequence[int]) -> DecoderInput:
            return gpt_input(begun, table)

        return self._rank_blanks(task, left, task.runs[1:], ranges, table, context, grammar)

    def _fill_bart(self, task: _Task) -> list[list[Candidate]]:
        frame = [self.vocabulary["sep"], self.vocabulary["cls"]]
        rights = [*task.runs[1:-1], (*task.runs[-1], self.vocabulary["sep"])]
        ranges = [found or (1, LONGEST_FILL["mask"]) for found in task.ranges]
        reading = read_sources(self.model, [bart_context(self.loaded, task.runs, ())])

        def grammar(k: int) -> Grammar:
            if rights[k]:
                return self._ending_with(rights[k][:1], task.first[k], ranges[k][0])
            return self._ending_at_a_word(task.first[k], ranges[k][0], whole_word=task.ranges[k] is None)

        def context(begun: Sequence[int]) -> DecoderInput:
            return bart_context(self.loaded, task.runs, begun[len(frame) :])

        limit = len(frame) + context(frame).room
        return self._rank_blanks(task, [*frame, *task.runs[0]], rights, ranges, limit, context, grammar, reading)

    def _rank_blanks(
        self,
        task: _Task,
        left: list[int],
        rights: Sequence[Sequence[int]],
        ranges: Sequence[tuple[int, int]],
        limit: int,
        context_of: Callable[[Sequence[int]], DecoderInput],
        grammar_of: Callable[[int], Grammar],
        reading: Reading | None = None,
    ) -> list[list[Candidate]]:
        """Blanks filled one after the other: what beam search proposes is ranked together with the known text behind.

        left: the row before the first blank; rights: what follows each blank, up to the next; limit: the longest row;
        context_of: a row, as it is read; grammar_of: what may stand in blank k.
        """
        least_of = [least if found else 1 for found, (least, _) in zip(task.ranges, ranges, strict=True)]
        spare = limit - len(left) - sum(map(len, rights))
        check_room(limit - spare + sum(least_of), limit)
        candidates: list[list[Candidate]] = []
        for k, right in enumerate(rights):
            most = min(ranges[k][1], spare - sum(least_of[k + 1 :]))
            context = context_of(left)
            decoder = Decoder(self.model, [context], most, reading=reading)
            (found,) = beam_search(decoder, max(16, 4 * task.top_k), grammar_of(k), most, cancel=task.cancel)
            totals = [hypothesis.log_probability for hypothesis in found]
            if right and found:
                totals = self._likelihoods(context, [(*hypothesis.ids, *right) for hypothesis in found], reading)
            whole = np.logaddexp.reduce(totals) if totals else 0.0
            kept = [
                self._candidate(task, k, hypothesis.ids, math.exp(total - whole), total)
                for hypothesis, total in zip(found, totals, strict=True)
            ]
            kept = distinct(sorted(kept, key=lambda candidate: -candidate.score))[: task.top_k]
            candidates.append(kept)
            if not kept:
                break
            left = [*left, *kept[0].ids, *right]
            spare -= len(kept[0].ids)
        return candidates + [[] for _ in task.blanks[len(candidates) :]]

    def _ending_at_a_word(self, first: Tensor | None, least: int, whole_word: bool) -> Grammar:
        begins_V = torch.from_numpy(self.words.begins).to(self.device).clone()
        begins_V[self.vocabulary.size :] = False
        begins_V[self.vocabulary["eos"]] = True

        def grammar(scores_NV: Tensor, count: int) -> tuple[Tensor, Tensor]:
            end_N = scores_NV.masked_fill(~begins_V, -math.inf).logsumexp(-1)
            if count < least:
                end_N = torch.full_like(end_N, -math.inf)
            allowed_NV = scores_NV.masked_fill(self.banned_V, -math.inf)
            if count == 0 and first is not None:
                allowed_NV = allowed_NV.masked_fill(first, -math.inf)
            if count > 0 and whole_word:
                allowed_NV = allowed_NV.masked_fill(begins_V, -math.inf)
            return allowed_NV, end_N

        return grammar

    def _likelihoods(
        self, context: DecoderInput, endings: Sequence[tuple[int, ...]], reading: Reading | None
    ) -> list[float]:
        """The log-probability of each ending behind a row that is read from left to right."""
        left = context.input_ids.tolist()
        width = len(left) + max(map(len, endings)) - 1
        ids_NT = torch.zeros((len(endings), width), dtype=torch.int64)
        rows: list[int] = []
        columns: list[int] = []
        answers: list[int] = []
        for row, ending in enumerate(endings):
            whole = [*left, *ending]
            ids_NT[row, : len(whole) - 1] = torch.tensor(whole[:-1])
            rows += [row] * len(ending)
            columns += range(len(left) - 1, len(whole) - 1)
            answers += ending
        ids_NT = ids_NT.to(self.device)
        first = int(context.positions[0, 0])
        positions = torch.arange(first, first + width, device=self.device).expand(1, len(endings), width)
        hidden_NTD = self.model(ids_NT, positions, Mask("causal"), context=reading)
        hidden_MD = hidden_NTD[rows, columns]
        target_M1 = torch.tensor(answers, device=self.device)[:, None]
        totals = np.zeros(len(endings))
        for at in range(0, len(answers), SCORED_AT_ONCE):
            part = slice(at, at + SCORED_AT_ONCE)
            scores_MV = self.model.head.logits(hidden_MD[part], self.model.output_table).float().log_softmax(-1)
            np.add.at(totals, rows[part], scores_MV.gather(1, target_M1[part])[:, 0].double().cpu().numpy())
        return [float(total) for total in totals]


class _MaskReader:
    """Scores of the masked columns of rows; a row that was read before is not read again."""

    def __init__(self, filler: Filler, offset: int) -> None:
        self.filler, self.offset = filler, offset
        self.mask = filler.vocabulary["mask"]
        self._known: dict[tuple[int, ...], dict[int, Tensor]] = {}

    def read(self, rows: list[tuple[int, ...]]) -> list[dict[int, Tensor]]:
        """For each row (all of one length) the log-probabilities [V] of its masked columns, by column."""
        new = [row for row in rows if row not in self._known]
        if new:
            model = self.filler.model
            ids_NT = torch.tensor(new, device=self.filler.device)
            open_NT = ids_NT == self.mask
            at_M2 = open_NT.nonzero()
            scores_MV = model.head.logits(self._states(ids_NT, open_NT), model.output_table).float()
            scores_MV = scores_MV.log_softmax(-1)
            for row in new:
                self._known[row] = {}
            for m, (n, column) in enumerate(at_M2.tolist()):
                self._known[new[n]][column] = scores_MV[m]
        return [self._known[row] for row in rows]

    def _states(self, ids_NT: Tensor, open_NT: Tensor) -> Tensor:
        """Hidden states of the masked columns, [M, D]."""
        model = self.filler.model
        if isinstance(self.filler.loaded.objective, Xlnet):
            return query_states(model, ids_NT, open_NT)
        positions = torch.zeros(
            (len(model.config.position_sizes), *ids_NT.shape), dtype=torch.int64, device=ids_NT.device
        )
        positions[0] = torch.arange(self.offset, self.offset + ids_NT.shape[1], device=ids_NT.device)
        hidden_NTD: Tensor = model(ids_NT, positions, Mask("none"))
        return hidden_NTD[open_NT]


def check_can_fill(loaded: Loaded) -> None:
    """UserError when the model's objective cannot fill blanks, or its tokenizer lacks a token that it needs."""
    objective, vocabulary = loaded.objective, loaded.vocabulary
    if not fills(objective):
        learnt = {"t5": "variant", "bart": "replace"}.get(objective.name)
        told = f" with {learnt} {getattr(objective, learnt)}" if learnt else ""
        raise UserError(f"{loaded.path}: a model of the objective {objective.name}{told} cannot fill blanks")
    if not loaded.model.config.word_head:
        raise UserError(
            f"{loaded.path}: the model is an encoder without a word head, so it cannot fill blanks; "
            "give a model with its masked-language-model head"
        )
    needed = needed_roles(objective) if isinstance(objective, Glm) else objective.roles
    if missing := vocabulary.missing(needed, int(isinstance(objective, T5))):
        raise UserError(
            f"{loaded.path}: the tokenizer has no token for {', '.join(missing)}, without which a model of the "
            f"objective {objective.name} cannot fill blanks; use the tokenizer that the model was trained with"
        )


def distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates without later ones of the same text."""
    kept: dict[str, Candidate] = {}
    for candidate in candidates:
        kept.setdefault(candidate.text, candidate)
    return list(kept.values())
