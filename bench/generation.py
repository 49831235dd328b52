"""Writing with an encoder and a decoder, beside transformers' `generate`: `python bench/generation.py t5 bart`.

Both write from the same sources with the same random weights, greedily and by beams, in a padded batch, as many tokens
for all (the end is ruled out). Contenders are processes that take turns (`side_by_side`). Prints, for each
family and number of beams, the tokens a second of both and how many times longer transformers takes; of greedy writing
also whether the texts are the same.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from side_by_side import compared, compete, load_note, serve, write

FAMILIES = ("t5", "t5-v1.1", "bart")
CONTENDERS = ("blankfill", "transformers")
SPECIAL = 4
"""So many ids are not words."""


def model_of(spec: dict[str, Any]) -> Any:
    """transformers' model, its weights drawn from the seed."""
    import torch
    import transformers

    torch.manual_seed(0)
    layers, width, heads, words = (spec[key] for key in ("layers", "width", "heads", "words"))
    if spec["family"] == "bart":
        sides = {
            f"{side}_{name}": value
            for side in ("encoder", "decoder")
            for name, value in (("layers", layers), ("attention_heads", heads), ("ffn_dim", 4 * width))
        }
        longest = 2 + spec["source"] + spec["written"]
        config = transformers.BartConfig(vocab_size=words, d_model=width, max_position_embeddings=longest, **sides)
        return transformers.BartForConditionalGeneration(config).eval()
    gated = {"feed_forward_proj": "gated-gelu"} if spec["family"] == "t5-v1.1" else {}
    config = transformers.T5Config(
        vocab_size=words,
        d_model=width,
        num_layers=layers,
        num_heads=heads,
        d_kv=width // heads,
        d_ff=4 * width,
        **gated,
    )
    return transformers.T5ForConditionalGeneration(config).eval()


def sources_of(spec: dict[str, Any]) -> list[list[int]]:
    """Rows of random words, from half as long as the longest on."""
    import numpy as np

    rng = np.random.default_rng(1)
    sizes = rng.integers(spec["source"] // 2, spec["source"] + 1, spec["rows"])
    return [rng.integers(SPECIAL, spec["words"], size).tolist() for size in sizes]


def ours(spec: dict[str, Any]) -> Callable[[], list[list[int]]]:
    """Our way to write, once."""
    from blankfill.checkpoint.names import FAMILIES as NAMES
    from blankfill.generate.beam import beam_search
    from blankfill.generate.engine import Decoder, two_stack_context
    from blankfill.model.transformer import Transformer

    theirs = model_of(spec)
    weights = theirs.state_dict()
    names = NAMES[spec["family"].removesuffix("-v1.1")]
    config = names.read(theirs.config.to_dict(), weights.keys())
    model = Transformer(config)
    model.load_state_dict(names.table(config).to_ours(weights, "the model"))
    model.eval()
    table, first, begun = (config.position_sizes[0], 2, [2]) if spec["family"] == "bart" else (0, 0, [0])
    contexts = [two_stack_context(source, begun, first, table) for source in sources_of(spec)]
    del theirs, weights

    def grammar(scores: Any, count: int) -> tuple[Any, Any]:
        scores[:, :SPECIAL] = -math.inf
        return scores, scores.new_full((len(scores),), 0.0 if count == spec["written"] else -math.inf)

    def repeat() -> list[list[int]]:
        decoder = Decoder(model, contexts, spec["written"])
        found = beam_search(decoder, spec["beams"], grammar, spec["written"], 1.0, thorough=False)
        return [list(hypotheses[0].ids) for hypotheses in found]

    return repeat


def theirs(spec: dict[str, Any]) -> Callable[[], list[list[int]]]:
    """transformers' way to write, once: one token more, where ours asks for the end."""
    import torch

    model, sources = model_of(spec), sources_of(spec)
    width = max(map(len, sources))
    ids = torch.tensor([[*row, *[1] * (width - len(row))] for row in sources])
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in sources])
    begun = 2 if spec["family"] == "bart" else 0

    def repeat() -> list[list[int]]:
        out = model.generate(
            ids, attention_mask=real, num_beams=spec["beams"], do_sample=False, max_new_tokens=spec["written"] + 1,
            suppress_tokens=list(range(SPECIAL)), decoder_start_token_id=begun, pad_token_id=1, eos_token_id=None,
            forced_eos_token_id=None, forced_bos_token_id=None, length_penalty=1.0 if spec["beams"] > 1 else None,
        )  # fmt: skip
        found: list[list[int]] = out[:, 1 : spec["written"] + 1].tolist()
        return found

    return repeat


def worker(name: str, spec: dict[str, Any]) -> tuple[Callable[[], Any], dict[str, Any]]:
    """A contender."""
    import torch

    torch.set_num_threads(spec["threads"])
    repeat = {"blankfill": ours, "transformers": theirs}[name](spec)
    return repeat, {"texts": repeat()}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=FAMILIES)
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    for name, usual in (("layers", 6), ("width", 512), ("heads", 8), ("words", 32000), ("rows", 8), ("source", 256),
                        ("written", 64), ("threads", 1), ("rounds", 3)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--out", type=Path, help="keep the figures as JSON here")
    args = parser.parse_args()
    if strange := set(args.families) - set(FAMILIES):
        parser.error(f"{min(strange)} is none of {', '.join(FAMILIES)}")
    if note := load_note():
        print(note)
    found = []
    for family in args.families:
        for beams in args.beams:
            spec = {**vars(args), "family": family, "beams": beams, "out": ""}
            lines = compared(compete(Path(__file__), CONTENDERS, spec, args.rounds, 1), args.clock)
            texts = [line.pop("texts", None) for line in lines]
            for line in lines:
                line |= {"family": family, "beams": beams}
                if "unable" in line:
                    print(f"{family}, {beams} beams, {line['contender']}: {line['unable']}")
                    continue
                rate = args.rows * args.written / line["seconds"]
                told = f"{family}, {beams} beams, {line['contender']}: {rate:,.0f} tokens/s"
                if "ratio" in line:
                    told += f"; takes {line['ratio']:.2f} times as long ({line['low']:.2f} to {line['high']:.2f})"
                print(told)
            if beams == 1 and None not in texts:
                print(f"{family}: the texts are {'the same' if texts[0] == texts[1] else 'not the same'}")
            found += lines
    write(args.out, found)


if __name__ == "__main__":
    import sys

    if "--worker" in sys.argv:
        serve(worker)
    else:
        main()
