"""The layout of checkpoint folders that transformers opens: the names of the weights and the files beside them."""

from __future__ import annotations

import json

from blankfill.checkpoint.hf_loading import CONFIG
from blankfill.checkpoint.store import HFLayout
from blankfill.corpus.tokenizer import Post, Tokenizer
from blankfill.families.checkpoint_format import CheckpointFormat, checkpoint_format_of
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Objective
from blankfill.types import Vocabulary


def hf_layout_of(config: TransformerConfig, objective: Objective, tokenizer: Tokenizer) -> HFLayout | None:
    """Return the layout of a run's checkpoints for transformers; None when it has no class for the model."""
    checkpoint_format = checkpoint_format_of(config, objective, tokenizer.vocabulary())
    return (
        make_hf_layout(checkpoint_format, objective, tokenizer, tokenizer.vocabulary())
        if isinstance(checkpoint_format, CheckpointFormat)
        else None
    )


def make_hf_layout(
    checkpoint_format: CheckpointFormat,
    objective: Objective,
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    dtype: str = "float32",
) -> HFLayout:
    """Return the files of a format: config.json, and a tokenizer that frames text as the model was trained to read it.

    dtype: of the weights, by torch's name. A prompt to be continued must not end in [SEP], so for gpt and glm the
    tokenizer puts nothing around a text.
    """
    post: Post = "none"
    frame = objective.hf_frame
    if frame != "none":
        ends = tokenizer.frame()[1][-1:] == (vocabulary.roles.get("cls"),)
        framed = ends if frame == "last" else tokenizer.adds_special
        able = "eos" in vocabulary.roles if frame == "end" else not vocabulary.missing(("cls", "sep"))
        post = frame if able and not framed else "keep"
    longest = checkpoint_format.config.position_sizes[0] - objective.position_offset
    files = tokenizer.files(post=post, inputs=checkpoint_format.family.inputs, longest=longest)
    values = checkpoint_format.config_json(vocabulary, dtype)
    return HFLayout(checkpoint_format, {CONFIG: json.dumps(values, indent=2) + "\n", **files})
