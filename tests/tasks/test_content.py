"""The note of fine-tuning data: the same for the same items, another one for any change."""

import dataclasses

import pytest

from blankfill.tasks.content import items_mark
from blankfill.tasks.items import (
    Answer,
    ChoiceItem,
    GenerationItem,
    Item,
    MixedItem,
    QuestionItem,
    TaggedItem,
    TextItem,
)

ITEMS: list[Item] = [
    TextItem("0", "a", "b", 1), TextItem("1", "a", None, 2.5, "g", {"word": "a"}),
    TextItem("2", "é\ud83d", None, (0, 2)),
    ChoiceItem("3", "c", ("x", "y"), 0, (0,), ("n", "m"), {"p": "q"}), TaggedItem("4", ("u", "v"), ("O", "B-X"), 0),
    QuestionItem("5", "q", "c", (Answer("a", 1), Answer("b", None)), False, "t"),
    GenerationItem("6", "s", ("t1", "t2"), "z"), MixedItem("7", "rte", TextItem("0", "a")),
]  # fmt: skip
OTHER = {str: "other", int: 7, float: 7.5, tuple: ("other",), bool: True, dict: {"word": "other"}}


def test_it_is_the_same_for_equal_items() -> None:
    again = [dataclasses.replace(item) for item in ITEMS]
    assert items_mark(ITEMS, ("x",)) == items_mark(again, ("x",))
    assert items_mark(ITEMS)["items"] == len(ITEMS)


@pytest.mark.parametrize("place", range(len(ITEMS)))
def test_every_field_counts(place: int) -> None:
    before = items_mark(ITEMS)
    for field in dataclasses.fields(ITEMS[place]):
        value = getattr(ITEMS[place], field.name)
        new = (
            TextItem("0", "b") if dataclasses.is_dataclass(value) else OTHER[type(value)] if value is not None else "o"
        )
        changed = dataclasses.replace(ITEMS[place], **{field.name: new})
        assert items_mark([*ITEMS[:place], changed, *ITEMS[place + 1 :]]) != before


def test_order_number_and_labels_count() -> None:
    marks = [items_mark(ITEMS), items_mark(ITEMS[::-1]), items_mark(ITEMS[:-1]), items_mark(ITEMS, ("x", "y"))]
    marks.append(items_mark(ITEMS, ("y", "x")))
    assert len({mark["content"] for mark in marks}) == len(marks)
    # separate texts are not joined
    assert items_mark([TaggedItem("0", ("a b",))]) != items_mark([TaggedItem("0", ("a", "b"))])
