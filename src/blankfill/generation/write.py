"""Writing text: continue a prompt, or write a blank at length, in pieces as they come.

GPT, UniLM and BART continue the prompt; BART reads it with a mask behind it, and writes it again before it goes on. GLM
and T5 write the prompt's one blank; where the prompt has none, one is put at its end, for GLM a document blank.

Text comes out in whole words and whole characters: a piece is held back until what follows can no longer change it.
Several rows are decoded together; each has its own random numbers, so that sample 3 of 8 is sample 3 of 4.

A model has a position table and cannot write past it. Generation ends there with the reason "positions", or, for GPT on
request, slides: the older half of the window is forgotten and the rest read again.

Not here: best fills with probabilities (`fill`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from blankfill.errors import UserError
from blankfill.generation.blanks import Words, find_blanks
from blankfill.generation.engine import Decoder, banned
from blankfill.generation.rows import (
    bart_context,
    check_room,
    end_tokens,
    fills,
    glm_part_a,
    longest_role,
    needed_roles,
    own_mask,
    t5_context,
    writes_on,
)
from blankfill.generation.sampling import Sampler, Sampling
from blankfill.model.transformer import Transformer
from blankfill.objectives import T5, Bart, Glm, Gpt, MaskWriter
from blankfill.objectives.glm import glm_input
from blankfill.objectives.gpt import gpt_input
from blankfill.objectives.query_tokens import query_input
from blankfill.objectives.two_stacks import two_stack_input
from blankfill.types import DecoderInput

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded
    from blankfill.corpus.tokenizer import Tokenizer

_IDEOGRAPHS = "\u2e80-\u9fff\uf900-\uffef\U00020000-\U0003ffff"
_UNFINISHED = re.compile(rf"\s*[^\s{_IDEOGRAPHS}]*$")
_LONGEST_HELD = 80
_WINDOW = 256


@dataclass(frozen=True)
class Generation:
    """What one row wrote.

    text: the new text alone; whole: the prompt with it in its place. finish: "end" (the model ended it), "length"
    (max_tokens were written), or "positions" (the model has no more).
    """

    prompt: str
    text: str
    whole: str
    ids: tuple[int, ...]
    finish: str

    def to_json(self) -> dict[str, Any]:
        """The generation as plain values for `json.dumps`."""
        return {
            "prompt": self.prompt,
            "text": self.text,
            "whole": self.whole,
            "tokens": len(self.ids),
            "finish": self.finish,
        }


def generate(
    loaded: Loaded, prompt: str, max_tokens: int = 100, sampling: Sampling | None = None, slide: bool = False
) -> Iterator[str]:
    """Write after a prompt (or in its blank), yielding pieces of text as they come.

    Joined, the pieces are the text written, without the prompt. max_tokens: the most tokens written. slide: GPT goes on
    past its position table, forgetting what is oldest. Raises UserError, at the call, for a model that cannot write
    (bert, mlm), a prompt too long for it, more than one blank, or sampling values out of range.
    """
    writer = Writer(loaded, [prompt], max_tokens, sampling or Sampling(), slide)
    return (piece for pieces in writer.run() for piece in pieces if piece)


def generate_many(
    loaded: Loaded,
    prompts: Sequence[str],
    max_tokens: int = 100,
    sampling: Sampling | None = None,
    slide: bool = False,
) -> list[Generation]:
    """Write after several prompts at once (one several times for several samples); as `generate`, for each."""
    if not prompts:
        return []
    writer = Writer(loaded, prompts, max_tokens, sampling or Sampling(), slide)
    return writer.finish_all()


@torch.inference_mode()
def next_scores(decoder: Decoder, ids: Sequence[int] | None) -> torch.Tensor:
    """Scores [B, V] after the contexts (ids None) or after one more token of each row."""
    return decoder.prefill() if ids is None else decoder.step(torch.tensor(ids, device=decoder.device))


def decode_rows(
    model: Transformer,
    contexts: Sequence[DecoderInput],
    sampler: Sampler,
    ends: Sequence[int],
    max_tokens: int,
    pad: int = 0,
) -> Iterator[list[int | None]]:
    """Rows of tokens, one step at a time: each row's new id, None once it has ended (with an id of `ends`).

    Stops when all rows have ended, after max_tokens steps, or when a position table is full.
    """
    decoder = Decoder(model, contexts, max(0, max_tokens - 1), pad)
    running = [True] * len(contexts)
    ids: list[int] | None = None
    for _ in range(max_tokens):
        if ids is not None and decoder.room == 0:
            return
        ids = sampler(next_scores(decoder, ids))
        running = [alive and token not in ends for alive, token in zip(running, ids, strict=True)]
        yield [token if alive else None for alive, token in zip(running, ids, strict=True)]
        if not any(running):
            return


class Writer:
    """One generation: prompts → contexts, tokens → pieces of text. `run` it once; then `written` and `finish` tell."""

    def __init__(
        self, loaded: Loaded, prompts: Sequence[str], max_tokens: int, sampling: Sampling, slide: bool
    ) -> None:
        sampling.check()
        if max_tokens < 1:
            raise UserError(f"max-tokens is {max_tokens}; it must be at least 1")
        self.loaded, self.max_tokens, self.sampling = loaded, max_tokens, sampling
        objective, vocabulary = loaded.objective, loaded.vocabulary
        if not writes_on(objective):
            can = 'fills blanks but does not write on; use `blankfill fill "… [MASK] …"`, or'
            can = can if fills(objective) else "with these options does not write on;"
            raise UserError(
                f"{loaded.path}: a model of the objective {objective.name} {can} train a model with the objective gpt, "
                "glm, unilm, t5 or bart"
            )
        if missing := vocabulary.missing(needed_roles(objective), int(isinstance(objective, T5) and fills(objective))):
            raise UserError(
                f"{loaded.path}: the tokenizer has no token for {', '.join(missing)}, which generation needs; "
                "use the tokenizer that the model was trained with"
            )
        if slide and not isinstance(objective, Gpt):
            raise UserError("only a gpt model can slide past its positions; leave --slide out")
        self.slide = slide
        rows = loaded.model.config.vocab_size
        self.ends = end_tokens(objective, vocabulary)
        self.banned_V = torch.from_numpy(banned(vocabulary, rows, keep=self.ends))
        self.banned_V = self.banned_V.to(loaded.model.words.weight.device)
        self.words = Words(loaded.tokenizer, vocabulary, rows)
        self.prompts = list(prompts)
        self.contexts: list[DecoderInput] = []
        self.before: list[list[int]] = []
        self.trimmed: list[bool] = []
        self.frames: list[tuple[str, str]] = []
        for prompt in prompts:
            self._read(prompt)
        self.written: list[list[int]] = [[] for _ in prompts]
        self.finish = ["length"] * len(prompts)

    def _read(self, prompt: str) -> None:
        loaded = self.loaded
        tokenizer, vocabulary, objective = loaded.tokenizer, loaded.vocabulary, loaded.objective
        tables = loaded.model.config.position_sizes
        start, end, role = self._place(prompt)
        source = prompt[:start]
        before = tokenizer.encode(self.words.before_blank(source))
        if isinstance(objective, Gpt):
            ids = [vocabulary["eos"], *before]
            if self.slide:
                ids = ids[-tables[0] :]
            check_room(len(ids), tables[0])
            context = gpt_input(ids, tables[0])
        elif isinstance(objective, MaskWriter):
            ids = [vocabulary["cls"], *before]
            check_room(len(ids) + 1, tables[0])
            types, asks = (objective.continuation_type, objective.continuation_type), vocabulary[objective.query_role]
            context = query_input(ids, tables[0], asks, types, objective.bidirectional_prompt)
        elif isinstance(objective, Bart):
            context = bart_context(loaded, [before, ()], before)
        elif isinstance(objective, Glm):
            runs = [before, tokenizer.encode(prompt[end:])]
            part_a, (place,) = glm_part_a(loaded, objective, runs, [role or longest_role(objective)])
            check_room(len(part_a), tables[0])
            context = glm_input(part_a, [], place, vocabulary["sop"], tables)
        elif fills(objective):
            context = t5_context(vocabulary, [before, tokenizer.encode(prompt[end:])], ())
        else:
            context = two_stack_input([*before, vocabulary["eos"]], [vocabulary["pad"]])
        self.contexts.append(context)
        self.frames.append((source, prompt[end:]))
        self.before.append(before)
        self.trimmed.append(source.endswith(" ") or (source[-1:].isspace() and not self.words.spaced))

    def _place(self, prompt: str) -> tuple[int, int, str]:
        """Where the text is to stand: the characters of the prompt's blank and its role; the prompt's end and "" where
        the model continues prompts, or there is no blank."""
        objective, mask = self.loaded.objective, own_mask(self.loaded)
        if objective.refuses_prompt_blanks and find_blanks(prompt, mask):
            raise UserError(
                f"the prompt has a blank, and a {objective.name} model continues behind it; use `blankfill fill`"
            )
        if not isinstance(objective, Glm) and not (isinstance(objective, T5) and fills(objective)):
            return len(prompt), len(prompt), ""
        blanks = find_blanks(prompt, mask)
        if len(blanks) > 1:
            raise UserError(
                f"the prompt has {len(blanks)} blanks; generate writes one (fill several with `blankfill fill`)"
            )
        if blanks and blanks[0].length:
            raise UserError(
                f"the blank {blanks[0].written} asks for a length, which generate does not keep; "
                "leave it out and give --max-tokens, or use `blankfill fill`"
            )
        return (blanks[0].start, blanks[0].end, blanks[0].role) if blanks else (len(prompt), len(prompt), "")

    def run(self) -> Iterator[list[str]]:
        """Pieces of text of all rows, a list for each step."""
        texts = [Detokenizer(self.loaded.tokenizer, before) for before in self.before]
        sampler = Sampler(self.sampling, self.before, self.banned_V)
        started = [not trimmed for trimmed in self.trimmed]
        running = [True] * len(texts)
        left = self.max_tokens
        contexts: Sequence[DecoderInput] = self.contexts
        while left and any(running):
            for step in decode_rows(self.loaded.model, contexts, sampler, self.ends, left, self._pad):
                left -= 1
                pieces = [""] * len(texts)
                for row, token in enumerate(step):
                    if not running[row]:
                        continue
                    if token is None:
                        running[row], self.finish[row] = False, "end"
                        pieces[row] = texts[row].flush()
                    else:
                        self.written[row].append(token)
                        pieces[row] = texts[row].push(token)
                    if pieces[row] and not started[row]:
                        pieces[row], started[row] = pieces[row].removeprefix(" "), True
                yield pieces
                if not any(running):
                    break
            if not left or not self.slide or not any(running):
                break
            contexts = [self._slid(row) for row in range(len(texts))]
        for row, alive in enumerate(running):
            if alive and left:
                self.finish[row] = "positions"
        yield [text.flush() if alive else "" for text, alive in zip(texts, running, strict=True)]

    def finish_all(self) -> list[Generation]:
        """Run to the end; what each row wrote."""
        texts = [""] * len(self.prompts)
        for pieces in self.run():
            for row, piece in enumerate(pieces):
                texts[row] += piece
        found = []
        for row, (prompt, text) in enumerate(zip(self.prompts, texts, strict=True)):
            before, after = self.frames[row]
            found.append(Generation(prompt, text, before + text + after, tuple(self.written[row]), self.finish[row]))
        return found

    @property
    def _pad(self) -> int:
        return self.loaded.vocabulary.roles.get("pad", 0)

    def _slid(self, row: int) -> DecoderInput:
        (table,) = self.loaded.model.config.position_sizes
        whole = [self.loaded.vocabulary["eos"], *self.before[row], *self.written[row]]
        return gpt_input(whole[-max(1, table // 2) :], table)


class Detokenizer:
    """Ids one at a time → text in pieces of whole words and characters.

    A tokenizer's decoding looks back and ahead (spaces, apostrophes, bytes of one character), so ids are decoded
    together with some before them, and the last, unfinished word is held back. Should a later id change the spaces of
    text that has come out (a closing quotation mark can), the rest is found by counting the other characters, so that
    nothing is repeated or lost.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        """before: the ids that stand before the text, for the space between."""
        self.tokenizer = tokenizer
        self._ids = list(before[-32:])
        self._out = tokenizer.decode(self._ids) if self._ids else ""

    def push(self, token: int) -> str:
        """Add an id; the text that is now certain, often empty."""
        self._ids.append(token)
        text = self.tokenizer.decode(self._ids)
        held = _UNFINISHED.search(text)
        certain = text[: held.start()] if held else text
        if len(text) - len(certain) > _LONGEST_HELD:
            certain = text.rstrip("\ufffd")
        piece = self._take(certain)
        if len(self._ids) > _WINDOW:
            self._ids = self._ids[-_WINDOW // 4 :]
            waiting = _inked(text) - _inked(self._out)
            text = self.tokenizer.decode(self._ids)
            self._out = text[: _after(text, max(0, _inked(text) - waiting))]
        return piece

    def flush(self) -> str:
        """The rest of the text."""
        return self._take(self.tokenizer.decode(self._ids))

    def _take(self, text: str) -> str:
        at = len(self._out) if text.startswith(self._out) else _after(text, _inked(self._out))
        if at >= len(text):
            return ""
        self._out = text
        return text[at:]


def _inked(text: str) -> int:
    """How many characters are not white space."""
    return sum(not character.isspace() for character in text)


def _after(text: str, count: int) -> int:
    """The index just after so many characters that are not white space."""
    for index, character in enumerate(text):
        if count == 0:
            return index
        count -= not character.isspace()
    return len(text)
