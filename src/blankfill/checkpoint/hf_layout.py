"""The layout of checkpoint folders that transformers opens: the names of the weights and the files beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from blankfill.checkpoint.hf_loading import CONFIG
from blankfill.checkpoint.store import HFLayout
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.tokenizer_files import NEEDED, Post
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

    dtype: of the weights, by torch's name.
    """
    longest = checkpoint_format.config.position_sizes[0] - objective.position_offset
    files = tokenizer_files(objective, tokenizer, vocabulary, checkpoint_format.family.inputs, longest)
    values = checkpoint_format.config_json(vocabulary, dtype)
    return HFLayout(checkpoint_format, {CONFIG: json.dumps(values, indent=2) + "\n", **files})


def tokenizer_files(
    objective: Objective, tokenizer: Tokenizer, vocabulary: Vocabulary, inputs: Sequence[str], longest: int
) -> dict[str, str]:
    """Return the texts of a tokenizer's files, by name, that frame text as the model was trained to read it.

    inputs: names of the tensors that it makes. longest: the most tokens of a text. A prompt to be continued must not
    end in [SEP], so for gpt and glm the tokenizer puts nothing around a text; for chatglm it puts [gMASK] <sop> behind.
    """
    post: Post = "none"
    frame = objective.hf_frame
    if frame != "none":
        last = tokenizer.frame()[1][-1:]
        ends = {"last": last == (vocabulary.roles.get("cls"),), "end": last == (vocabulary.roles.get("eos"),)}
        ends["blank"] = False  # written again each time, since padding on the left comes with it
        framed = ends.get(frame, tokenizer.adds_special)
        able = not vocabulary.missing(NEEDED[frame])
        post = frame if able and not framed else "keep"
    return tokenizer.files(post=post, inputs=inputs, longest=longest)
