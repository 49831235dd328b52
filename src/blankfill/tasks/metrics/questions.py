"""Scores of answers, as the official scripts count: SQuAD 1.1 and 2.0, and CMRC 2018 for Chinese. All are shares: the
best is 1, not 100. Of several right answers the nearest to the prediction counts.

The two scripts of SQuAD differ where an answer is empty without articles and punctuation. The script of 2.0 leaves such
right answers out, takes "" where none is left, and gives F1 1 where both have no words. The script of 1.1 has no
special rule: the normal forms may be the same, and F1 is 0 where no word is shared.

CMRC's script cuts Latin text with NLTK's tokenizer, which must be downloaded; here a pattern separates words and marks.
Of the 16,705 answers of CMRC's and DRCD's dev sets 52 are cut in another way (abbreviations, degrees, quotes).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from blankfill.errors import UserError
from blankfill.tasks.items import QuestionItem, listed

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHINESE_MARKS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""Punctuation of CMRC's script."""
_SEGMENT = re.compile(r"[\u4e00-\u9fa5]|[^\W\u4e00-\u9fa5]+(?:[.,'][^\W\u4e00-\u9fa5]+)*|[^\w\s]")

Script = Literal["1.1", "2.0", "cmrc"]
"""Official script: SQuAD 1.1 (also XQuAD and ReCoRD), SQuAD 2.0, or CMRC 2018."""


def answer_metrics(
    names: Sequence[str], items: Sequence[QuestionItem], predicted: Mapping[str, str], by_characters: bool = False
) -> dict[str, float]:
    """Return the named metrics: "exact" and "f1", each also as "has-answer-…" and "no-answer-…" (0 where there are
    none).

    predicted: an answer for each question id, "" for no answer. by_characters: as CMRC's script counts. Raises
    UserError for questions without an answer in the file, and for a question without a prediction.
    """
    scores = _scores(items, predicted, script_of(items, by_characters, names))
    values = {}
    for name in names:
        column = 0 if name.endswith("exact") else 1
        has = {"has": True, "no": False}.get(name.split("-")[0])
        chosen = [scores[item.id][column] for item in items if has is None or bool(item.answers) == has]
        values[name] = sum(chosen) / len(chosen) if chosen else 0.0
    return values


def best_threshold(
    items: Sequence[QuestionItem], predicted: Mapping[str, str], null_odds: Mapping[str, float], metric: str = "f1"
) -> tuple[float, float]:
    """Return (the best value of "f1" or "exact", the threshold of odds above which to give no answer to reach it),
    searched like SQuAD 2.0's script: the odds of every question are tried, beginning with no answer for any (0.0 in the
    script, which knows only probabilities; here a threshold below all odds). predicted: the best answer of each
    question. null_odds: the odds of no answer.
    """
    scores = _scores(items, predicted, "2.0")
    missing = [item.id for item in items if item.id not in null_odds]
    if missing:
        raise UserError(f"{len(missing)} questions have no odds, such as {listed(missing)}: predict them all.")
    column = 0 if metric == "exact" else 1
    now = best = float(sum(not item.answers for item in items))
    threshold = min(null_odds[item.id] for item in items) - 1.0
    for item in sorted(items, key=lambda item: null_odds[item.id]):
        if item.answers:
            now += scores[item.id][column]
        elif predicted[item.id]:
            now -= 1
        if now > best:
            best, threshold = now, null_odds[item.id]
    return best / len(items), threshold


def script_of(items: Sequence[QuestionItem], by_characters: bool, names: Sequence[str] = ()) -> Script:
    """Return the script for questions: 2.0 where some have no answer, or where `names` has metrics of such
    questions."""
    if by_characters:
        return "cmrc"
    refuse = any(name.startswith("no-answer") for name in names) or any(item.impossible for item in items)
    return "2.0" if refuse else "1.1"


def item_scores(item: QuestionItem, predicted: str, script: Script) -> tuple[float, float]:
    """Return (exact, F1) of a question by the nearest of its answers."""
    right = [answer.text for answer in item.answers if script != "2.0" or normal(answer.text)] or [""]
    pairs = [scores(predicted, text, script) for text in right]
    return max(exact for exact, _ in pairs), max(f1 for _, f1 in pairs)


def _scores(
    items: Sequence[QuestionItem], predicted: Mapping[str, str], script: Script
) -> dict[str, tuple[float, float]]:
    """Return (exact, F1) of each question."""
    if not items:
        raise UserError("There are no questions to score.")
    unanswered = [item.id for item in items if not item.answers and not item.impossible]
    if unanswered:
        raise UserError(
            f"The file does not have the answers of {len(unanswered)} questions, such as {listed(unanswered)}: a test "
            f"set can be predicted but not scored."
        )
    missing = [item.id for item in items if item.id not in predicted]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(items)} questions have no predicted answer, such as {listed(missing)}: give each "
            f'one, "" for none.'
        )
    return {item.id: item_scores(item, predicted[item.id], script) for item in items}


def normal(text: str) -> str:
    """Return an English answer as SQuAD compares it: lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def scores(predicted: str, right: str, script: Script = "1.1") -> tuple[float, float]:
    """Return (1 if the normal forms are the same, F1 of their words). Where no word is shared, F1 is 0; by the script
    of 2.0, 1 where both are empty."""
    if script == "cmrc":
        return chinese_scores(predicted, right)
    ours, theirs = normal(predicted).split(), normal(right).split()
    exact, same = float(ours == theirs), sum((Counter(ours) & Counter(theirs)).values())
    if not same:
        return exact, float(script == "2.0" and ours == theirs)
    return exact, 2 * same / (len(ours) + len(theirs))


@lru_cache(maxsize=1 << 14)  # resamples and the analysis of errors score the same pairs again
def chinese_scores(predicted: str, right: str) -> tuple[float, float]:
    """Return (1 if the same without marks, F1 by the longest common run of segments), as CMRC 2018 counts. A Chinese
    character is a segment, and so is a Latin word or number; marks are ignored.
    """
    ours, theirs = _segments(predicted), _segments(right)
    exact = float(_without_marks(predicted) == _without_marks(right))
    if not ours or not theirs:
        return exact, float(ours == theirs)
    common = _longest_common_run(ours, theirs)
    return exact, 2 * common / (len(ours) + len(theirs)) if common else 0.0


def _without_marks(text: str) -> str:
    return "".join(character for character in text.lower().strip() if character not in _CHINESE_MARKS)


def _segments(text: str) -> list[str]:
    return _SEGMENT.findall(_without_marks(text))


def _longest_common_run(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common run of segments."""
    numbers: dict[str, int] = {}
    first_N, second_M = (
        np.array([numbers.setdefault(segment, len(numbers)) for segment in segments], np.int64)
        for segments in (first, second)
    )
    longest = 0
    row = np.zeros(len(second) + 1, np.int64)
    for segment in first_N:
        row[1:] = np.where(second_M == segment, row[:-1] + 1, 0)
        longest = max(longest, int(row.max()))
    return longest
