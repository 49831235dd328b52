"""What `blankfill bench` times: made-up rows that are those of a run, through the loop that trains."""

import numpy as np
import pytest
import torch

from blankfill.errors import UserError
from blankfill.families.registry import FAMILIES, default_family
from blankfill.objectives import OBJECTIVES
from blankfill.planning.bench import Bench, Shape, examples_per_second, made_up_vocabulary, shape_named

CPU = torch.device("cpu")


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_rows_are_full_and_ask_for_what_the_objective_asks(objective: str) -> None:
    shape = Shape(objective, 1, 64, length=64, rows=6, vocabulary=500)
    for batch in shape.batches(2):
        assert batch.input_ids.shape[0] == 6
        assert batch.tokens / batch.input_ids.numel() > 0.8  # pseudo masks and blanks stand behind, a few more or less
        share = len(batch.target_ids) / batch.tokens
        assert (share > 0.9) if objective == "gpt" else (0.05 < share < 0.6)
    first, again = (shape.batches(1, seed=3)[0].input_ids for _ in range(2))
    assert torch.equal(first, again)


def test_every_objective_has_a_family_to_be_measured_with() -> None:
    assert all(default_family(name) in FAMILIES for name in OBJECTIVES)


def test_steps_train() -> None:
    """The rows are learnt by heart: what is timed is training, not an empty loop."""
    bench = Bench(Shape("bert", 1, 64, length=16, rows=4, dropout=0.0, vocabulary=30), CPU, torch.float32)
    before = {name: tensor.clone() for name, tensor in bench.trainer.model.state_dict().items()}
    wall, process = bench.steps(5)
    assert len(wall) == len(process) == 5 and min(wall) > 0
    assert bench.progress.step == 5
    moved = [name for name, tensor in bench.trainer.model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert len(moved) > 0.9 * len(before)


def test_rates_are_positive_and_finite() -> None:
    assert 10 < examples_per_second(Shape("mlm", 1, 64, length=32, rows=4, vocabulary=60), 0.02) < 1e7


def test_names() -> None:
    assert shape_named("gpt-12x768", rows=3) == Shape("gpt", 12, 768, rows=3)
    assert shape_named("glm-130b-2x128") == Shape("glm-130b", 2, 128)  # this name has a hyphen of its own
    assert shape_named("chatglm-2x128") == Shape("chatglm", 2, 128)
    for name in ("gpt", "gpt-12", "gpt-ax3", "t9-1x64", ""):
        with pytest.raises(UserError, match="is no shape"):
            shape_named(name)
    marked = made_up_vocabulary(200, 3)
    assert marked.sentinels == (199, 198, 197) and marked.special >= {197, 198, 199}
    vocabulary = made_up_vocabulary(20)
    assert vocabulary.size == 20 and vocabulary.word_start is not None and np.all(vocabulary.word_start)
