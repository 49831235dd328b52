"""XLNet's names and config.json (transformers' `xlnet`; Yang et al. 2019)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blankfill.families.spec import FamilySpec
from blankfill.families.task_heads import TaskHeads
from blankfill.families.weight_names import (
    WHERE,
    Rule,
    Table,
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
from blankfill.objectives import Objective, Xlnet
from blankfill.system.reading import field

if TYPE_CHECKING:
    from torch import Tensor

LENGTH = 512
"""Row length of the released models, which their config.json does not contain; longer rows are possible."""
BIASES = {"content_bias": "r_w_bias", "distance_bias": "r_r_bias", "segment_bias": "r_s_bias", "segments": "seg_embed"}


@dataclass(frozen=True)
class Heads(Rule):
    """A dense matrix [H·E, D] (or several, concatenated along rows), each of which they store as [D, H, E]."""

    heads: int = 1

    def to_ours(self, theirs: Sequence[Tensor]) -> Tensor:
        """[n·H·E, D] from n of [D, H, E]."""
        import torch

        return torch.cat([tensor.flatten(1).T for tensor in theirs]).contiguous()

    def to_theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """n of [D, H, E] from [n·H·E, D]."""
        parts = ours.chunk(len(self.theirs))
        return [part.T.reshape(part.shape[1], self.heads, -1).contiguous() for part in parts]


@dataclass(frozen=True)
class Reshaped(Rule):
    """The same numbers in the same order in another shape. `shape` is theirs, `ours_shape` ours."""

    shape: tuple[int, ...] = ()
    ours_shape: tuple[int, ...] = ()

    def to_ours(self, theirs: Sequence[Tensor]) -> Tensor:
        """Ours from theirs."""
        return theirs[0].reshape(self.ours_shape)

    def to_theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """Theirs from ours."""
        return [ours.reshape(self.shape)]


class XlnetNames(WeightNames):
    """XLNet with or without its LM head."""

    name = "xlnet"
    model_type = "xlnet"
    objective = Xlnet
    inputs = ("input_ids", "token_type_ids", "attention_mask")
    task_heads = TaskHeads(
        "XLNet", "transformer.", "sequence_summary.summary", text=("sequence_summary.summary", "logits_proj"),
        choice="logits_proj", ends={"span": "ForQuestionAnsweringSimple"},
    )  # fmt: skip

    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Read sizes from config.json, the head from the names."""
        refuse_options(values, {"attn_type": "bi", "bi_data": False, "same_length": False, "untie_r": True})
        words = any(name.startswith("lm_loss.") for name in names)
        return TransformerConfig(
            vocab_size=number(values, "vocab_size"),
            hidden_size=number(values, "d_model"),
            num_layers=number(values, "n_layer"),
            num_heads=number(values, "n_head"),
            ffn_size=number(values, "d_inner"),
            position_sizes=(number(values, "n_positions", LENGTH), 3, 3),
            position_scheme="relative",
            clamp=max(0, field(values, "clamp_len", int, WHERE, -1)),
            norm="post",
            norm_eps=real(values, "layer_norm_eps", 1e-12),
            activation=activation_of(values, "ff_activation", "gelu"),
            attention_bias=False,
            dropout=real(values, "dropout", 0.1),
            attention_dropout=real(values, "dropout", 0.1),
            lm_head=words,
            tied=flag(values, "tie_word_embeddings", True) or not words,
            head_bias=words,
            init_std=real(values, "initializer_range", 0.02),
        )

    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """Return the values of transformers' `XLNetConfig`, and `n_positions`, which is a field of our own."""
        return {
            "architectures": ["XLNetLMHeadModel" if config.lm_head else "XLNetModel"],
            "model_type": self.model_type,
            "vocab_size": config.vocab_size,
            "d_model": config.hidden_size,
            "n_layer": config.num_layers,
            "n_head": config.num_heads,
            "d_head": config.hidden_size // config.num_heads,
            "d_inner": config.ffn_size,
            "n_positions": config.position_sizes[0],
            "ff_activation": activation_name(config.activation),
            "attn_type": "bi",
            "bi_data": False,
            "same_length": False,
            "untie_r": True,
            "clamp_len": config.clamp or -1,
            "mem_len": None,
            "reuse_len": None,
            "dropout": config.dropout,
            "initializer_range": config.init_std,
            "layer_norm_eps": config.norm_eps,
            "tie_word_embeddings": config.tied,
        }

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """Return XLNet's names; a model without the LM head has no `transformer.` before them."""
        D, H = config.hidden_size, config.num_heads
        base = "transformer." if config.lm_head else ""
        rules = plain({"token_embeddings.weight": f"{base}word_embedding.weight"})
        rules.append(Reshaped("query", (f"{base}mask_emb",), (1, 1, D), (1, D)))
        for k in range(config.num_layers):
            ours, theirs = f"layers.{k}.", f"{base}layer.{k}."
            attention = f"{theirs}rel_attn."
            rules += [
                Heads(f"{ours}attention.qkv.weight", tuple(f"{attention}{name}" for name in "qkv"), H),
                Reshaped(f"{ours}attention.output.weight", (f"{attention}o",), (D, H, D // H), (D, D)),
                Heads(f"{ours}attention.relative.distance.weight", (f"{attention}r",), H),
            ]
            rules += plain({f"{ours}attention.relative.{a}": f"{attention}{b}" for a, b in BIASES.items()})
            rules += both({
                f"{ours}attention_norm": f"{attention}layer_norm", f"{ours}ffn.inner": f"{theirs}ff.layer_1",
                f"{ours}ffn.output": f"{theirs}ff.layer_2", f"{ours}ffn_norm": f"{theirs}ff.layer_norm",
            })  # fmt: skip
        if config.head_bias:
            rules.append(Rule("lm_head.bias", ("lm_loss.bias",)))
        if not config.tied:
            rules.append(Rule("lm_head.table", ("lm_loss.weight",)))
        copies = {"lm_loss.weight": f"{base}word_embedding.weight"} if config.tied and config.lm_head else {}
        prefix = (r"^(?!transformer\.|lm_loss\.)", base) if base else (r"^transformer\.", "")
        return Table(tuple(rules), (), ((r"^module\.", ""), prefix), copies=copies)

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Return the objective: permutations, in rows of the length of its training."""
        return Xlnet(config.position_sizes[0])


XLNET = FamilySpec(
    name="xlnet",
    source="Yang et al. 2019; zihangdai/xlnet",
    preset={
        "norm": "post",
        "norm_eps": 1e-12,
        "activation": "gelu_tanh",
        "head_bias": True,
        "position_scheme": "relative",
        "attention_bias": False,
    },
    channels=("pos", "type", "stream"),
    weight_names=XlnetNames(),
    default_for=("xlnet",),
    recipes=("xlnet-nano", "xlnet-base", "xlnet-large"),
    docs="objectives/xlnet",
)
