"""Writes the files of a tokenizer as transformers' `AutoTokenizer` opens them, and the special tokens that it puts
around a text. Not here: reading them (`tokenizer_formats`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from blankfill.corpus.tokenizer_chunks import steps_of
from blankfill.corpus.tokenizer_roles import ROLE_TOKENS
from blankfill.errors import UserError

SAID = ("pad", "unk", "cls", "sep", "mask", "eos")
"""Roles that other programs name tokens for."""

Post = Literal["keep", "none", "pair", "last", "end", "blank"]
"""The special tokens around a text: "keep" for those of the tokenizer itself, "none", "pair" for `[CLS] a [SEP] b
[SEP]`, "last" for XLNet's `a [SEP] b [SEP] [CLS]`, "end" for T5's `a </s> b </s>`, "blank" for ChatGLM's `a [gMASK]
<sop> b <eop>`; "last" and "blank" pad on the left."""
NEEDED: Mapping[str, tuple[str, ...]] = {
    "pair": ("cls", "sep"), "last": ("cls", "sep"), "end": ("eos",), "blank": ("gmask", "sop", "eop"),
}  # fmt: skip
"""Roles of the special tokens around a text."""
_FORMS = {"end": "`a </s>`", "blank": "`a [gMASK] <sop> b <eop>`"}


def written(
    spec: dict[str, Any], *, roles: Mapping[str, str], ids: Mapping[str, int], special: Sequence[str],
    said: Mapping[str, str], post: Post, inputs: Sequence[str] | None, longest: int,
) -> dict[str, str]:  # fmt: skip
    """Return the texts of `tokenizer.json` and `tokenizer_config.json`.

    spec: the tokenizer.json. roles: the token of each role. ids: of the vocabulary. special: the special tokens, by id.
    said: tokens that count for roles although `ROLE_TOKENS` does not list them. post: see `Post`. inputs: names of the
    tensors that `AutoTokenizer` makes for a model. longest: the most tokens of one text.

    Raises UserError when the vocabulary lacks a token that `post` needs.
    """
    if post != "keep":
        spec["post_processor"] = _frame(post, roles, ids)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": spec["model"]["type"] == "WordPiece",
        "model_max_length": longest,
    }
    if fold := next((s for s in steps_of(spec["normalizer"], "normalizers") if s["type"] == "BertNormalizer"), None):
        config["do_lower_case"] = fold["lowercase"]
        config["strip_accents"] = fold["strip_accents"]
        config["tokenize_chinese_chars"] = fold["handle_chinese_chars"]
    if post in ("last", "blank"):
        config["padding_side"] = "left"
    if inputs is not None:
        config["model_input_names"] = list(inputs)
    for role in SAID:
        if role in roles and (name := roles[role]) in (*ROLE_TOKENS[role], said.get(role)):
            config[f"{role}_token"] = name
    named = {value for key, value in config.items() if key.endswith("_token")}
    if rest := [name for name in special if name not in named]:
        config["additional_special_tokens"] = rest
    return {"tokenizer.json": _as_json(spec), "tokenizer_config.json": _as_json(config)}


def _frame(post: Post, roles: Mapping[str, str], ids: Mapping[str, int]) -> dict[str, Any] | None:
    """Return the post-processor that puts special tokens around a text."""
    if post == "none":
        return None
    needed = NEEDED[post]
    if missing := [role for role in needed if role not in roles]:
        form = _FORMS.get(post, "`[CLS] a [SEP]`")
        raise UserError(f"The tokenizer has no {' and no '.join(missing)} token, which {form} needs.")
    if post == "pair":
        return {"type": "BertProcessing", **{role: [roles[role], ids[roles[role]]] for role in ("sep", "cls")}}
    tokens = [roles[role] for role in needed]
    if post == "end":
        single, pair = [("A", 0), (tokens[0], 0)], [("B", 0), (tokens[0], 0)]
    elif post == "last":
        cls, sep = tokens
        single, pair = [("A", 0), (sep, 0), (cls, 2)], [("A", 0), (sep, 0), ("B", 1), (sep, 1), (cls, 2)]
    else:
        gmask, sop, eop = tokens
        single, pair = [("A", 0), (gmask, 0), (sop, 0)], [("B", 0), (eop, 0)]
    if post != "last":
        pair = single + pair
    return {
        "type": "TemplateProcessing",
        "single": [_part(*part) for part in single],
        "pair": [_part(*part) for part in pair],
        "special_tokens": {
            name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name, _ in (*single, *pair) if name in tokens
        },
    }


def _part(name: str, kind: int) -> dict[str, Any]:
    return {"Sequence" if name in ("A", "B") else "SpecialToken": {"id": name, "type_id": kind}}


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"
