"""How well the two parts of a run of replaced-token detection do, on the validation rows of its corpus.

    python bench/replaced_tokens.py RUN

Prints, as JSON: the generator's loss beside that of who knows only how often each token occurs; the share of the
chosen tokens that it samples right; the share of all tokens that are replaced; the discriminator's loss beside that of
the best constant answer; its accuracy beside that of always saying "original"; the share of the replaced tokens that it
finds (recall), and the share of replaced tokens among those that it marks (precision).
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch

from blankfill.checkpoint.load import load_model
from blankfill.config.recipe import load_recipe
from blankfill.model.heads import HEADS, BatchLosses
from blankfill.pretraining.data_setup import open_corpus, phases, target_baseline, validation_batches
from blankfill.system.reading import read_path

HEAD = "replaced_tokens"


@torch.inference_mode()
def measure(run: Path) -> dict[str, float]:
    """The figures of a run."""
    recipe, model = load_recipe(run / "recipe.yaml"), load_model(run).model.eval()
    corpus = open_corpus([str(run / read_path(run / "corpus_path.txt"))], recipe, run)
    phase = phases(corpus, recipe)[-1]
    batches = validation_batches(phase.valid, recipe.train.eval_rows, recipe.train.batch_size)
    sums, right, marked, replaced, both, tokens, targets = {"lm": 0.0, HEAD: 0.0}, 0, 0, 0, 0, 0, 0
    for batch in batches:
        losses = BatchLosses(batch)
        outputs = model(batch, read=losses, prepare=losses.prepare)
        index, label = losses.batch.labels[HEAD]
        scores = HEADS[HEAD].scores
        assert scores is not None
        says = scores(model, outputs.hidden.flatten(0, 1)[index]) > 0
        for name, value in outputs.read.items():
            sums[name] += float(value)
        right += int((says == label.bool()).sum())
        marked, replaced, both = (
            marked + int(says.sum()),
            replaced + int(label.sum()),
            both + int((says & (label == 1)).sum()),
        )
        tokens, targets = tokens + len(index), targets + len(batch.target_ids)
    share = replaced / tokens
    return {
        "generator_loss": sums["lm"] / targets,
        "unigram_loss": target_baseline(corpus, phase.new, batches),
        "sampled_right": 1 - replaced / targets,
        "replaced": share,
        "discriminator_loss": sums[HEAD] / tokens,
        "constant_loss": -share * math.log(share) - (1 - share) * math.log(1 - share),
        "accuracy": right / tokens,
        "always_original": 1 - share,
        "recall": both / replaced,
        "precision": both / max(1, marked),
    }


def main() -> None:
    """Print the figures of a run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    print(json.dumps({name: round(value, 4) for name, value in measure(parser.parse_args().run).items()}, indent=1))


if __name__ == "__main__":
    main()
