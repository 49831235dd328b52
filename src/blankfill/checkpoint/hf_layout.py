"""What makes a checkpoint folder one that transformers opens: the form of its weights and the files beside them."""

from __future__ import annotations

import json

from blankfill.checkpoint.hf_loading import CONFIG
from blankfill.checkpoint.store import Dress
from blankfill.corpus.tokenizer import Post, Tokenizer
from blankfill.families.form import Form, form_of
from blankfill.model.config import TransformerConfig
from blankfill.objectives import T5, Bart, Mlm, Objective, Xlnet
from blankfill.types import Vocabulary


def dress_of(config: TransformerConfig, objective: Objective, tokenizer: Tokenizer) -> Dress | None:
    """How the checkpoints of a run look to transformers; None when it has no class for the model."""
    form = form_of(config, objective, tokenizer.vocabulary())
    return dressed(form, objective, tokenizer, tokenizer.vocabulary()) if isinstance(form, Form) else None


def dressed(
    form: Form, objective: Objective, tokenizer: Tokenizer, vocabulary: Vocabulary, dtype: str = "float32"
) -> Dress:
    """The files of a form: config.json, and a tokenizer that frames text as the model was trained to read it.

    dtype: of the weights, by torch's name. A prompt to be continued must not end in [SEP], so for gpt and glm the
    tokenizer puts nothing around a text.
    """
    post: Post = "none"
    able = not vocabulary.missing(("cls", "sep"))
    if objective.masked or isinstance(objective, Bart):
        post = "pair" if able and not tokenizer.adds_special else "keep"
    if isinstance(objective, Xlnet):
        own = tokenizer.frame()[1][-1:] == (vocabulary.roles.get("cls"),)
        post = "last" if able and not own else "keep"
    if isinstance(objective, T5):
        post = "end" if "eos" in vocabulary.roles and not tokenizer.adds_special else "keep"
    files = tokenizer.files(post=post, inputs=form.family.inputs, longest=longest(form, objective))
    values = form.config_json(vocabulary, dtype)
    return Dress(form, {CONFIG: json.dumps(values, indent=2) + "\n", **files})


def longest(form: Form, objective: Objective) -> int:
    """The most tokens of a text that the model can read."""
    offset = objective.position_offset if isinstance(objective, Mlm | Bart) else 0
    return form.config.position_sizes[0] - offset
