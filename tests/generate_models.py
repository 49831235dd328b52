"""Tiny models and tokenizers for the tests of generation; hand-built ones have answers that can be worked out."""

from __future__ import annotations

from pathlib import Path

import torch

from blankfill.checkpoint.load import Loaded
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.families import FAMILIES
from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import Transformer, build
from blankfill.objectives import (
    T5,
    Albert,
    Bart,
    Bert,
    ChatGlm,
    Glm,
    Glm130b,
    Gpt,
    Mlm,
    Objective,
    Unilm,
    Unilm2,
    Xlnet,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[gMASK]", "[sMASK]",
           "<|startofpiece|>", "<|endofpiece|>", "<|endoftext|>", "[dBLOCK]"]  # fmt: skip
WORDS = ["the", "cat", "dog", "sat", "ran", "on", "mat", "red", "big", "play", "##ing", "##ed", ".", ",", "un",
         "猫", "狗", "在", "跑"]  # fmt: skip
MORE = {"unilm2": ["[PSEUDO]"], "t5": [f"<extra_id_{k}>" for k in range(4)]}
"""Tokens that some objectives need besides, the last ones of their vocabularies."""
SIZES = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "ffn_size": 48, "dropout": 0.0, "attention_dropout": 0.0}
FAMILY = {
    "bert": {"norm": "post", "embedding_norm": True, "head_transform": True, "head_bias": True},
    "mlm": {"norm": "post", "embedding_norm": True, "head_transform": True, "head_bias": True},
    "albert": {
        "norm": "post",
        "embedding_norm": True,
        "head_transform": True,
        "head_bias": True,
        "embedding_size": 16,
        "shared": "all",
    },
    "unilm": {"norm": "post", "embedding_norm": True, "head_transform": True, "head_bias": True},
    "unilm2": {
        "norm": "post",
        "embedding_norm": True,
        "head_transform": True,
        "head_bias": True,
        "relative_buckets": 8,
        "relative_distance": 16,
    },
    "gpt": {"norm": "pre"},
    "glm": {"norm": "pre"},
    "xlnet": {"norm": "post", "head_bias": True, "position_scheme": "relative", "attention_bias": False},
    "t5": {**FAMILIES["t5"].preset, "encoder_layers": 2},
    "bart": {**FAMILIES["bart"].preset, "encoder_layers": 2},
    "chatglm": FAMILIES["chatglm"].preset,
    "glm-130b": FAMILIES["glm-130b"].preset,
}


def wordpiece(special: list[str] = SPECIAL, words: list[str] = WORDS) -> Tokenizer:
    """A BERT-like tokenizer of a few words."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers

    vocabulary = {token: k for k, token in enumerate([*special, *words])}
    made = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return Tokenizer(made)


def byte_level(texts: list[str], size: int = 300) -> Tokenizer:
    """A GPT-2-like tokenizer, trained on a few texts."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>", "[PAD]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return Tokenizer(made)


def objective_of(name: str, length: int = 48) -> Objective:
    """An objective with small options."""
    if name == "glm":
        return Glm(length, document=1.0)
    kinds = (Bert, Mlm, Albert, Unilm, Unilm2, Gpt, Xlnet, T5, Bart, ChatGlm, Glm130b)
    return {kind.name: kind for kind in kinds}[name](length)


def random_model(name: str, seed: int = 0, rows: int = 40, length: int = 48, sharp: float = 8.0) -> Transformer:
    """A random model of a family; `sharp` multiplies its weights, so that what it reads matters."""
    config = TransformerConfig(
        vocab_size=rows, position_sizes=objective_of(name, length).position_sizes(), **SIZES, **FAMILY[name]
    )
    model = build(config, seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(sharp)
    return model


def loaded(name: str, model: Transformer, tokenizer: Tokenizer | None = None, length: int = 48) -> Loaded:
    """A model as `load_model` gives it."""
    tokenizer = tokenizer or wordpiece(words=[*WORDS, *MORE.get(name, [])])
    return Loaded(model, tokenizer, tokenizer.vocabulary(), objective_of(name, length), Path("run"))


def forced_model(
    name: str, channel: int, answers: dict[int, dict[int, float]], rows: int, length: int = 48
) -> Transformer:
    """A model whose predictions depend only on the position.

    Token embeddings are one-hot rows and the layers pass everything on, so the scores at a column are the normed sum of
    1 for its own token and of its row of the position table: `answers[position][token]` is the score of a token at a
    position of `channel`.
    """
    sizes = objective_of(name, length).position_sizes()
    config = TransformerConfig(
        vocab_size=rows, hidden_size=rows, num_layers=1, num_heads=1, ffn_size=4, position_sizes=sizes,
        norm="pre", head_bias=False,
    )  # fmt: skip
    model = build(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        assert model.final_norm is not None
        model.final_norm.weight.fill_(1.0)
        model.token_embeddings.weight.copy_(torch.eye(rows))
        for position, wanted in answers.items():
            for token, strength in wanted.items():
                model.positions[channel].weight[position, token] = strength
    return model
