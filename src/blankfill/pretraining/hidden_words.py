"""Hidden words of a run: the share that the model names at each validation, in the metrics and the progress line.

Not here: how words are drawn and ranked (`generation.hidden_words`), the report (`generation.hidden_words_report`).
"""

from __future__ import annotations

from pathlib import Path

from blankfill.checkpoint.load import Loaded
from blankfill.corpus.indexed import IndexedCorpus
from blankfill.generation.hidden_words import CONTEXT, HiddenWords
from blankfill.generation.hidden_words_report import Report, Shares, report_of, write
from blankfill.runs.folder import informing
from blankfill.runs.recorder import RunRecorder, read_lines

SPLIT = "hidden words"
FIRST, AMONG = "named_at_once", "named_among_5"
"""Names of the two shares in `metrics.jsonl`."""


class HiddenWordsWatch:
    """Measures the hidden words of a run at each validation."""

    def __init__(
        self, loaded: Loaded, train: IndexedCorpus, valid: IndexedCorpus, count: int, recorder: RunRecorder
    ) -> None:
        """Draw the words. count: number of words to hide."""
        self.loaded, self.recorder = loaded, recorder
        context = min(CONTEXT, (loaded.format.blank_room - 1) // 2)
        self.hidden = HiddenWords(train, valid, loaded.tokenizer, loaded.vocabulary, count, context)
        self.before = shares_before(recorder.path)
        """The shares before the first step; None until they are measured, and where a resumed run lacks them."""
        self.report: Report | None = None
        """The newest report; None before the first validation, and where the text has no word of one token."""

    def measure(self, step: int, tokens: int) -> None:
        """Record the shares of the model at a step. tokens: tokens trained on so far."""
        if not self.hidden.words:
            return
        named = self.hidden.ask(self.loaded)
        shares, folder = Shares.of(named), self.recorder.path.parent
        self.recorder.record(
            {"step": step, "split": SPLIT, FIRST: shares.first, AMONG: shares.among, "tokens": tokens}
        )  # fmt: skip
        self.recorder.bar.set(hidden_words_named=f"{shares.first:.1%}")
        if step == 0:
            self.before = shares
        self.report = report_of(self.hidden, named, self.before, step, self.loaded.tokenizer)
        with informing(folder):
            write(self.report, folder)


def shares_before(metrics: Path) -> Shares | None:
    """Return the shares of a run before its first step, from its metrics; None where they are missing."""
    for line in read_lines(metrics):
        first, among = line.get(FIRST), line.get(AMONG)
        if line.get("split") == SPLIT and line.get("step") == 0 and isinstance(first, float):
            return Shares(first, among if isinstance(among, float) else first)
    return None
