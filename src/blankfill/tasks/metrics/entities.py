"""Entities from tags, and scores of predicted entities: an entity is right when its words and its type are right. The
tags of BIO (IOB2), IOB1, BIOES, BMES and BILOU differ only in letters and are read by one rule, that of CoNLL's
conlleval: an entity begins at B, S or U, after E, S, L or O, and where the type changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from blankfill.errors import UserError

_LETTERS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}

Entity = tuple[str, int, int]
"""Type, first word, and one past the last word of an entity."""


@dataclass(frozen=True)
class TypeScore:
    """Scores of the entities of one type. support: the number of entities in the data."""

    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


def parts(tag: str) -> tuple[str, str]:
    """Return a tag's letter (O, B, I, E or S) and type ("" for O). Raises UserError for a tag of no known scheme."""
    if tag == "O":
        return "O", ""
    letter, kind = tag[:1], tag[2:]
    if not is_tag(tag):
        raise UserError(f"{tag!r} is not a tag: tags are O, or a letter such as B or I, a hyphen and a type (B-PER).")
    return _LETTERS[letter], kind


def is_tag(tag: str) -> bool:
    """Return whether a tag is of a known scheme."""
    return tag == "O" or (tag[:1] in _LETTERS and tag[1:2] in ("-", "_") and len(tag) > 2)


def entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of a sentence, in order."""
    spans: list[Entity] = []
    kind, start, open_ = "", 0, False
    for place, tag in enumerate([*tags, "O"]):
        letter, now = parts(tag)
        begins = letter in ("B", "S") or (letter in ("I", "E") and (not open_ or now != kind))
        if open_ and (letter == "O" or begins):
            spans.append((kind, start, place))
            open_ = False
        if begins:
            kind, start, open_ = now, place, True
        if open_ and letter in ("E", "S"):
            spans.append((kind, start, place + 1))
            open_ = False
    return spans


def bio(tags: Sequence[str]) -> tuple[str, ...]:
    """Return the same entities as BIO tags: B- for the first word of each, I- for its others."""
    written = ["O"] * len(tags)
    for kind, start, end in entities(tags):
        written[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tuple(written)


def entity_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, TypeScore]:
    """Return the table of scores: one row for each type, by name, and "all" (micro average) as the last.

    gold, predicted: for each sentence, a tag for each word. Raises UserError when the numbers differ.
    """
    if len(gold) != len(predicted) or not gold:
        raise UserError(f"There are tags for {len(predicted)} sentences where {len(gold)} are to be scored.")
    right: Counter[str] = Counter()
    ours: Counter[str] = Counter()
    theirs: Counter[str] = Counter()
    for number, (gold_tags, predicted_tags) in enumerate(zip(gold, predicted, strict=True)):
        if len(gold_tags) != len(predicted_tags):
            raise UserError(
                f"Sentence {number} has {len(gold_tags)} words and {len(predicted_tags)} predicted tags: give one each."
            )
        wanted, predicted_entities = set(entities(gold_tags)), set(entities(predicted_tags))
        theirs.update(kind for kind, _, _ in wanted)
        ours.update(kind for kind, _, _ in predicted_entities)
        right.update(kind for kind, _, _ in wanted & predicted_entities)
    table = {kind: _score(right[kind], ours[kind], theirs[kind]) for kind in sorted(theirs | ours)}
    return table | {"all": _score(right.total(), ours.total(), theirs.total())}


def _score(right: int, predicted: int, support: int) -> TypeScore:
    precision = right / predicted if predicted else 0.0
    recall = right / support if support else 0.0
    f1 = 2 * right / (predicted + support) if predicted + support else 0.0
    return TypeScore(precision, recall, f1, support, predicted)


def tag_metrics(
    names: Sequence[str], gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Return the named metrics: "precision", "recall" and "f1" of entities over all types, "accuracy" of tags."""
    score = entity_scores(gold, predicted)["all"]
    same = sum(a == b for row, other in zip(gold, predicted, strict=True) for a, b in zip(row, other, strict=True))
    words = sum(map(len, gold))
    values = {
        "precision": score.precision, "recall": score.recall, "f1": score.f1, "accuracy": same / max(words, 1),
    }  # fmt: skip
    return {name: values[name] for name in names}
