"""The same blanks, filled before, while and after a model trains: what a run shows of itself.

A word of some validation sentences is blanked; the sentences are spread over the validation text, and the same corpus
always gives the same ones, so that runs can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from blankfill.checkpoint.load import Loaded
from blankfill.console import say
from blankfill.corpus.indexed import IndexedCorpus
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.generate.fill import Filler
from blankfill.types import Vocabulary

SAMPLES = 4


class Samples:
    """The same blanks filled before and after training: a word each of some validation sentences never trained on."""

    def __init__(self, loaded: Loaded, valid: IndexedCorpus | None, out: Path) -> None:
        self.loaded = loaded
        self.out = out
        self.sentences = list(blanked_sentences(valid, loaded.tokenizer, loaded.vocabulary)) if valid else []

    def fill(self, step: int) -> list[str]:
        """Fill the blanks with the model as it is; the fills also go to `samples.jsonl`."""
        was_training = self.loaded.model.training
        self.loaded.model.eval()
        filled = []
        filler = Filler(self.loaded)
        with open(self.out / "samples.jsonl", "a", encoding="utf-8") as file:
            for text, answer in self.sentences:
                fills = [candidate.text for candidate in filler.fill(text, 3).candidates[0]]
                filled.append(", ".join(fills))
                line = {"step": step, "text": text, "answer": answer, "fills": fills}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.loaded.model.train(was_training)
        return filled

    def compare(self, before: list[str], after: list[str]) -> None:
        """Print each sentence with its answer, and the fills before and after."""
        if self.sentences:
            say("\nblanks in sentences that the model never saw, filled before and after training:")
        for (text, answer), old, new in zip(self.sentences, before, after, strict=True):
            say(f"\n  {text}\n    before: {old}\n    after:  {new}\n    text:   {answer}")


def blanked_sentences(
    valid: IndexedCorpus, tokenizer: Tokenizer, vocabulary: Vocabulary, count: int = SAMPLES
) -> Iterator[tuple[str, str]]:
    """Validation sentences of middling length with one word (or two Chinese characters) blanked, and what stood there.

    The sentences are spread over the validation text; the same corpus always gives the same ones.
    """
    starts, word_start = valid.sentence_starts, vocabulary.word_start
    found = 0
    for s in np.linspace(0, len(starts) - 2, min(len(starts) - 1, 64 * count)).astype(int).tolist():
        ids = [int(i) for i in valid.tokens[int(starts[s]) : int(starts[s + 1])]]
        if not 7 <= len(ids) <= 40:
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
                found += 1
                break
        if found == count:
            return
