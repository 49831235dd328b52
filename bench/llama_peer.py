"""llama.cpp as a contender of `decoding.py`, through llama-cpp-python, which is built from source for this processor.

It reads a GGUF file with the same random weights, written as `blankfill export --format gguf` writes it.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from side_by_side import UnableError

import generation

PREFIX = "llama-cpp-"
"""Name of a contender: this and the type of the file."""


def write_file(spec: dict[str, Any], type: str, path: Path) -> None:
    """Write the model of a specification as GGUF. The words of its table are without a text."""
    from tokenizers import pre_tokenizers

    from blankfill.convert.gguf import write_gguf
    from blankfill.convert.gguf_layout import layout_of
    from blankfill.convert.gguf_tokenizer import Frame, tokenizer_values
    from blankfill.corpus.tokenizer import Tokenizer
    from blankfill.corpus.tokenizer_formats import byte_bpe
    from blankfill.families import weight_names
    from blankfill.objectives.gpt import Gpt

    theirs = generation.model_of(spec)
    names = weight_names()["gpt2"]
    config = names.read(theirs.config.to_dict(), theirs.state_dict().keys())
    weights = names.table(config).to_ours(theirs.state_dict(), "the model")
    letters = {letter: k for k, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    words = {**letters, "ab": len(letters)}  # llama.cpp reads no file without merges
    few = Tokenizer(byte_bpe(words, [("a", "b")], lowercase=False))
    values = tokenizer_values(few, few.vocabulary(), config.vocab_size, Frame(end=0), True, "the model")
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    layout = layout_of(config, Gpt(config.position_sizes[0]), shapes, "the model")
    write_gguf(path, layout, values.values, weights, type, "bench")  # type: ignore[arg-type]


def written(spec: dict[str, Any], type: str) -> Callable[[], list[list[int]]]:
    """Return one generation of llama.cpp: one row, greedily, of a GPT-2."""
    if spec["family"] != "gpt2" or spec["rows"] > 1 or spec["beams"] > 1:
        raise UnableError("llama-cpp-python writes one row at a time, without beams")
    try:
        import llama_cpp
    except ImportError as error:
        raise UnableError(f"not installed (pip install llama-cpp-python): {error}") from None
    from blankfill.convert.gguf import GgufType, check_package

    assert type in get_args(GgufType)
    check_package()
    with tempfile.TemporaryDirectory() as made:
        path, threads = Path(made) / "model.gguf", spec["threads"]
        write_file(spec, type, path)
        model = llama_cpp.Llama(
            str(path), n_ctx=spec["source"] + spec["written"], n_batch=spec["source"], n_ubatch=spec["source"],
            n_threads=threads, n_threads_batch=threads, use_mmap=False, verbose=False,
        )  # fmt: skip
    prompt = generation.sources_of(spec)[0]

    def repeat() -> list[list[int]]:
        model.reset()
        return [list(itertools.islice(model.generate(prompt, temp=0.0, repeat_penalty=1.0), spec["written"]))]

    return repeat
