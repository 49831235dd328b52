"""`blankfill generate`: continue a text with a trained model, word by word on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from blankfill.checkpoint.dtypes import WeightType, dtype_named
from blankfill.cli.arguments import parsed
from blankfill.cli.result import Result, Rows
from blankfill.errors import setting
from blankfill.system.bounds import SOME, Bound, at_least
from blankfill.system.console import say, show

if TYPE_CHECKING:
    from blankfill.generation.write import Generation, Writer


@dataclass(frozen=True, kw_only=True)
class GenerateArguments:
    """Continue a text with a trained model.

    A gpt, unilm or bart model continues the prompt. A glm or t5 model writes the prompt's blank ([gMASK], [sMASK] or
    [MASK]); without one, a blank is put at the end. Models of the objectives bert and mlm only fill blanks: see
    blankfill fill.
    """

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"max_new_tokens": SOME, "num": at_least(1, 100_000)}
    GROUPS: ClassVar[Mapping[str, str]] = {
        "Model and prompt": "model adapter prompt allow_unknown add_bos",
        "Length": "max_new_tokens slide",
        "Sampling": "temperature top_k top_p repetition_penalty no_repeat_ngram num seed",
        "Machine": "dtype device threads",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        'blankfill generate --model runs/gpt --prompt "It was a dark"',
        'blankfill generate --model runs/glm --prompt "The old man" --temperature 0.7 --top-p 0.9 --num 3 --json',
    )

    model: Path
    """Folder of a trained model: a run, or one of its checkpoints."""
    adapter: Path | None = None
    """Folder of LoRA matrices or of a prefix for this model, which finetune or peft wrote."""
    prompt: str = ""
    """Text to continue."""
    allow_unknown: bool = False
    """Continue the text although most of it is unknown to the model's tokenizer."""
    add_bos: bool | None = None
    """gpt: read the begin token before the prompt, which then begins a document. Without it, as in
    training: yes, but no for a stream of documents as of GPT-2, where transformers puts nothing there."""
    max_new_tokens: int = 100
    """Maximum number of tokens to generate."""
    temperature: float = 0.8
    """Sampling temperature: lower is more predictable, 0 always takes the most likely token. Usually 0.7 to 1."""
    top_k: int = 0
    """Sample from this number of most likely tokens only; 0: no limit."""
    top_p: float = 0.95
    """Sample from the smallest set of tokens with this total probability; 1: no limit."""
    repetition_penalty: float = 1.0
    """Factor by which tokens that have already occurred become less likely (CTRL); 1: off. Usually 1 to 1.3."""
    no_repeat_ngram: int = 0
    """No n-gram of this size occurs twice; 0: no limit."""
    slide: bool = False
    """gpt: continue beyond the model's positions, with the oldest tokens dropped."""
    num: int = 1
    """Number of texts to generate."""
    seed: int = 0
    """Seed of sampling; the same seed gives the same text."""
    dtype: WeightType = "auto"
    """Number type of the weights and of the computation: fp32, bf16 or fp16; auto: as they are stored."""
    device: str = "auto"
    """Device to compute on: auto (a GPU where there is one), cpu, cuda, cuda:1 or mps."""
    threads: int = 0
    """CPU threads. 0: OMP_NUM_THREADS where it is set, else all cores that other programs leave free."""


def main(argv: Sequence[str]) -> Result | Rows[Any]:
    """Run the command."""
    args = parsed(GenerateArguments, argv, "generate")
    from blankfill.corpus.unknown import counting
    from blankfill.generation.sampling import Sampling
    from blankfill.generation.write import Writer
    from blankfill.inference import load

    sampling = Sampling(
        args.temperature, args.top_k, args.top_p, args.repetition_penalty, args.no_repeat_ngram, args.seed
    )
    sampling.check()
    loaded = load(
        args.model, args.device, dtype_named(args.dtype), head=False, threads=args.threads, adapter=args.adapter
    ).loaded
    with counting("the prompt", allow=args.allow_unknown):
        writer = Writer(
            loaded, [args.prompt] * args.num, args.max_new_tokens, sampling, args.slide, add_bos=args.add_bos
        )
    limit = loaded.model.config.position_sizes[0]
    beyond = f"; {setting('slide')} continues beyond them" if loaded.objective.slides else ""
    note = f"stopped at the end of the model's {limit} positions{beyond}"
    if args.num == 1:
        return Result(
            values=lambda: written(writer, note)[0].to_json(), show=lambda: write_out(writer, note), is_output=True
        )
    return Rows(
        rows=enumerate(written(writer, note), 1),
        values=lambda row: row[1].to_json(),
        show=lambda row: show(f"--- {row[0]} ---\n{row[1].whole}"),
    )


def written(writer: Writer, note: str) -> list[Generation]:
    """Return all texts. note: said when the model's positions ended one of them."""
    texts = list(writer.finish_all())
    if "positions" in writer.finish:
        say(note)
    return texts


def write_out(writer: Writer, note: str) -> None:
    """Print the first text word by word. note: as in `written`."""
    before, after = writer.frames[0]
    show(before, end="")
    for pieces in writer.run():
        show(pieces[0], end="")
    show(after)
    if "positions" in writer.finish:
        say(note)
