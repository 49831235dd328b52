"""The groups of fine-tuning's optimiser."""

from blankfill.tasks.heads.models import TaskModel, new_head
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.text.seq2seq_model import WritingModel
from blankfill.tasks.training import task_optimizer
from blankfill.training.options import TrainOptions
from generate_models import random_model


def scales(options: FinetuneOptions, embedding_lr_multiplier: float) -> dict[str, tuple[float, float]]:
    """For each weight that learns, its multiple of the rate and its decay."""
    encoder = random_model("bert")
    model = TaskModel(encoder, new_head(encoder, "class", 2, True, 0))
    groups = task_optimizer(model, options, TrainOptions(), embedding_lr_multiplier).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr_scale"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }


def test_the_word_table_has_a_rate_of_its_own() -> None:
    """And decays no faster for it, as in pretraining; below it is that of its layer."""
    rates = scales(FinetuneOptions(layer_decay=0.5, weight_decay=0.01), 16.0)
    layers = random_model("bert").config.num_layers
    lowest = 0.5 ** (layers + 1)
    assert rates["encoder.token_embeddings.weight"] == (16 * lowest, 0.01 / 16)
    assert rates["encoder.positions.0.weight"] == (lowest, 0.01)
    assert rates["head.output.weight"] == (1.0, 0.01)
    plain = scales(FinetuneOptions(layer_decay=0.5, weight_decay=0.01), 1.0)
    assert plain == {**rates, "encoder.token_embeddings.weight": (lowest, 0.01)}


def test_a_frozen_table_has_none() -> None:
    assert not any(name.startswith("encoder.") for name in scales(FinetuneOptions(freeze=-1), 16.0))


def test_the_stack_that_reads_stands_below_the_one_that_writes() -> None:
    """Of two layers each: freezing three of them leaves the decoder's last one, and what is above it, to learn."""
    model = WritingModel(random_model("bart"))
    options = FinetuneOptions(freeze=3, layer_decay=0.5)
    groups = task_optimizer(model, options, TrainOptions()).param_groups
    assert {group["lr_scale"] for group in groups} == {0.5}
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning and all(name.startswith("encoder.layers.1.") for name in learning)
    model = WritingModel(random_model("t5"))
    groups = task_optimizer(model, FinetuneOptions(layer_decay=0.5), TrainOptions()).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    scale = {names[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}
    expected = {"token_embeddings": 5, "encoder.position_bias": 5, "encoder.layers.0.attention.qkv": 4,
                "encoder.final_norm": 3, "layers.0.cross.query": 2, "layers.1.ffn.inner": 1,
                "final_norm": 0}  # fmt: skip
    assert {name: scale[f"encoder.{name}.weight"] for name in expected} == {
        name: 0.5**depth for name, depth in expected.items()
    }
