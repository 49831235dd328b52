"""Tiny random models of the families, written as a run of pretraining writes them, for tests of conversions."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from blankfill.checkpoint import store
from blankfill.checkpoint.hf_layout import hf_layout_of
from blankfill.config.recipe import load_recipe
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.model.config import TransformerConfig, config_values
from blankfill.model.transformer import build
from blankfill.objectives import Albert, Bert, Electra, Ernie, Glm, Gpt, Mlm, Objective, SpanBert

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[gMASK]", "[sMASK]", "<|startofpiece|>", "<|endofpiece|>",
           "<|endoftext|>", "[dBLOCK]"]  # fmt: skip
WORDS = [*SPECIAL, "the", "old", "boat", "lamp", "sings", "sleeps", "on", "near", "sea", ".", ",", "red", "##s"]
OBJECTIVES: dict[str, Objective] = {
    "bert": Bert(24), "distilbert": Mlm(24, position_offset=0), "roberta": Mlm(24),
    "albert": Albert(24), "spanbert": SpanBert(24),
    "ernie": Ernie(24, task_types=3), "gpt2": Gpt(24), "glm": Glm(24, document=1.0),
    "modernbert": Mlm(24, position_offset=0), "electra": Electra(24),
}  # fmt: skip
TEXTS = ["the old boat sleeps on the sea.", "the red lamps, near the boat, sing."]


def vocabulary_file(folder: Path, words: list[str] = WORDS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder / "vocab.txt"


def config_of(family: str, objective: Objective) -> TransformerConfig:
    """A tiny model of a family, as a recipe makes it."""
    recipes = {
        "bert": "bert-base", "distilbert": "distilbert-base", "roberta": "roberta-base",
        "albert": "albert-base", "spanbert": "spanbert-base",
        "ernie": "ernie-base", "gpt2": "gpt2", "glm": "glm-base",
        "modernbert": "modernbert-base", "electra": "electra-small",
    }  # fmt: skip
    changes = {"model.hidden_size": 16, "model.num_layers": 2, "model.num_heads": 2, "model.vocab_multiple": 1}
    made = replace(load_recipe(recipes[family], changes), objective=objective)
    return replace(made.model_config(len(WORDS)), init_std=0.5, position_std=0.5)


def write_model(folder: Path, family: str, **changes: Any) -> Path:
    """A checkpoint folder of a random model, as a run writes it, with the tokenizer beside."""
    objective = OBJECTIVES[family]
    config = replace(config_of(family, objective), **changes)
    tokenizer = Tokenizer.load(vocabulary_file(folder))
    state = {"model": config_values(config), "objective": {"name": objective.name, **asdict(objective)}}
    hf_layout = hf_layout_of(config, objective, tokenizer)
    store.write_files(folder, 3, build(config, seed=7).state_dict(), {}, state, hf_layout)
    return folder


def boats(folder: Path, count: int) -> Path:
    """Write train.tsv and dev.tsv with two classes of texts, which differ in a word."""
    rows = "".join(f"{'red' if k % 2 else 'old'} boat\t{'a' if k % 2 else 'b'}\n" for k in range(count))
    folder.mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).write_text(f"text\tlabel\n{rows}", encoding="utf-8")
    return folder
