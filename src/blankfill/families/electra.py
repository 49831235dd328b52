"""ELECTRA's names and config.json (transformers' `electra`; Clark et al. 2020): its generator or its discriminator.

They are separate models in transformers. A model of ours with both is written as the discriminator, with the
generator's weights in a separate file; `export --part generator` writes the generator.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from blankfill.families.bert import (
    BERT_PRESET,
    BUFFERS,
    OLD_NAMES,
    PLAIN_OPTIONS,
    encoder_rules,
    encoder_sizes,
    encoder_values,
)
from blankfill.families.spec import FamilySpec
from blankfill.families.task_heads import TaskHeads
from blankfill.families.weight_names import Table, WeightNames, both, flag, number, plain, real, refuse_options
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Electra, Objective

HEAD = "replaced_tokens"
PARTS = {"generator_predictions.", "generator_lm_head."}, {"discriminator_predictions."}


class ElectraNames(WeightNames):
    """ELECTRA's generator with its language-model head, its discriminator with its head, or one of them bare."""

    name = model_type = "electra"
    objective = Electra
    inputs = ("input_ids", "token_type_ids", "attention_mask")
    task_heads = TaskHeads(
        "Electra", "electra.", "sequence_summary.summary", "gelu", text=("classifier.dense", "classifier.out_proj")
    )
    apart = frozenset({"generator_size", "lm_head", "head_transform", "head_bias"})

    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Sizes from config.json, heads from the names."""
        refuse_options(values, PLAIN_OPTIONS)
        words, detects = (any(name.removeprefix("module.").startswith(tuple(part)) for name in names) for part in PARTS)
        sizes = encoder_sizes(values)
        width = number(values, "embedding_size", 128)
        return TransformerConfig(
            **sizes,
            embedding_size=0 if width == sizes["hidden_size"] else width,
            position_sizes=(number(values, "max_position_embeddings"), number(values, "type_vocab_size", 2)),
            norm_eps=real(values, "layer_norm_eps", 1e-12),
            heads=(HEAD,) if detects else (),
            lm_head=words,
            head_transform=words,
            head_activation="gelu" if words and sizes["activation"] != "gelu" else "same",
            head_bias=words,
            tied=flag(values, "tie_word_embeddings", True) or not words,
            init="truncated_normal",
            classifier_transform="gelu",
        )

    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """The values of transformers' `ElectraConfig`."""
        kind = "ForPreTraining" if config.heads else "ForMaskedLM" if config.lm_head else "Model"
        return {
            "architectures": [f"Electra{kind}"],
            "model_type": self.model_type,
            **encoder_values(config),
            "embedding_size": config.word_size,
            "max_position_embeddings": config.position_sizes[0],
            "type_vocab_size": config.position_sizes[-1],
        }

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """ELECTRA's names; a model without heads has no `electra.` before them."""
        words = config.lm_head and not config.heads
        base = "electra." if config.heads or words else ""
        table = f"{base}embeddings.word_embeddings.weight"
        rules = encoder_rules(config, base) + plain({
            "positions.0.weight": f"{base}embeddings.position_embeddings.weight",
            "positions.1.weight": f"{base}embeddings.token_type_embeddings.weight",
        })  # fmt: skip
        if config.embedding_size:
            rules += both({"embedding_projection": f"{base}embeddings_project"})
        if config.heads:
            head, theirs = f"heads.{HEAD}", "discriminator_predictions"
            rules += both({f"{head}.dense": f"{theirs}.dense", f"{head}.prediction": f"{theirs}.dense_prediction"})
        if words:
            theirs = "generator_predictions"
            rules += both({"lm_head.dense": f"{theirs}.dense", "lm_head.norm": f"{theirs}.LayerNorm"})
            rules += plain({"lm_head.bias": "generator_lm_head.bias"})
            rules += plain({} if config.tied else {"lm_head.table": "generator_lm_head.weight"})
        prefix = (r"^(?!electra\.|generator_|discriminator_)", base) if base else (r"^electra\.", "")
        copies = {"generator_lm_head.weight": table} if words and config.tied else {}
        apart = (f"heads.{HEAD}.generator.", "lm_head.") if config.generator_size else ()
        return Table(tuple(rules), BUFFERS, (*OLD_NAMES, prefix), apart, copies=copies)

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Replaced tokens over all positions."""
        return Electra(config.position_sizes[0])


PRESET = {
    **{k: v for k, v in BERT_PRESET.items() if k != "pooler"},
    "activation": "gelu",
    "classifier_transform": "gelu",
}
ELECTRA = FamilySpec(
    name="electra", source="Clark et al. 2020; google-research/electra", docs="objectives/electra",
    preset=PRESET, channels=("pos", "type"), optional_embedding_size=True, weight_names=ElectraNames(),
    default_for=("electra",), recipes=("electra-nano", "electra-small", "electra-base", "electra-large"),
)  # fmt: skip
