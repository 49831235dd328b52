"""Tiny models of transformers on disk, which `evaluate` opens, and which are the oracle beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from blankfill.corpus.tokenizer import Tokenizer
from generate_models import MORE, SPECIAL, byte_level, wordpiece

TEXT = (
    "The cat sat on the mat, and the dog ran. A big red cat was playing with the dog on a mat; the dog sat. "
    "The red dog ran on and on, and the big cat sat on the red mat and played. "
)


def gpt2(folder: Path, seed: int = 0) -> tuple[Any, Tokenizer]:
    """A random GPT-2 of 32 positions with a tokenizer of bytes, saved."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = byte_level([TEXT])
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=tokenizer.size, n_positions=32, n_embd=16, n_layer=2, n_head=2, initializer_range=0.4,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return _saved(GPT2LMHeadModel(config), tokenizer, folder), tokenizer


def bert(folder: Path, head: bool = True) -> tuple[Any, Tokenizer]:
    """A random BERT of 24 positions with a few words, saved; optionally without its language-model head."""
    from transformers import BertConfig, BertForMaskedLM, BertModel

    tokenizer = wordpiece()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=24, initializer_range=0.4,
    )  # fmt: skip
    return _saved(BertForMaskedLM(config) if head else BertModel(config), tokenizer, folder), tokenizer


def xlnet(folder: Path) -> tuple[Any, Tokenizer]:
    """A random XLNet with rows of 24 tokens and a few words, saved."""
    from transformers import XLNetConfig, XLNetLMHeadModel

    tokenizer = wordpiece()
    torch.manual_seed(0)
    config = XLNetConfig(
        vocab_size=tokenizer.size, d_model=16, n_layer=2, n_head=2, d_inner=32, n_positions=24, initializer_range=0.4,
        pad_token_id=tokenizer.id("[PAD]"), bos_token_id=tokenizer.id("[CLS]"), eos_token_id=tokenizer.id("[SEP]"),
    )  # fmt: skip
    return _saved(XLNetLMHeadModel(config), tokenizer, folder), tokenizer


def t5(folder: Path) -> tuple[Any, Tokenizer]:
    """A random T5 with a few words and four sentinels, saved."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = wordpiece([*SPECIAL, *MORE["t5"]])
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=tokenizer.size, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, initializer_factor=0.4,
        pad_token_id=tokenizer.id("[PAD]"), eos_token_id=tokenizer.id("<|endoftext|>"),
        decoder_start_token_id=tokenizer.id("[PAD]"),
    )  # fmt: skip
    return _saved(T5ForConditionalGeneration(config), tokenizer, folder), tokenizer


def _saved(model: Any, tokenizer: Tokenizer, folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().save_pretrained(folder)
    tokenizer.save(folder)
    return model
