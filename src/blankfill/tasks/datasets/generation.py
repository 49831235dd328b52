"""Text-to-text data: SciTLDR, titles of CSL, questions from SQuAD; and the language modelling test sets WikiText-2 and
LAMBADA.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from blankfill.errors import UserError
from blankfill.tasks.datasets.files import (
    Faults,
    UnusableError,
    id_of,
    json_lines,
    part_of,
    read_objects,
    tab_rows,
    text_lines,
)
from blankfill.tasks.datasets.squad import QUESTIONS, read_questions
from blankfill.tasks.items import GenerationItem, Item, LanguageItem, Split
from blankfill.tasks.task import Task


def _scitldr(row: dict[str, Any]) -> list[Item]:
    targets = row.get("target") or []
    targets = [targets] if isinstance(targets, str) else targets
    source = " ".join(str(sentence).strip() for sentence in part_of(row, "source", list))
    if not source:
        raise UnusableError("has no text 'source'")
    return [GenerationItem(id_of(row, "paper_id"), source, tuple(str(target).strip() for target in targets))]


def read_scitldr(path: Path, labels: tuple[str, ...] = ()) -> Split:
    """Read SciTLDR (arXiv 2004.15011): the joined sentences of an abstract, and every summary of it."""
    return read_objects(path, (), _scitldr)


def read_csl(path: Path, labels: tuple[str, ...] = ()) -> Split:
    """Read titles from abstracts: `to title<TAB>abstract<TAB>title` on each line, without a header."""
    faults, items, count = Faults(path), [], 0
    for line, cells in tab_rows(path):
        count += 1
        if len(cells) != 3 or not cells[1].strip() or not cells[2].strip():
            faults.add(line, "does not have the form: to title, a tab, an abstract, a tab, a title")
            continue
        items.append(GenerationItem(str(count - 1), cells[1].strip(), (cells[2].strip(),)))
    if not count:
        raise UserError(f"{path} has no rows: copy or download it again.")
    return Split(items, (), faults.sentences(count))


def read_question_pairs(path: Path, labels: tuple[str, ...] = ()) -> Split:
    """Read question generation from a file in SQuAD's form: the context is the source, the first answer the second
    text, the question the target. Questions without an answer are left out."""
    questions = read_questions(path)
    items = [
        GenerationItem(item.id, item.context, (item.question,), item.answers[0].text)
        for item in questions.questions()
        if item.answers
    ]
    if not items:
        raise UserError(f"{path} has no question with an answer: give a train or dev file.")
    return Split(items)


_HEADING = re.compile(r" = [^=](?:.*[^=])? = ?")
_BEFORE_MARK = re.compile(r" (?=[,.;:!?%)\]}][\"')\]]?(?: |$))", re.MULTILINE)
_QUOTED = re.compile(r'" ([^"\n]*?) "')
_SINGLE = re.compile(r"(?<![^\s(]) ?' ([^'\n]*?) '(?=[\s,.;:!?)]|$)", re.MULTILINE)
_CLITIC = re.compile(r" (?='(?:s|S|t|re|ve|ll|d|m)\b)")


def natural(text: str) -> str:
    """Return WikiText's word-level text as people write it, as far as possible.

    ` @-@ ` and similar marks are joined; marks, quotation marks, brackets and clitics are closed up. GPT-2 was tested
    on text that was restored in this way (its paper, section 3.1, mentions invertible de-tokenizers); its rules are
    unpublished.
    """
    text = re.sub(r" @([-,.])@ ", r"\1", text)
    text = re.sub(r"([(\[{]) ", r"\1", text)
    text = _QUOTED.sub(r'"\1"', text)
    text = _SINGLE.sub(r" '\1'", text)
    text = _CLITIC.sub("", text)
    for _ in range(2):  # a mark after a mark
        text = _BEFORE_MARK.sub("", text)
    return re.sub(r"(?<=[$£€#]) (?=\d)", "", text)


def read_wikitext(path: Path, labels: tuple[str, ...] = ()) -> Split:
    """Read WikiText's word-level file, an item for each article: its natural text, and its number of words in the file,
    by which perplexity per word is computed (the end of a line is one word, as published)."""
    items: list[LanguageItem] = []
    held: list[str] = []
    for line in text_lines(path):
        # A formula may look like a heading, but has other lines around it.
        begins = _HEADING.fullmatch(line) and not (held and held[-1].strip())
        if begins and any(part.strip() for part in held):
            items.append(_article(len(items), held))
            held = []
        held.append(line)
    if any(part.strip() for part in held):
        items.append(_article(len(items), held))
    if not items:
        raise UserError(f"{path} has no text: copy or download it again.")
    return Split(items)


def _article(number: int, lines: list[str]) -> LanguageItem:
    words = sum(len(line.split()) + 1 for line in lines)
    text = "\n".join(natural(line.strip()) for line in lines if line.strip())
    return LanguageItem(str(number), text, words)


def read_lambada(path: Path, labels: tuple[str, ...] = ()) -> Split:
    """Read LAMBADA (arXiv 1606.06031): a passage without its last word, and that word."""
    items: list[Item] = []
    for line, row in json_lines(path):
        text = str(row.get("text") or "").strip()
        head, _, word = text.rpartition(" ")
        if not head:
            raise UserError(f"{path}, line {line} has no text of two words or more: correct or delete that line.")
        items.append(GenerationItem(str(len(items)), head, (word,)))
    if not items:
        raise UserError(f"{path} has no rows: copy or download it again.")
    return Split(items)


_write = partial(Task, kind="generate", metrics=("rouge1", "rouge2", "rougeL", "bleu"), primary_metric="rougeL")
_splits = ("train", "dev", "test")

GENERATION = (
    _write(
        name="scitldr", parse=read_scitldr, files={split: (f"{split}.jsonl",) for split in _splits},
        folders=("SciTLDR-A", "scitldr/SciTLDR-A"),
    ),
    _write(
        name="csl-title", parse=read_csl, files={split: (f"{split}.tsv",) for split in _splits},
        folders=("csl_title_zh", "csl_title"), by_characters=True,
    ),
    _write(name="squad-questions", parse=read_question_pairs, files=QUESTIONS[0].files, folders=QUESTIONS[0].folders),
    Task(
        "wikitext2", "language",
        {split: (f"wiki.{name}.tokens",) for split, name in (("train", "train"), ("dev", "valid"), ("test", "test"))},
        read_wikitext, ("perplexity",), "perplexity", folders=("wikitext2", "wikitext-2"),
    ),
    Task(
        "lambada", "last-word", {"test": ("lambada_test.jsonl",)}, read_lambada, ("accuracy",), "accuracy",
        folders=("lambada",),
    ),
)  # fmt: skip
