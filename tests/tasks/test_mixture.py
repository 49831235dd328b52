"""Mixtures of tasks: how often each is drawn, that nothing is lost, and how their data are found."""

from pathlib import Path

import numpy as np
import pytest

from blankfill.errors import UserError
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.items import MixedItem, Split, TextItem
from blankfill.tasks.text.mixing import MixedEpochs, apportioned, rates
from blankfill.tasks.text.mixture import Mixture


def test_shares_by_size_limit_and_temperature() -> None:
    """T5's formula: min(items, limit), to the power 1/temperature."""
    assert rates([300, 100]) == pytest.approx([0.75, 0.25])
    assert rates([300, 100], limit=200) == pytest.approx([2 / 3, 1 / 3])
    assert rates([400, 100], temperature=2) == pytest.approx([2 / 3, 1 / 3])
    assert rates([400, 1], temperature=1e6) == pytest.approx([0.5, 0.5], abs=1e-4)
    assert rates([400, 100], limit=100, temperature=3) == pytest.approx([0.5, 0.5])


def test_counts_add_up() -> None:
    assert apportioned(10, [0.75, 0.25]) == [8, 2] and apportioned(3, [1 / 3] * 3) == [1, 1, 1]
    for count in range(50):
        assert sum(apportioned(count, rates([7, 20, 1], temperature=2))) == count


def test_epochs_draw_by_their_shares_and_go_on() -> None:
    """A small task's items come again and again, a large one's not before all of them have come."""
    sizes = (4, 36)
    epochs = MixedEpochs(40, 8, 3, sizes, tuple(rates(sizes, limit=4)))
    drawn = np.concatenate([epochs.items(step) for step in range(2 * epochs.steps)])
    assert len(drawn) == 80
    of_each = [drawn[drawn < 4], drawn[drawn >= 4]]
    assert [len(members) for members in of_each] == [40, 40]
    assert np.bincount(of_each[0]).tolist() == [10, 10, 10, 10]
    assert set(of_each[1]) == set(range(4, 40))
    again = MixedEpochs(40, 8, 3, sizes, tuple(rates(sizes, limit=4)))
    assert np.array_equal(again.items(7), epochs.items(7))
    other = MixedEpochs(40, 8, 4, sizes, tuple(rates(sizes, limit=4)))
    assert not np.array_equal(np.sort(other.items(0)), np.sort(epochs.items(0)))
    plain = MixedEpochs(40, 8, 3, sizes, tuple(rates(sizes)))
    assert sorted(np.concatenate([plain.items(step) for step in range(5)]).tolist()) == list(range(40))


def test_a_mixture_is_a_task() -> None:
    task = task_named("RTE+cola+scitldr")
    assert isinstance(task, Mixture) and task.name == "rte+cola+scitldr" and task.primary_metric == "average"
    assert task.metrics[:3] == ("rte accuracy", "cola mcc", "scitldr rouge1")
    split = task.mixed([Split([TextItem("1", "a", "b", 0)], task.members[0].labels), Split([]), Split([])])
    assert split.items == [MixedItem("1", "rte", TextItem("1", "a", "b", 0))]
    assert split.labels[:2] == ("rte:entailment", "rte:not_entailment")
    assert task.labels_of(task.members[1], split.labels) == ("0", "1")
    for name, message in (("rte+rte", "each named once"), ("rte+", "There is no task ''"), ("rte+no", "no task 'no'")):
        with pytest.raises(UserError, match=message):
            task_named(name)


def test_where_the_data_are(tmp_path: Path) -> None:
    task = task_named("rte+cola")
    assert isinstance(task, Mixture)
    assert task.places(tmp_path) == {"rte": tmp_path, "cola": tmp_path}
    file = tmp_path / "data.yaml"
    file.write_text("rte: glue/RTE\ncola: /else/CoLA\n", encoding="utf-8")
    assert task.places(file) == {"rte": tmp_path / "glue/RTE", "cola": Path("/else/CoLA")}
    file.write_text("rte: glue/RTE\n", encoding="utf-8")
    with pytest.raises(UserError, match="it does not say where cola is"):
        task.places(file)
    with pytest.raises(UserError, match=r"nowhere\.yaml does not exist"):
        task.places(tmp_path / "nowhere.yaml")
