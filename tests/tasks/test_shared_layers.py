"""Fine-tuning where layers have their weights in common."""

import pytest

from blankfill.errors import ConfigError
from blankfill.model.config import TransformerConfig
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.training import check_layers, depth_of

CONFIG = TransformerConfig(vocab_size=9, shared="all")


@pytest.mark.parametrize(("given", "flag"), [({"layer_decay": 0.9}, "layer_decay"), ({"freeze": 2}, "freeze")])
def test_what_tells_layers_apart_is_refused(given: dict[str, float], flag: str) -> None:
    with pytest.raises(ConfigError, match=f"{flag} distinguishes layers"):
        check_layers(CONFIG, FinetuneOptions(**given))
    check_layers(TransformerConfig(vocab_size=9), FinetuneOptions(**given))


def test_the_whole_encoder_can_be_frozen() -> None:
    check_layers(CONFIG, FinetuneOptions(freeze=-1))


def test_the_dense_layer_behind_the_embeddings_is_as_deep_as_they_are() -> None:
    names = (
        "encoder.token_embeddings.weight",
        "encoder.embedding_projection.weight",
        "encoder.layers.0.ffn_norm.bias",
        "head.weight",
    )
    assert [depth_of(name, 5) for name in names] == [0, 0, 1, 5]
