"""Tiny models of families with heads, fine-tuned on tiny tasks, for tests of export and import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from blankfill.checkpoint import store
from blankfill.checkpoint.hf_layout import hf_layout_of
from blankfill.config.recipe import load_recipe
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.model.config import TransformerConfig, config_values
from blankfill.model.transformer import build
from blankfill.objectives import (
    T5,
    Albert,
    Bart,
    Bert,
    Electra,
    Ernie,
    Gpt,
    Mlm,
    Objective,
    SpanBert,
    Unilm,
    Xlnet,
)
from generate_models import MORE, SPECIAL
from small_tasks import WORDS, answerable, classes, run, tags, write_lines

ROWS = 48
OBJECTIVES: dict[str, Objective] = {
    "bert": Bert(ROWS), "roberta": Mlm(ROWS), "albert": Albert(ROWS), "modernbert": Mlm(ROWS, position_offset=0),
    "distilbert": Mlm(ROWS, position_offset=0), "spanbert": SpanBert(ROWS), "ernie": Ernie(ROWS), "gpt2": Gpt(ROWS),
    "unilm": Unilm(ROWS), "electra": Electra(ROWS), "xlnet": Xlnet(ROWS), "t5": T5(ROWS),
    "bart": Bart(ROWS, position_offset=2),
}  # fmt: skip
RECIPES = {"gpt2": "gpt2", "unilm": "unilm-base"}
VOCABULARY = [*SPECIAL, *WORDS]


def vocabulary(family: str) -> list[str]:
    """The tokens of a family's model."""
    return [*VOCABULARY, *MORE.get(family, [])]


def family_config(family: str, **changes: Any) -> TransformerConfig:
    """A tiny model of a family, as a recipe makes it, its weights so large that it computes more than rounding."""
    sizes = {"model.hidden_size": 16, "model.num_layers": 2, "model.num_heads": 2, "model.vocab_multiple": 1}
    recipe = load_recipe(RECIPES.get(family, f"{family}-base"), sizes)
    made = replace(recipe, objective=OBJECTIVES[family]).model_config(len(vocabulary(family)))
    return replace(made, init_std=0.2, position_std=0.2, **changes)


def family_folder(folder: Path, family: str, **changes: Any) -> Path:
    """A folder with a random model of a family, as a pretraining run writes its checkpoints."""
    config, objective = family_config(family, **changes), OBJECTIVES[family]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary(family)) + "\n", encoding="utf-8")
    tokenizer = Tokenizer.load(folder / "vocab.txt")
    state = {"model": config_values(config), "objective": {"name": objective.name, **asdict(objective)}}
    hf_layout = hf_layout_of(config, objective, tokenizer)
    store.write_files(folder, 1, build(config, seed=3).state_dict(), {}, state, hf_layout)
    if hf_layout is None:
        tokenizer.save(folder)
    return folder


def choices(folder: Path) -> Path:
    """COPA-like rows of our own form: the choice with `fine` is right."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 48), ("val", 16)):
        rows = []
        for k in range(count):
            label = int(rng.integers(0, 2))
            words = [f"the {WORDS[int(rng.integers(0, 10))]} {word}" for word in ("poor", "fine")]
            rows.append({
                "premise": "the cat sat", "choice1": words[1 - label], "choice2": words[label], "question": "effect",
                "idx": k, "label": label,
            })  # fmt: skip
        write_lines(folder / f"{name}.jsonl", rows)
    return folder


def numbers(folder: Path) -> Path:
    """STS-B's files: pairs of texts, and how many of three words they share."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    head = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
    for name, count in (("train", 48), ("dev", 16)):
        lines = [head]
        for k in range(count):
            a, b = (" ".join(rng.choice(WORDS[:10], 3).tolist()) for _ in range(2))
            lines.append(f"{k}\tg\tf\t1\t1\ts\ts\t{a}\t{b}\t{len(set(a.split()) & set(b.split())):.1f}")
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


TASKS = {"sst2": classes, "conll": tags, "squad2": answerable, "stsb": numbers, "copa": choices}


def fine_tuned(folder: Path, family: str, task: str, options: dict[str, Any] | None = None, **changes: Any) -> Path:
    """The run folder of a family's model that was fine-tuned for one epoch. changes: of the model's configuration."""
    model = family_folder(folder / "model", family, **changes)
    usual = {"epochs": 1, "max_query_length": 8, "stride": 8}
    run(task, TASKS[task](folder / "data"), model, folder / "run", **{**usual, **(options or {})})
    return folder / "run"


__all__: Sequence[str] = ("family_config", "family_folder", "fine_tuned")
