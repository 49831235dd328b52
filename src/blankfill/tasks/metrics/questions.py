"""How right an answer is, as the official scripts count: SQuAD 1.1 and 2.0, and CMRC 2018 for Chinese.

All are shares: 1 is best, not 100. Of several right answers the one that the prediction is closest to counts.

The two scripts of SQuAD differ where an answer has nothing left without articles and punctuation. 2.0's leaves such
right answers out, takes "" where none is left, and gives F1 1 where both have no words. 1.1's has no special rule: the
normal forms may be the same, and F1 is 0 where no word is shared.

CMRC's script cuts Latin text with NLTK's tokenizer, which must be downloaded; here words and marks are parted by a
pattern. Of the 16,705 answers of CMRC's and DRCD's dev sets 52 are cut in another way (abbreviations, degrees, quotes).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from blankfill.errors import UserError
from blankfill.tasks.items import QuestionItem, listed

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHINESE_MARKS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""What CMRC's script calls punctuation."""
_SEGMENT = re.compile(r"[\u4e00-\u9fa5]|[^\W\u4e00-\u9fa5]+(?:[.,'][^\W\u4e00-\u9fa5]+)*|[^\w\s]")

Script = Literal["1.1", "2.0", "cmrc"]
"""Which official script counts: SQuAD's of version 1.1 (XQuAD's and ReCoRD's too) or 2.0, or CMRC 2018's."""


def answer_metrics(
    names: Sequence[str], items: Sequence[QuestionItem], predicted: Mapping[str, str], by_characters: bool = False
) -> dict[str, float]:
    """Return the named metrics: "exact" and "f1", each also as "has-answer-…" and "no-answer-…" (0 where there are
    none).

    predicted: an answer for each question's id, "" for none. by_characters: as CMRC's script counts. Questions whose
    answer the file does not tell are refused, as are predictions that leave a question out (UserError).
    """
    scores = _scores(items, predicted, script_of(items, by_characters, names))
    found = {}
    for name in names:
        column = 0 if name.endswith("exact") else 1
        has = {"has": True, "no": False}.get(name.split("-")[0])
        chosen = [scores[item.id][column] for item in items if has is None or bool(item.answers) == has]
        found[name] = sum(chosen) / len(chosen) if chosen else 0.0
    return found


def best_threshold(
    items: Sequence[QuestionItem], predicted: Mapping[str, str], null_odds: Mapping[str, float], metric: str = "f1"
) -> tuple[float, float]:
    """(the best value of "f1" or "exact", the odds beyond which no answer must be given to reach it), as SQuAD 2.0's
    script searches it: every question's odds are tried, beginning with no answer for any (which the script calls 0.0,
    for it knows probabilities only; here it is a threshold below all odds).

    predicted: the best answer of each question, were there one. null_odds: how much likelier none is.
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
    """Return the script for questions: 2.0's where some have no answer, or metrics of `names` ask for those that have
    none."""
    if by_characters:
        return "cmrc"
    refuse = any(name.startswith("no-answer") for name in names) or any(item.impossible for item in items)
    return "2.0" if refuse else "1.1"


def item_scores(item: QuestionItem, predicted: str, script: Script) -> tuple[float, float]:
    """(exact, F1) of a question by the nearest of its answers."""
    right = [answer.text for answer in item.answers if script != "2.0" or normal(answer.text)] or [""]
    pairs = [scores(predicted, text, script) for text in right]
    return max(exact for exact, _ in pairs), max(f1 for _, f1 in pairs)


def _scores(
    items: Sequence[QuestionItem], predicted: Mapping[str, str], script: Script
) -> dict[str, tuple[float, float]]:
    """(exact, F1) of each question."""
    if not items:
        raise UserError("There are no questions to score.")
    untold = [item.id for item in items if not item.answers and not item.impossible]
    if untold:
        raise UserError(
            f"The file does not tell the answers of {len(untold)} questions, such as {listed(untold)}: a test set can "
            f"be predicted but not scored."
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
    """(1 if the normal forms are the same, F1 of their words). Where no word is shared, F1 is 0; by 2.0's script 1
    where both have none."""
    if script == "cmrc":
        return chinese_scores(predicted, right)
    ours, theirs = normal(predicted).split(), normal(right).split()
    exact, same = float(ours == theirs), sum((Counter(ours) & Counter(theirs)).values())
    if not same:
        return exact, float(script == "2.0" and ours == theirs)
    return exact, 2 * same / (len(ours) + len(theirs))


def chinese_scores(predicted: str, right: str) -> tuple[float, float]:
    """(1 if the same without marks, F1 by the longest common run of segments): as CMRC 2018 counts.

    A Chinese character is a segment, a Latin word or number is one, marks are none.
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
    """Of the longest run of segments that both have, the number of segments."""
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
