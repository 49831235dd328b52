"""RoBERTa's names and config.json (transformers' `roberta`; Liu et al. 2019).

Its positions are numbered from the padding's id + 1 (2, as its padding is token 1); for a run whose padding has another
id the position rows are shifted. Its token type is the same for every token, the first one where the table has more (2
by default in transformers); it is added to every position when it is read, and is written as zeros: the model computes
the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from blankfill.errors import UserError
from blankfill.families.bert import (
    BUFFERS,
    OLD_NAMES,
    PLAIN_OPTIONS,
    encoder_rules,
    encoder_sizes,
    encoder_values,
    output_copies,
    output_rules,
)
from blankfill.families.spec import FamilySpec
from blankfill.families.task_heads import TaskHeads
from blankfill.families.weight_names import (
    WHERE,
    Positions,
    Table,
    WeightNames,
    both,
    flag,
    number,
    real,
    refuse_options,
)
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Mlm, Objective
from blankfill.system.reading import field, shown


class RobertaNames(WeightNames):
    """RoBERTa with its language-model head, with a pooler, or bare."""

    name = "roberta"
    model_type = "roberta"
    objective = Mlm
    task_heads = TaskHeads(
        "Roberta", "roberta.", "roberta.pooler.dense", text=("classifier.dense", "classifier.out_proj")
    )

    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Read sizes from config.json, heads from the names."""
        refuse_options(values, PLAIN_OPTIONS)
        present = {name.removeprefix("module.") for name in names}
        pooler = any("pooler.dense" in name for name in present)
        words = any(name.startswith("lm_head.") for name in present)
        made = TransformerConfig(
            **encoder_sizes(values),
            position_sizes=(number(values, "max_position_embeddings"),),
            norm_eps=real(values, "layer_norm_eps", 1e-12),
            lm_head=words,
            head_transform=words,
            head_bias=words,
            tied=flag(values, "tie_word_embeddings", True) or not words,
            pooler=pooler,
            pair_classifier=not pooler,
        )
        return made if made.activation == "gelu" or not words else replace(made, head_activation="gelu")

    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """Return the values of transformers' `RobertaConfig`. shift: number of rows by which the table is longer
        there."""
        return {
            "architectures": ["RobertaForMaskedLM" if config.lm_head else "RobertaModel"],
            "model_type": self.model_type,
            **encoder_values(config),
            "max_position_embeddings": config.position_sizes[0] + shift,
            "type_vocab_size": 1,
        }

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """Return RoBERTa's names; a model without the language-model head has no `roberta.` before them."""
        base = "roberta." if config.lm_head else ""
        embeddings = f"{base}embeddings."
        rules = encoder_rules(config, base)
        theirs = (f"{embeddings}position_embeddings.weight", f"{embeddings}token_type_embeddings.weight")
        rules.append(Positions("positions.0.weight", theirs, shift))
        if config.head_transform:
            rules += both({"lm_head.dense": "lm_head.dense", "lm_head.norm": "lm_head.layer_norm"})
            rules += output_rules(config, "lm_head.bias", "lm_head.decoder")
        if config.pooler:
            rules += both({"pooler.dense": f"{base}pooler.dense"})
        prefix = (r"^(?!roberta\.|lm_head\.)", "roberta.") if base else (r"^roberta\.", "")
        return Table(
            tuple(rules), BUFFERS, (*OLD_NAMES, prefix), longer=frozenset(theirs[1:]),
            **output_copies(config, "lm_head.decoder", base),
        )  # fmt: skip

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Return the objective: masked words over all positions that text can have."""
        pad = values.get("pad_token_id")
        first = (0 if pad is None else field(values, "pad_token_id", int, WHERE)) + 1
        if not 0 < first < config.position_sizes[0]:
            raise UserError(
                f"{WHERE}: pad_token_id is {shown(pad)}, behind which positions begin, and their table has "
                f"{config.position_sizes[0]} rows"
            )
        return Mlm(config.position_sizes[0] - first, position_offset=first)

    def shift(self, objective: Objective, pad: int) -> int:
        """Return the shift: their first position is the padding's id + 1, ours is the objective's offset."""
        return pad + 1 - objective.position_offset


ROBERTA = FamilySpec(
    name="roberta",
    source="Liu et al. 2019; fairseq roberta",
    preset={
        "norm": "post",
        "norm_eps": 1e-5,
        "embedding_norm": True,
        "activation": "gelu",
        "head_transform": True,
        "head_bias": True,
    },
    weight_names=RobertaNames(),
    default_for=("mlm",),
    recipes=("roberta-nano", "roberta-base", "roberta-large"),
    docs="objectives/mlm",
)
