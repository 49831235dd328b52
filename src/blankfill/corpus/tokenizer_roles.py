"""Which tokens of a vocabulary have which role, such as the mask or the padding, and which are T5's sentinels."""

from __future__ import annotations

from collections.abc import Container, Mapping
from itertools import chain, count, takewhile

ROLE_TOKENS: dict[str, tuple[str, ...]] = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
    "gmask": ("[gMASK]",),
    "smask": ("[sMASK]",),
    "sop": ("<|startofpiece|>", "[sop]", "<sop>"),
    "eop": ("<|endofpiece|>", "[eop]", "<eop>"),
    "eos": ("<|endoftext|>", "[EOS]", "<eos>", "<eod>", "</s>"),
    "dblock": ("[dBLOCK]", "<dBLOCK>"),
    "pseudo": ("[PSEUDO]",),
}
"""Strings of each role; the first that is in the vocabulary is used, and `with_roles` adds the first."""
SPECIAL_TOKENS = tuple(
    ROLE_TOKENS[role][0]
    for role in ("pad", "unk", "cls", "sep", "mask", "gmask", "smask", "sop", "eop", "eos", "dblock")
)
"""Special tokens of vocabularies that are trained here, by id."""
MASKS = frozenset(chain.from_iterable(ROLE_TOKENS[role] for role in ("mask", "gmask", "smask")))
"""Strings of the masks."""
SENTINEL = "<extra_id_{}>"
"""T5's sentinels, numbered from 0."""


def said_tokens(said: Mapping[str, str], names: Container[str]) -> dict[str, str]:
    """Return the tokens named by a tokenizer's own files that count, by role: a mask counts before `ROLE_TOKENS`, other
    tokens only where the vocabulary has none of those.

    said: token by role. names: of the vocabulary.
    """
    standard = {role for role, tokens in ROLE_TOKENS.items() if any(token in names for token in tokens)}
    taken = {token for tokens in ROLE_TOKENS.values() for token in tokens}
    return {
        role: token
        for role, token in said.items()
        if token in names and (role == "mask" or (role not in standard and token not in taken))
    }


def roles_among(ids: Mapping[str, int], said: Mapping[str, str]) -> dict[str, int]:
    """Return the id of each role of a vocabulary. said: see `said_tokens`."""
    roles = {}
    for role, tokens in ROLE_TOKENS.items():
        present = [ids[token] for token in tokens if token in ids]
        if present:
            roles[role] = present[0]
    roles |= {role: ids[token] for role, token in said_tokens(said, ids).items()}
    if "eos" not in roles:
        # GLM ends a text with [SEP] over BERT's vocabulary, otherwise with [PAD].
        for stand_in in ("sep", "pad"):
            if stand_in in roles:
                return roles | {"eos": roles[stand_in]}
    return roles


def sentinels_among(names: Container[str]) -> list[str]:
    """Return the sentinels of a vocabulary in order, up to the first missing number."""
    return list(takewhile(names.__contains__, map(SENTINEL.format, count())))
