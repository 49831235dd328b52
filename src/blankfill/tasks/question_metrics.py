"""How right an answer is, as the official scripts count: SQuAD 1.1 and 2.0, and CMRC 2018 for Chinese.

All are shares: 1 is best, not 100. Of several right answers the one that the prediction is closest to counts.

CMRC's script cuts Latin text with NLTK's tokenizer, which must be downloaded; here words and marks are parted by a
pattern. Of the 16,705 answers of CMRC's and DRCD's dev sets 52 are cut in another way (abbreviations, degrees, quotes).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from blankfill.errors import UserError
from blankfill.tasks.items import QuestionItem, listed

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHINESE_MARKS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""What CMRC's script calls punctuation."""
_SEGMENT = re.compile(r"[\u4e00-\u9fa5]|[^\W\u4e00-\u9fa5]+(?:[.,'][^\W\u4e00-\u9fa5]+)*|[^\w\s]")

Score = Callable[[str, str], tuple[float, float]]


def answer_metrics(
    names: Sequence[str], items: Sequence[QuestionItem], predicted: Mapping[str, str], by_characters: bool = False
) -> dict[str, float]:
    """The named metrics: "exact" and "f1", each also as "has-answer-…" and "no-answer-…" (0 where there are none).

    predicted: an answer for each question's id, "" for none. by_characters: as CMRC's script counts. Questions whose
    answer the file does not tell are refused, as are predictions that leave a question out (UserError).
    """
    scores = _scores(items, predicted, by_characters)
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
    scores = _scores(items, predicted, False)
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


def _scores(
    items: Sequence[QuestionItem], predicted: Mapping[str, str], by_characters: bool
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
    score = chinese_scores if by_characters else scores
    scored = {}
    for item in items:
        # An answer of nothing but articles and marks is none: SQuAD 2.0's script leaves it out.
        right = [answer.text for answer in item.answers if by_characters or normal(answer.text)] or [""]
        pairs = [score(predicted[item.id], text) for text in right]
        scored[item.id] = (max(exact for exact, _ in pairs), max(f1 for _, f1 in pairs))
    return scored


def normal(text: str) -> str:
    """An English answer as SQuAD compares it: lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def scores(predicted: str, right: str) -> tuple[float, float]:
    """(1 if the normal forms are the same, F1 of their words); where one is empty, both are 1 if the other is too."""
    ours, theirs = normal(predicted).split(), normal(right).split()
    if not ours or not theirs:
        return (float(ours == theirs),) * 2
    same = sum((Counter(ours) & Counter(theirs)).values())
    return float(ours == theirs), 2 * same / (len(ours) + len(theirs))


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
