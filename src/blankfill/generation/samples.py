"""Samples: the same texts, filled and continued before, during and after the training of a model.

The texts are a user's own; by default, validation sentences with one word blanked, and the first words of other
sentences for models that continue text. They are spread over the validation text, and the same corpus always gives the
same ones, so that runs can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from blankfill.checkpoint.load import Loaded
from blankfill.corpus.indexed import IndexedCorpus
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.unknown import uncounted
from blankfill.errors import UserError, setting
from blankfill.generation.blanks import find_blanks, own_mask
from blankfill.generation.fill import Filler, check_can_fill
from blankfill.generation.sampling import Sampling
from blankfill.generation.write import Generation, Writer
from blankfill.model.view import evaluation_view
from blankfill.system.console import say
from blankfill.system.reading import shown
from blankfill.types import Vocabulary

SAMPLES = 4
PROMPTS = 2
PROMPT_TOKENS = 6
SHORTEST, LONGEST = 7, 40
"""Smallest and largest number of tokens of a validation sentence with a blank."""
FRAME = 12
"""Approximate number of tokens in a row for special tokens, blanks and their fills."""
WRITTEN = 40
"""Largest number of tokens of a continuation."""


class Samples:
    """Texts to fill and to continue, the same in each step. texts: a user's own; empty means validation sentences.

    Raises UserError for a text without a blank when the objective cannot continue text, and for one with blanks when it
    cannot fill them.
    """

    def __init__(self, loaded: Loaded, valid: IndexedCorpus | None, texts: Sequence[str] = ()) -> None:
        self.loaded = loaded
        writes = loaded.objective.writes
        mask = own_mask(loaded.tokenizer, loaded.vocabulary)
        self.blanked: list[tuple[str, str]] = [(text, "") for text in texts if find_blanks(text, mask)]
        self.prompts = [text for text in texts if not find_blanks(text, mask)]
        if self.prompts and not writes:
            raise UserError(
                f"{setting('train.samples')}: {self.prompts[0]!r} has no [MASK], and `{loaded.objective.name}` cannot "
                "continue a text; put a [MASK] where a word should be filled in"
            )
        if self.blanked:
            check_can_fill(loaded)
        if not texts and valid is not None:
            if loaded.objective.fills:
                longest = max(SHORTEST, min(LONGEST, loaded.objective.length - FRAME))
                self.blanked = list(blanked_sentences(valid, loaded.tokenizer, loaded.vocabulary, longest=longest))
            self.prompts = beginnings(valid, loaded.tokenizer) if writes else []

    def take(self, step: int) -> list[dict[str, Any]]:
        """Fill and continue the texts with the current model.

        Returns a line for each: {step, text, answer, fills} or {step, prompt, continuation}. A text that the model
        cannot use, for example because it is too long, is named and left out.
        """
        loaded = replace(self.loaded, model=evaluation_view(self.loaded.model))
        return [*self._filled(loaded, step), *self._continued(loaded, step)]

    def _filled(self, loaded: Loaded, step: int) -> list[dict[str, Any]]:
        """Return a line for each filled text; texts that fail are left out from then on."""
        lines: list[dict[str, Any]] = []
        if not self.blanked:
            return lines
        filler = Filler(loaded)
        for text, answer in list(self.blanked):
            try:
                lines.append(_line_of(filler, text, answer, step))
            except UserError as error:
                self.blanked.remove((text, answer))
                say_left_out(text, error)
        return lines

    def _continued(self, loaded: Loaded, step: int) -> list[dict[str, Any]]:
        """Return a line for each continued text; texts that fail are left out from then on."""
        sampling = Sampling(temperature=0.8, top_k=40)
        try:
            written = _written(loaded, self.prompts, WRITTEN, sampling)
        except UserError:
            for prompt in list(self.prompts):
                try:
                    _written(loaded, [prompt], 1, sampling)
                except UserError as error:
                    self.prompts.remove(prompt)
                    say_left_out(prompt, error)
            written = _written(loaded, self.prompts, WRITTEN, sampling)
        return [{"step": step, "prompt": generation.prompt, "continuation": generation.text} for generation in written]


def _written(loaded: Loaded, prompts: Sequence[str], max_new_tokens: int, sampling: Sampling) -> list[Generation]:
    """Continue texts. Their unknown tokens are not reported at every sample: those of the corpus were, before."""
    if not prompts:
        return []
    with uncounted():
        return Writer(loaded, prompts, max_new_tokens, sampling).finish_all()


def say_left_out(text: str, error: UserError) -> None:
    """Print that a sample is left out; a failed sample must not end a run."""
    say(f"the sample {shown(text)} is left out: {error}")


def _line_of(filler: Filler, text: str, answer: str, step: int) -> dict[str, Any]:
    result = filler.fill(text, 3)
    fills = [fill.text for fill in result.candidates[0]] if len(result.candidates) == 1 else [result.filled]
    return {"step": step, "text": text, "answer": answer, "fills": fills}


def is_fill(line: Mapping[str, Any]) -> bool:
    """Return whether a line that was read back has all fields of a filled text."""
    fills = line.get("fills")
    texts = [line.get("text"), line.get("answer"), *(fills if isinstance(fills, list) else [None])]
    return all(isinstance(text, str) for text in texts)


def compare(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> None:
    """Print each text with a blank, its answer, and the fills before and after; other lines are skipped."""
    old = {line["text"]: line["fills"] for line in before if is_fill(line)}
    new = [line for line in after if is_fill(line) and line["text"] in old]
    if new:
        unseen = ", in sentences that the model never saw" if new[0]["answer"] else ""
        say(f"\nblanks filled before and after training{unseen}:")
    for line in new:
        answer = f"\n    text:   {line['answer']}" if line["answer"] else ""
        before_and_after = f"    before: {', '.join(old[line['text']])}\n    after:  {', '.join(line['fills'])}"
        say(f"\n  {line['text']}\n{before_and_after}{answer}")


def beginnings(valid: IndexedCorpus, tokenizer: Tokenizer, count: int = PROMPTS) -> list[str]:
    """Return the first tokens of some validation sentences, spread over the text."""
    starts = valid.sentence_starts
    prompts: list[str] = []
    for s in np.linspace(0, len(starts) - 2, min(len(starts) - 1, 64 * count)).astype(int).tolist()[::-1]:
        ids = [int(i) for i in valid.tokens[int(starts[s]) : int(starts[s + 1])]]
        text = tokenizer.decode(ids[: min(PROMPT_TOKENS, len(ids) // 2)]).strip()
        if len(ids) >= PROMPT_TOKENS and len(text) >= 4 and text not in prompts:
            prompts.append(text)
        if len(prompts) == count:
            break
    return prompts


def blanked_sentences(
    valid: IndexedCorpus, tokenizer: Tokenizer, vocabulary: Vocabulary, count: int = SAMPLES, longest: int = LONGEST
) -> Iterator[tuple[str, str]]:
    """Yield validation sentences of up to `longest` tokens with one word (or a Chinese character) blanked, and that
    word.

    The sentences are spread over the validation text; the same corpus always gives the same ones.
    """
    starts, word_start = valid.sentence_starts, vocabulary.word_start
    yielded = 0
    for s in np.linspace(0, len(starts) - 2, min(len(starts) - 1, 64 * count)).astype(int).tolist():
        ids = [int(i) for i in valid.tokens[int(starts[s]) : int(starts[s + 1])]]
        if not SHORTEST <= len(ids) <= longest:
            continue
        middle = len(ids) // 2
        for at in [*range(middle, len(ids) - 2), *range(middle, 2, -1)]:
            word = tokenizer.decode([ids[at]]).strip()
            long_enough = len(word) >= 4 and word.isalpha()
            is_chinese = len(word) == 1 and "\u4e00" <= word <= "\u9fff"
            whole = word_start is None or (bool(word_start[ids[at]]) and bool(word_start[ids[at + 1]]))
            if (long_enough and whole) or is_chinese:
                left, right = tokenizer.decode(ids[:at]).strip(), tokenizer.decode(ids[at + 1 :]).strip()
                gap = "" if is_chinese else " "
                yield f"{left}{gap}[MASK]{gap if right[:1].isalnum() else ''}{right}", word
                yielded += 1
                break
        if yielded == count:
            return
