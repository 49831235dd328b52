"""Texts as models were trained to read them, and what is cut from those that are too long."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.tokenizer_formats import byte_bpe
from blankfill.errors import UserError
from blankfill.objectives import OBJECTIVES, Ernie
from blankfill.tasks.input_format import InputFormat, truncate_pair
from blankfill.types import Vocabulary

ROLES = {"pad": 0, "cls": 1, "sep": 2, "mask": 3, "eos": 4}


def input_format(name: str, roles: dict[str, int] = ROLES, positions: int = 40, length: int = 0) -> InputFormat:
    vocabulary = Vocabulary(50, dict(roles), frozenset(roles.values()), None)
    return InputFormat(OBJECTIVES[name]().format(vocabulary, (positions,)), length)


@pytest.mark.parametrize(
    ("name", "single", "pair", "read"),
    [
        ("bert", [1, 10, 11, 2], [1, 10, 11, 2, 20, 2], 0),
        ("albert", [1, 10, 11, 2], [1, 10, 11, 2, 20, 2], 0),
        ("mlm", [1, 10, 11, 2], [1, 10, 11, 2, 20, 2], 0),
        ("glm", [1, 10, 11, 4], [1, 10, 11, 2, 20, 4], 0),
        ("gpt", [10, 11, 4], [10, 11, 4, 20, 4], -1),
        ("xlnet", [10, 11, 2, 1], [10, 11, 2, 20, 2, 1], -1),
    ],
)
def test_special_tokens(name: str, single: Sequence[int], pair: Sequence[int], read: int) -> None:
    made = input_format(name)
    alone, both = made.frame([10, 11]), made.frame([10, 11], [20])
    assert alone.example.input_ids.tolist() == single and both.example.input_ids.tolist() == pair
    for framed in (alone, both):
        ids = framed.example.input_ids
        assert framed.pooled == (len(ids) - 1 if read else 0)
        assert ids[slice(*framed.first)].tolist() == [10, 11] and framed.cut == 0
        assert len(framed.example.target_ids) == 0
    assert both.example.input_ids[slice(*both.second)].tolist() == [20]
    assert alone.second[0] == alone.second[1]
    visible = both.example.rule.visible()
    assert np.array_equal(visible, np.tri(len(pair), dtype=bool) if name == "gpt" else np.ones_like(visible))


def test_positions_and_types() -> None:
    for name in ("bert", "albert"):
        both = input_format(name).frame([10, 11], [20]).example
        assert both.positions.tolist() == [[0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 1, 1]]
    assert input_format("mlm").frame([10], [20]).example.positions.tolist() == [[2, 3, 4, 5, 6]]
    assert input_format("xlnet").frame([10, 11]).example.positions.tolist() == [[0, 1, 2, 3], [0, 0, 0, 2], [0] * 4]
    pair = input_format("xlnet").frame([10], [20]).example
    assert pair.positions.tolist() == [[0, 1, 2, 3, 4], [0, 0, 1, 1, 2], [0] * 5]
    assert input_format("xlnet", length=100).length == 100  # longer than what it was trained on
    assert input_format("glm").frame([10]).example.positions.tolist() == [[0, 1, 2], [0, 0, 0]]
    ernie = InputFormat(Ernie(task_types=3, task=2).format(input_format("bert").vocabulary, (40, 2, 3)))
    assert ernie.frame([10], [20]).example.positions.tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 1, 1], [2] * 5]


def test_roberta_parts_a_pair_with_two_tokens() -> None:
    roles = {"cls": 0, "pad": 1, "sep": 2, "eos": 2, "mask": 9}
    for doubled, pair in ((True, [0, 10, 2, 2, 20, 2]), (False, [0, 10, 2, 20, 2])):
        vocabulary = Vocabulary(50, roles, frozenset(roles.values()), doubled_separator=doubled)
        roberta = InputFormat(OBJECTIVES["mlm"]().format(vocabulary, (40,)))
        assert roberta.frame([10], [20]).example.input_ids.tolist() == pair


def test_bert_vocabularies_part_a_pair_with_one_token(tmp_path: Path) -> None:
    """Whatever the objective: a DistilBERT over BERT's vocabulary reads pairs as BERT does, RoBERTa's as it does."""
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n", encoding="utf-8")
    assert not Tokenizer.load(tmp_path / "vocab.txt").vocabulary().doubled_separator
    letters = {name: k for k, name in enumerate(["<s>", "</s>", "<pad>", "<mask>", "a", "Ġ"])}
    tokenizer = Tokenizer(byte_bpe(letters, [], lowercase=False))
    assert tokenizer.vocabulary().doubled_separator


@pytest.mark.parametrize("room", range(12))
def test_the_longer_text_loses_its_end_a_token_at_a_time(room: int) -> None:
    """Against the loop of the original BERT: the first text loses a token only while it is the longer one."""
    for first in range(8):
        for second in range(8):
            a, b = first, second
            while a + b > room:
                if a > b:
                    a -= 1
                else:
                    b -= 1
            assert truncate_pair(first, second, room) == (a, b)


def test_a_text_that_is_too_long_is_cut_and_counted() -> None:
    made = input_format("bert", length=6)
    framed = made.frame(range(10, 20))
    assert framed.example.input_ids.tolist() == [1, 10, 11, 12, 13, 2] and framed.cut == 6
    assert made.frame([10, 11, 12], [20, 21, 22]).cut == 3


def test_a_length_beyond_the_positions_is_refused() -> None:
    assert input_format("mlm", positions=40).length == 38
    with pytest.raises(UserError, match=r"max_length=39 is more than the model's 38 positions"):
        input_format("mlm", positions=40, length=39)
