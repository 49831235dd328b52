"""Similarity of generated texts to their targets: ROUGE by rouge-score, BLEU by sacrebleu. Shares of 1, not 100.
English words are stemmed for ROUGE, as in papers on summarization. Chinese is counted by characters. Both libraries are
in an extra of the installation: blankfill[metrics].
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from blankfill.errors import UserError

_CHARACTER = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_SEGMENT = re.compile(rf"{_CHARACTER.pattern}|[^\W\u3400-\u9fff\uf900-\ufaff]+")


class _Stems:
    """rouge-score's interface to a tokenizer: its own words and stems, each word stemmed once."""

    def __init__(self) -> None:
        porter = _library("nltk.stem.porter", "ROUGE", "rouge-score")
        self.stem = lru_cache(maxsize=1 << 16)(porter.PorterStemmer().stem)
        self._tokenize = _library("rouge_score.tokenize", "ROUGE", "rouge-score").tokenize

    def tokenize(self, text: str) -> list[str]:
        words: list[str] = self._tokenize(text, self)
        return words


class _Characters:
    """rouge-score's interface to a tokenizer: a Chinese character is a token, and so is a Latin word or number."""

    def tokenize(self, text: str) -> list[str]:
        return _SEGMENT.findall(text.lower())


def text_metrics(
    names: Sequence[str], targets: Sequence[Sequence[str]], written: Sequence[str], by_characters: bool = False
) -> dict[str, float]:
    """Return the named metrics: "rouge1", "rouge2", "rougeL" (mean F1, by the nearest target of each), "bleu" (of all
    texts). targets: the targets of each text. Raises UserError when the numbers differ, a text has no target, or the
    libraries are missing.
    """
    if len(targets) != len(written) or not written:
        raise UserError(f"There are {len(written)} texts for {len(targets)} targets: they must be as many.")
    missing = sum(not right for right in targets)
    if missing:
        raise UserError(
            f"{missing} of {len(targets)} rows have no target: a test set can be predicted but not scored; score a "
            f"split that has targets, such as dev."
        )
    rouge = [name for name in names if name.startswith("rouge")]
    values = _rouge(rouge, targets, written, by_characters) if rouge else {}
    if "bleu" in names:
        values["bleu"] = _bleu(targets, written, by_characters)
    return {name: values[name] for name in names}


def text_scores(
    name: str, targets: Sequence[Sequence[str]], written: Sequence[str], by_characters: bool = False
) -> list[float]:
    """Return ROUGE of each text, by the nearest of its targets. name: "rouge1", "rouge2" or "rougeL"."""
    return [values[name] for values in rouge_rows([name], targets, written, by_characters)]


def without_spaces(targets: Sequence[Sequence[str]]) -> bool:
    """Return whether most characters of the targets are Chinese, which has no spaces between words."""
    text = "".join(target for right in targets for target in right)
    return 2 * len(_CHARACTER.findall(text)) > sum(map(str.isalpha, text))


def _rouge(
    names: Sequence[str], targets: Sequence[Sequence[str]], written: Sequence[str], by_characters: bool
) -> dict[str, float]:
    of_each = rouge_rows(names, targets, written, by_characters)
    return {name: sum(text_scores_[name] for text_scores_ in of_each) / len(of_each) for name in names}


def rouge_rows(
    names: Sequence[str], targets: Sequence[Sequence[str]], written: Sequence[str], by_characters: bool = False
) -> list[dict[str, float]]:
    """Return the named kinds of ROUGE of each text, by the nearest of its targets."""
    scorer_of = _library("rouge_score.rouge_scorer", "ROUGE", "rouge-score").RougeScorer
    scorer = scorer_of(names, tokenizer=_Characters() if by_characters else _Stems())
    return [
        {name: score.fmeasure for name, score in scorer.score_multi(list(right), text).items()}
        for right, text in zip(targets, written, strict=True)
    ]


def _bleu(targets: Sequence[Sequence[str]], written: Sequence[str], by_characters: bool) -> float:
    bleu = _library("sacrebleu", "BLEU", "sacrebleu")
    most = max(map(len, targets))
    # sacrebleu takes a list of the first targets of all texts, a list of the second targets, …
    references = [[right[k] if k < len(right) else None for right in targets] for k in range(most)]
    return float(bleu.corpus_bleu(list(written), references, tokenize=_cut(by_characters)).score) / 100


def bleu_rows(
    targets: Sequence[Sequence[str]], written: Sequence[str], by_characters: bool = False
) -> list[list[float]]:
    """Return the counts of each text whose sums make BLEU: of n-grams that match and of all, by length, and the lengths
    of the text and of its nearest target."""
    bleu = _library("sacrebleu.metrics", "BLEU", "sacrebleu").BLEU(tokenize=_cut(by_characters), effective_order=True)
    of_each = [bleu.sentence_score(text, list(right)) for right, text in zip(targets, written, strict=True)]
    return [[*row.counts, *row.totals, row.sys_len, row.ref_len] for row in of_each]


def bleu_of_sums(sums: Sequence[int]) -> float:
    """Return BLEU of a set of texts from the sums of their `bleu_rows`."""
    bleu = _library("sacrebleu.metrics", "BLEU", "sacrebleu").BLEU
    orders = (len(sums) - 2) // 2
    # The smoothing is that of `corpus_bleu`, which scores the texts themselves.
    counts, totals = list(sums[:orders]), list(sums[orders:-2])
    return float(bleu.compute_bleu(counts, totals, sums[-2], sums[-1], smooth_method="exp").score) / 100


def _cut(by_characters: bool) -> str:
    """Return sacrebleu's name of the tokenization."""
    return "zh" if by_characters else "13a"


def _library(module: str, metric: str, package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(f"{metric} needs the {package} package: pip install 'blankfill[metrics]'.") from error
