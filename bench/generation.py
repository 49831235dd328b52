"""Writing beside transformers' `generate` and CTranslate2: `python bench/generation.py t5 bart gpt2`.

All write from the same sources with the same random weights, greedily and by beams, in a batch, as many tokens for all
(the end is ruled out). Sources of an encoder are of unequal length and padded; prompts of GPT-2 are of one length,
since CTranslate2 reads unequal ones together only as far as the shortest goes. CTranslate2 computes in fp32 too, from
weights that its own converter has made of transformers'; where it is not installed it is left out. Contenders are
processes that take turns (`side_by_side`). Prints, for each family and number of beams, the tokens a second of each and
how many times longer than ours the others take; of greedy writing also whether the texts are the same.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from side_by_side import UnableError, compared, compete, load_note, serve, write

FAMILIES = ("t5", "t5-v1.1", "bart", "gpt2")
CONTENDERS = ("blankfill", "transformers", "ctranslate2")
SPECIAL = 4
"""Number of ids that are not words."""
BEGUN = {"bart": 2}
"""Start token of a decoder, where it is not token 0."""


def model_of(spec: dict[str, Any]) -> Any:
    """Return transformers' model, with weights drawn from the seed."""
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
    if spec["family"] == "gpt2":
        longest = spec["source"] + spec["written"] + 1
        sizes = {"n_layer": layers, "n_embd": width, "n_head": heads, "n_positions": longest}
        config = transformers.GPT2Config(vocab_size=words, bos_token_id=2, eos_token_id=1, **sizes)
        return transformers.GPT2LMHeadModel(config).eval()
    gated = {"feed_forward_proj": "gated-gelu"} if spec["family"] == "t5-v1.1" else {}
    config = transformers.T5Config(
        vocab_size=words,
        d_model=width,
        num_layers=layers,
        num_heads=heads,
        d_kv=width // heads,
        d_ff=4 * width,
        decoder_start_token_id=0,
        **gated,
    )
    return transformers.T5ForConditionalGeneration(config).eval()


def sources_of(spec: dict[str, Any]) -> list[list[int]]:
    """Return rows of random words; for an encoder of different lengths, at least half of the longest."""
    import numpy as np

    rng = np.random.default_rng(1)
    shortest = spec["source"] if spec["family"] == "gpt2" else spec["source"] // 2
    sizes = rng.integers(shortest, spec["source"] + 1, spec["rows"])
    return [rng.integers(SPECIAL, spec["words"], size).tolist() for size in sizes]


def ours(spec: dict[str, Any], change: Callable[[Any], None] | None = None) -> Callable[[], list[list[int]]]:
    """Return one generation of this program. change: what happens to the model first."""
    from blankfill.families import weight_names
    from blankfill.generation.beam import beam_search
    from blankfill.generation.engine import Decoder
    from blankfill.model.layout import optimize_for_inference
    from blankfill.model.transformer import Transformer
    from blankfill.objectives.gpt import gpt_input
    from blankfill.objectives.two_stacks import two_stack_input

    theirs = model_of(spec)
    weights = theirs.state_dict()
    names = weight_names()[spec["family"].removesuffix("-v1.1")]
    config = names.read(theirs.config.to_dict(), weights.keys())
    model = Transformer(config)
    model.load_state_dict(names.table(config).to_ours(weights, "the model"))
    model.eval()
    if change is not None:
        change(model)
    optimize_for_inference(model)
    sources, table, begun = sources_of(spec), (config.position_sizes or (0,))[0], BEGUN.get(spec["family"], 0)
    if spec["family"] == "gpt2":
        contexts = [gpt_input(source, table) for source in sources]
    else:
        first = 2 if spec["family"] == "bart" else 0
        contexts = [two_stack_input(source, [begun], first, table) for source in sources]
    del theirs, weights

    def grammar(scores: Any, count: int) -> tuple[Any, Any]:
        scores[:, :SPECIAL] = -math.inf
        return scores, scores.new_full((len(scores),), 0.0 if count == spec["written"] else -math.inf)

    def repeat() -> list[list[int]]:
        decoder = Decoder(model, contexts, spec["written"])
        searched = beam_search(decoder, spec["beams"], grammar, spec["written"], 1.0, thorough=False)
        return [list(hypotheses[0].ids) for hypotheses in searched]

    return repeat


