"""A model with a fine-tuned head in a format of transformers: the class that computes the same, and its weights.

The encoder is written bare, without the heads of pretraining, below the prefix that it has in the class; the head's
layers follow under the names that `WeightNames.task_heads` gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from blankfill.errors import setting
from blankfill.families.checkpoint_format import CheckpointFormat, checkpoint_format_of
from blankfill.families.registry import weight_names
from blankfill.families.task_heads import CLASSES, HeadKind, HeadNames
from blankfill.families.weight_names import WeightNames
from blankfill.model.config import ClassifierTransform, TransformerConfig
from blankfill.objectives import Objective
from blankfill.types import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

NO_TYPES = "positions.1.weight"
"""The token type embeddings, which are zeros if a model without them is written as one that has them."""
TYPES = 2
"""Number of rows of that table: the first text and the second."""


@dataclass(frozen=True)
class HeadFormat:
    """A model with a head, in transformers' names. encoder: the bare encoder. prefix: of its weights in the class."""

    encoder: CheckpointFormat
    prefix: str
    names: HeadNames
    without_types: bool = False
    """Whether the encoder has no token types, although the format has."""
    own_prefix: str = ""
    """Prefix of the weights in the format of the encoder, which `prefix` replaces."""
    left_out: tuple[str, ...] = ()
    """Beginnings of the names of the format's weights that the class does not have."""

    def config_json(self, vocabulary: Vocabulary, dtype: str, head: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of config.json. head: the values for the head alone, such as the names of labels."""
        values = self.encoder.config_json(vocabulary, dtype)
        return {**values, "architectures": [self.names.architecture], **head}

    def to_theirs(
        self,
        encoder: Mapping[str, Tensor],
        output: Mapping[str, Tensor],
        dense: Mapping[str, Tensor],
        norm: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Their tensors. encoder: our weights of the whole model; the others: weight and bias of a layer of the head,
        nothing where there is none."""
        out = self.encoder_to_theirs(encoder)
        for theirs, layer in ((self.names.dense, dense), (self.names.norm, norm), (self.names.output, output)):
            out |= {f"{theirs}.{part}": tensor for part, tensor in layer.items()}
        return out

    def encoder_to_theirs(self, encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the encoder in the class. encoder: our weights of the whole model."""
        table = self.encoder.table
        wanted = {rule.ours for rule in table.rules}
        ours = {name: tensor for name, tensor in encoder.items() if name in wanted}
        if self.without_types:
            ours[NO_TYPES] = encoder["token_embeddings.weight"].new_zeros(TYPES, self.encoder.config.hidden_size)
        theirs = {self.name_of(name): tensor for name, tensor in table.to_theirs(ours).items()}
        return {name: tensor for name, tensor in theirs.items() if name}

    def name_of(self, name: str) -> str:
        """Return the name in the class of a weight of the encoder's format, "" for one that the class does not have."""
        return "" if name.startswith(self.left_out) else self.prefix + name.removeprefix(self.own_prefix)


def head_format_of(
    config: TransformerConfig, kind: HeadKind, objective: Objective, vocabulary: Vocabulary, encoder_only: bool = False
) -> HeadFormat | str:
    """The format of a model with a head on texts, choices, tokens or answers, or why it has none, as a sentence.

    encoder_only: whether the head of a model of two stacks reads the encoder's states.
    """
    families = weight_names()
    if not any(family.task_heads for family in families.values() if family.trained_as(objective)):
        known = ", ".join(name for name, family in families.items() if family.task_heads)
        return (
            f"transformers has no class with the head of a model trained as {objective.name}; fine-tuned models of "
            f"these families can be exported: {known}"
        )
    transform, whole = config.classifier_transform, kind in ("text", "choice")
    bare = replace(
        config, lm_head=False, head_transform=False, head_bias=False, tied=True, scale_logits=False, pooler=False,
        pair_classifier=True, max_span_positions=0, heads=(),
        head_activation=config.head_activation if transform == "lm_head" else "same",
    )  # fmt: skip
    if config.encoder_layers:  # whose formats have no bare model
        bare = replace(config, heads=())
    checkpoint_format = checkpoint_format_of(bare, objective, vocabulary)
    if isinstance(checkpoint_format, str):
        return checkpoint_format
    heads, without_types = checkpoint_format.family.task_heads, False
    if heads is not None and whole and heads.transform != transform and checkpoint_format.family.text_heads_as:
        family = families[checkpoint_format.family.text_heads_as]
        typed = replace(bare, position_sizes=(*bare.position_sizes, TYPES))
        if family.task_heads is not None and not family.differences(typed):
            checkpoint_format, heads, without_types = CheckpointFormat(family, typed), family.task_heads, True
    assert heads is not None
    if kind not in heads.kinds:
        return f"transformers has no class {heads.title}{CLASSES[kind]}"
    names, own = heads.names(kind), "tanh" if config.pooler and whole else transform
    if config.encoder_layers and encoder_only != (kind in heads.encoder_only):
        stack = "encoder" if kind in heads.encoder_only else "decoder"
        return (
            f"{names.architecture} of transformers reads the {stack}'s states, and this head does not; fine-tune it "
            f"with {setting('head_on', stack)}"
        )
    if names.dense and heads.transform != own:
        return f"{names.architecture} of transformers has {heads.transform} before its scores, and this head has {own}"
    if not names.dense and transform == "lm_head":
        return f"{names.architecture} of transformers has no layer before its scores, and this head has one"
    left_out = (*heads.left_out, *((f"{heads.bare}decoder.",) if kind in heads.encoder_only else ()))
    return HeadFormat(checkpoint_format, heads.prefix(kind), names, without_types, heads.bare, left_out)


@dataclass(frozen=True)
class FoundHead:
    """A fine-tuned head in a file. names: its class and layers. transform: the function of its layer before the scores.
    weights: the names of its weights in the file, without those of the encoder's pooler."""

    kind: HeadKind
    names: HeadNames
    transform: ClassifierTransform
    weights: tuple[str, ...]

    @property
    def modules(self) -> list[str]:
        """Return the first parts of the names of its weights, such as `classifier`."""
        return sorted({name.partition(".")[0] for name in self.weights})

    def to_ours(self, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return our weights of the head by name, such as `output.weight`."""
        layers = {"dense": self.names.dense, "norm": self.names.norm, "output": self.names.output}
        return {
            f"{ours}.{part}": theirs[f"{layer}.{part}"]
            for ours, layer in layers.items()
            for part in ("weight", "bias")
            if f"{layer}.{part}" in self.weights
        }


def names_class(family: WeightNames, values: Mapping[str, Any]) -> tuple[HeadKind, HeadNames] | None:
    """Return the kind and the names of the fine-tuned head that a config.json names; None without one."""
    heads, architectures = family.task_heads, values.get("architectures")
    if heads is None or not isinstance(architectures, list):
        return None
    names = ((kind, heads.names(kind)) for kind in CLASSES)
    return next(((kind, head) for kind, head in names if head.architecture in architectures), None)


def find_head(family: WeightNames, values: Mapping[str, Any], names: Iterable[str]) -> FoundHead | None:
    """Return the fine-tuned head of the class that a config.json names, among the names in a file; None without one.

    A pooler is not part of it: it belongs to the encoder.
    """
    if (named := names_class(family, values)) is None or family.task_heads is None:
        return None
    kind, head = named
    encoder = family.task_heads.prefix(kind)
    layers = [f"{layer}." for layer in (head.dense, head.norm, head.output) if layer]
    own = tuple(layer for layer in layers if not encoder or not layer.startswith(encoder))
    weights = tuple(name for name in names if name.startswith(own))
    return FoundHead(kind, head, family.task_heads.transform, weights) if weights else None
