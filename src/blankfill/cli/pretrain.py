"""`blankfill pretrain`: text in, a trained model out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

DESCRIBED = """Train a model on text.

Every option of the recipe can be changed by its dotted name, e.g. --train.lr 3e-4 --objective.length 256.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    from blankfill.cli.recipes import OUT, parse

    extra = [
        OUT,
        ("resume", Path | None, None, "Go on with this run folder from its newest checkpoint, with its own recipe."),
    ]
    args, recipe = parse("pretrain", DESCRIBED, argv, extra)

    from blankfill import run
    from blankfill.console import show

    result = run.resume(args.resume) if args.resume else run.pretrain(args.paths, recipe, args.out)
    if not math.isnan(result.valid_loss):
        below = result.baseline - result.valid_loss
        side = "below" if below >= 0 else "ABOVE"
        show(
            f"validation loss {result.valid_loss:.3f} nats, {abs(below):.3f} {side} the unigram baseline "
            f"({result.baseline:.3f})"
        )
    show(f"{result.steps:,} steps, {result.tokens:,} tokens in {result.seconds:.0f} s; the run is in {result.folder}")
    show(f'try: blankfill fill --model {result.folder} "… [MASK] …"')
    return 0
