"""GPT-2's names and config.json (transformers' `gpt2`; Radford et al. 2019)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from blankfill.families.spec import FamilySpec
from blankfill.families.weight_names import (
    Rule,
    Table,
    Transposed,
    WeightNames,
    activation_name,
    activation_of,
    both,
    flag,
    number,
    plain,
    real,
    refuse_options,
)
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Gpt, Objective

PARTS = {
    "attention_norm": "ln_1", "attention.qkv": "attn.c_attn", "attention.output": "attn.c_proj", "ffn_norm": "ln_2",
    "ffn.inner": "mlp.c_fc", "ffn.output": "mlp.c_proj",
}  # fmt: skip


class Gpt2Names(WeightNames):
    """GPT-2 with its language-model head; the matrices of its layers are stored as [in, out]."""

    name = "gpt2"
    model_type = "gpt2"
    counts_prefix = True
    objective = Gpt

    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Read sizes from config.json."""
        refuse_options(
            values,
            {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
        )
        width = number(values, "n_embd")
        return TransformerConfig(
            vocab_size=number(values, "vocab_size"),
            hidden_size=width,
            num_layers=number(values, "n_layer"),
            num_heads=number(values, "n_head"),
            ffn_size=number(values, "n_inner") if values.get("n_inner") is not None else 4 * width,
            position_sizes=(number(values, "n_positions"),),
            norm_eps=real(values, "layer_norm_epsilon", 1e-5),
            activation=activation_of(values, "activation_function", "gelu_new"),
            dropout=real(values, "resid_pdrop", 0.1),
            attention_dropout=real(values, "attn_pdrop", 0.1),
            tied=flag(values, "tie_word_embeddings", True),
            init_std=real(values, "initializer_range", 0.02),
            scaled_init=True,
        )

    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """Return the values of transformers' `GPT2Config`."""
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": self.model_type,
            "vocab_size": config.vocab_size,
            "n_positions": config.position_sizes[0],
            "n_ctx": config.position_sizes[0],
            "n_embd": config.hidden_size,
            "n_layer": config.num_layers,
            "n_head": config.num_heads,
            "n_inner": config.ffn_size,
            "activation_function": activation_name(config.activation),
            "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "attn_pdrop": config.attention_dropout,
            "layer_norm_epsilon": config.norm_eps,
            "initializer_range": config.init_std,
            "tie_word_embeddings": config.tied,
        }

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """Return GPT-2's names; the release itself has no `transformer.` before them."""
        base = "transformer."
        rules = plain({"token_embeddings.weight": f"{base}wte.weight", "positions.0.weight": f"{base}wpe.weight"})
        rules += both({"final_norm": f"{base}ln_f"})
        for k in range(config.num_layers):
            for mine, other in PARTS.items():
                kind = Rule if mine.endswith("norm") else Transposed
                rules.append(kind(f"layers.{k}.{mine}.weight", (f"{base}h.{k}.{other}.weight",)))
                rules.append(Rule(f"layers.{k}.{mine}.bias", (f"{base}h.{k}.{other}.bias",)))
        if not config.tied:
            rules.append(Rule("lm_head.table", ("lm_head.weight",)))
        aliases = ((r"^module\.", ""), (r"^(?!transformer\.|lm_head\.)", base))
        copies = {"lm_head.weight": f"{base}wte.weight"} if config.tied else {}
        return Table(tuple(rules), (r"\.attn\.(bias|masked_bias)$",), aliases, copies=copies)

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Return the objective: the next token, over all positions, in a stream of documents as OpenAI trained it."""
        return Gpt(config.position_sizes[0], documents="stream")

    def token_ids(self, roles: Mapping[str, int]) -> dict[str, int | list[int] | None]:
        """Return the id of the end-of-text token, which also begins a text."""
        return {"bos_token_id": roles.get("eos"), "eos_token_id": roles.get("eos")}


GPT2 = FamilySpec(
    name="gpt2",
    # the release draws positions with std 0.01 and has no residual scaling; its paper has the scaling, as here
    source="Radford et al. 2019; openai/gpt-2 model.py",
    preset={"norm": "pre", "norm_eps": 1e-5, "activation": "gelu_tanh", "scaled_init": True},
    causal=True,
    weight_names=Gpt2Names(),
    default_for=("gpt",),
    recipes=("gpt-nano", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"),
    docs="objectives/gpt",
)
