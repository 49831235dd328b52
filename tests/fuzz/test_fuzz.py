"""Every reader of `targets` on a fixed number of damaged files: each ends well, or with one bounded sentence."""

import random
import time
from pathlib import Path

import pytest

from blankfill.errors import UserError
from fuzz.mutate import mutations
from fuzz.targets import TARGETS, Target

COUNT = {"state": 40, "latest": 25, "run-recipe": 25, "metrics": 25, "samples": 25, "facts": 25, "hf-config": 60,
         "hf-safetensors": 60, "hf-index": 60, "hf-tokenizer-config": 60}  # fmt: skip
"""Inputs of the targets that open a whole model or write a page; the others get `USUAL`."""
USUAL = 1000
LONGEST = 20_000
"""Characters of a message at most: it may list what is wrong, and must not repeat the input."""
PATIENCE = 20.0
"""Seconds of processor time for one input of at most 1 MiB; a linear reader needs a hundredth of it."""


def check(target: Target, folder: Path, data: bytes) -> None:
    """Run a target on one input."""
    (folder / target.file).write_bytes(data)
    began = time.process_time()
    try:
        target.run(folder)
    except UserError as error:
        said = str(error)
        assert said.strip(), "an error without a sentence"
        assert len(said) <= LONGEST, f"a message of {len(said):,} characters: {said[:200]}"
        assert "Traceback" not in said and "weights_only" not in said, said
    assert time.process_time() - began < PATIENCE, "the reader takes more than linear time"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_files_end_in_one_sentence(target: Target, tmp_path: Path) -> None:
    target.setup(tmp_path)
    seeds = target.seeds()
    for number, data in enumerate(mutations(seeds, COUNT.get(target.name, USUAL), random.Random(target.name))):
        try:
            check(target, tmp_path, data)
        except Exception as error:
            raise AssertionError(f"input {number}, {len(data):,} bytes, {data[:200]!r}: {error!r}") from error


@pytest.mark.parametrize("path", sorted((Path(__file__).parent / "odd").glob("*")), ids=lambda path: path.name)
def test_inputs_that_once_failed(path: Path, tmp_path: Path) -> None:
    """The files in `odd/`, named `TARGET.what-it-is`, are inputs on which a reader once failed."""
    target = next(target for target in TARGETS if target.name == path.name.partition(".")[0])
    target.setup(tmp_path)
    check(target, tmp_path, path.read_bytes())