def theirs(spec: dict[str, Any]) -> Callable[[], list[list[int]]]:
    """Return one generation of transformers: with one token more, where ours scores the end token."""
    import torch

    model, sources = model_of(spec), sources_of(spec)
    width = max(map(len, sources))
    ids = torch.tensor([[*row, *[1] * (width - len(row))] for row in sources])
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in sources])
    begun = {} if spec["family"] == "gpt2" else {"decoder_start_token_id": BEGUN.get(spec["family"], 0)}
    read = width if spec["family"] == "gpt2" else 1

    def repeat() -> list[list[int]]:
        out = model.generate(
            ids, attention_mask=real, num_beams=spec["beams"], do_sample=False, max_new_tokens=spec["written"] + 1,
            suppress_tokens=list(range(SPECIAL)), pad_token_id=1, eos_token_id=None, **begun,
            forced_eos_token_id=None, forced_bos_token_id=None, length_penalty=1.0 if spec["beams"] > 1 else None,
        )  # fmt: skip
        written: list[list[int]] = out[:, read : read + spec["written"]].tolist()
        return written

    return repeat


def save(spec: dict[str, Any], folder: Path) -> None:
    """Save transformers' model with a tokenizer of random words, as CTranslate2's converter needs it."""
    import tokenizers
    import transformers

    words = [f"w{k}" for k in range(spec["words"])]
    table = tokenizers.models.WordLevel({word: k for k, word in enumerate(words)}, unk_token=words[3])
    roles = {"pad_token": words[0], "bos_token": words[2], "eos_token": words[1], "unk_token": words[3]}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(table), **roles).save_pretrained(folder)
    model = model_of(spec)
    if spec["family"] == "bart":
        model.config.normalize_before = False  # transformers has dropped an attribute that the converter needs
    model.save_pretrained(folder)


def translated(spec: dict[str, Any], compute_type: str = "float32") -> Callable[[], list[list[int]]]:
    """Return one generation of CTranslate2: with one token more, where ours scores the end token."""
    try:
        import ctranslate2
    except ImportError:
        raise UnableError("not installed (pip install ctranslate2)") from None
    with tempfile.TemporaryDirectory() as made:
        save(spec, Path(made, "theirs"))
        folder = ctranslate2.converters.TransformersConverter(f"{made}/theirs").convert(f"{made}/converted")
        kind = ctranslate2.Generator if spec["family"] == "gpt2" else ctranslate2.Translator
        model = kind(folder, compute_type=compute_type, inter_threads=1, intra_threads=spec["threads"])
    sources = [[f"w{token}" for token in row] for row in sources_of(spec)]
    common = {"beam_size": spec["beams"], "suppress_sequences": [[f"w{token}"] for token in range(SPECIAL)]}
    count = spec["written"] + 1

    def repeat() -> list[list[int]]:
        if spec["family"] == "gpt2":
            sizes = {"min_length": count, "max_length": count, "include_prompt_in_result": False}
            texts = [result.sequences[0] for result in model.generate_batch(sources, **sizes, **common)]
        else:
            sizes = {"min_decoding_length": count, "max_decoding_length": count}
            texts = [result.hypotheses[0] for result in model.translate_batch(sources, **sizes, **common)]
        return [[int(word[1:]) for word in text[: spec["written"]]] for text in texts]

    return repeat


def worker(name: str, spec: dict[str, Any]) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Return a contender."""
    import torch

    torch.set_num_threads(spec["threads"])
    repeat = {"blankfill": ours, "transformers": theirs, "ctranslate2": translated}[name](spec)
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
        parser.error(f"{min(strange)} is not one of {', '.join(FAMILIES)}")
    if note := load_note():
        print(note)
    results = []
    for family in args.families:
        for beams in args.beams:
            spec = {**vars(args), "family": family, "beams": beams, "out": ""}
            lines = compared(compete(Path(__file__), CONTENDERS, spec, args.rounds, 1), args.clock)
            texts = [line.pop("texts", None) for line in lines]
            for line, text in zip(lines, texts, strict=True):
                line |= {"family": family, "beams": beams}
                if "unable" in line:
                    print(f"{family}, {beams} beams, {line['contender']}: {line['unable']}")
                    continue
                rate = args.rows * args.written / line["seconds"]
                report = f"{family}, {beams} beams, {line['contender']}: {rate:,.0f} tokens/s"
                if "ratio" in line:
                    report += f"; takes {line['ratio']:.2f} times as long ({line['low']:.2f} to {line['high']:.2f})"
                if beams == 1 and "ratio" in line:
                    report += f"; the texts are {'the same' if text == texts[0] else 'not the same'}"
                print(report)
            results += lines
    write(args.out, results)


if __name__ == "__main__":
    import sys

    if "--worker" in sys.argv:
        serve(worker)
    else:
        main()
