"""`blankfill generate`: continue a text with a trained model, word by word on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro

from blankfill.checkpoint.dtypes import WeightType, dtype_named
from blankfill.cli.arguments import parsed
from blankfill.system.bounds import SOME, Bound, at_least


@dataclass(frozen=True)
class GenerateArguments:
    """Continue a text: blankfill generate --model RUN --prompt "It was a dark"

    A gpt, unilm or bart model continues the prompt. A glm or t5 model writes the prompt's blank ([gMASK], [sMASK] or
    [MASK]); without one, a blank is put at the end. Models of the objectives bert and mlm only fill blanks: see
    blankfill fill.
    """

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"max_tokens": SOME, "num": at_least(1, 100_000)}

    model: Path = tyro.MISSING
    """The run folder of a trained model, or one of its checkpoints."""
    prompt: str = ""
    """The text to continue."""
    max_tokens: int = 100
    """The most tokens to write."""
    temperature: float = 0.8
    """Below 1 is more predictable, above 1 less; 0 always takes the best token."""
    top_k: int = 0
    """Draw from this many best tokens only; 0 is no limit."""
    top_p: float = 0.95
    """Draw from the fewest best tokens that together have this probability; 1 is no limit."""
    repetition_penalty: float = 1.0
    """Above 1: tokens that have already occurred become less likely (CTRL)."""
    no_repeat_ngram: int = 0
    """No run of this many tokens occurs twice; 0 is no limit."""
    slide: bool = False
    """A gpt model goes on past its positions, forgetting what is oldest."""
    num: int = 1
    """How many samples to write."""
    seed: int = 0
    """Seed of the draws; the same seed gives the same text."""
    json: bool = False
    """Print one JSON object on a line for each sample, when all are done."""
    dtype: WeightType = "auto"
    """Type of the weights, and so of what is computed with them: fp32, bf16 or fp16; auto: as they are stored."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, mps."""
    threads: int = 0
    """CPU threads; 0: as OMP_NUM_THREADS says, else all cores that other programs leave free."""


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = parsed(GenerateArguments, argv, "generate")
    from blankfill.cli.fill import json_line
    from blankfill.generation.sampling import Sampling
    from blankfill.generation.write import Writer
    from blankfill.inference import load
    from blankfill.system.console import say, show

    sampling = Sampling(
        args.temperature, args.top_k, args.top_p, args.repetition_penalty, args.no_repeat_ngram, args.seed
    )
    sampling.check()
    loaded = load(args.model, args.device, dtype_named(args.dtype), head=False, threads=args.threads).loaded
    writer = Writer(loaded, [args.prompt] * args.num, args.max_tokens, sampling, args.slide)
    if args.num == 1 and not args.json:
        before, after = writer.frames[0]
        show(before, end="")
        for pieces in writer.run():
            show(pieces[0], end="")
        show(after)
    else:
        for number, generation in enumerate(writer.finish_all(), 1):
            if args.json:
                show(json_line(generation.to_json()))
            else:
                show(f"--- {number} ---\n{generation.whole}")
    if "positions" in writer.finish:
        table = loaded.model.config.position_sizes[0]
        more = "; --slide goes on past them" if loaded.objective.name == "gpt" else ""
        say(f"stopped at the end of the model's {table} positions{more}")
    return 0
