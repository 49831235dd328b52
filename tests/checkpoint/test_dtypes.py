"""Weights keep the type that they are stored in: in memory, through an import, and in what is computed with them."""

import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import blankfill
from blankfill.checkpoint import store
from blankfill.checkpoint.hf_layout import make_hf_layout
from blankfill.checkpoint.load import Loaded, load_model
from blankfill.embedding.embed import Embedder
from blankfill.exporting.model import export_model
from blankfill.families.checkpoint_format import checkpoint_format_of
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.importing import import_model
from blankfill.finetuning.model_setup import load_pretrained
from blankfill.generation.fill import Filler
from blankfill.generation.sampling import Sampling
from blankfill.generation.write import generate
from blankfill.model.config import TransformerConfig, config_values
from blankfill.model.layout import optimize_for_inference
from blankfill.model.transformer import Transformer, build
from blankfill.objectives import Bert
from blankfill.pretraining.teacher import open_teacher
from blankfill.tasks.options import FinetuneOptions
from generate_models import FAMILY, loaded, random_model, wordpiece

LOW = [torch.bfloat16, torch.float16]
BLANKS = {"gpt": "the cat sat on the ____", "unilm": "the cat [MASK] on the mat", "t5": "the cat ____ on the mat",
          "bart": "the cat [MASK] on the mat", "glm": "the cat [MASK] on the mat"}  # fmt: skip
WRITERS = ("gpt", "glm", "unilm", "t5", "bart")


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def pair(name: str, dtype: torch.dtype) -> tuple[Loaded, Loaded]:
    """A model in a type of few bits, and one in fp32 with the same weights."""
    low = random_model(name, sharp=3.0).to(dtype)
    return loaded(name, low), loaded(name, deepcopy(low).float())


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("name", list(FAMILY))
def test_blanks_are_filled_as_with_the_same_weights_in_fp32(name: str, dtype: torch.dtype) -> None:
    text = BLANKS.get(name, "the cat [MASK] on the mat")
    low, wide = (Filler(loaded).fill(text, 40, "1").candidates[0] for loaded in pair(name, dtype))
    shares = {candidate.text: candidate.probability for candidate in wide}
    compared = [(candidate.probability, shares[candidate.text]) for candidate in low if candidate.text in shares]
    assert len(compared) > 3 and all(abs(a - b) < 0.03 for a, b in compared)


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("name", list(FAMILY))
def test_texts_of_unequal_length_are_embedded_alike(name: str, dtype: torch.dtype) -> None:
    texts = ["the cat", "the big red dog ran on the mat ."]
    low, wide = (torch.from_numpy(Embedder(loaded, "mean").vectors(texts).array) for loaded in pair(name, dtype))
    assert low.dtype == torch.float32 and ((low * wide).sum(1) > 0.995).all()


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_does_not_depend_on_the_layout(name: str, dtype: torch.dtype) -> None:
    low, _ = pair(name, dtype)
    prompt = "the cat sat on the [gMASK]" if name == "glm" else "the cat sat"
    texts = []
    for _ in range(2):
        texts.append("".join(generate(low, prompt, 8, Sampling(temperature=0))))
        optimize_for_inference(low.model)
    assert texts[0] == texts[1]


def write_folder(folder: Path, dtype: torch.dtype, width: int = 32, layers: int = 2, words: int = 400) -> Transformer:
    """A BERT in transformers' names, in a type."""
    tokenizer = wordpiece()
    objective = Bert(48, next_sentence=False)
    config = TransformerConfig(
        vocab_size=words, hidden_size=width, num_layers=layers, num_heads=4, ffn_size=4 * width,
        position_sizes=objective.position_sizes(), **FAMILY["bert"],
    )  # fmt: skip
    model = build(config).to(dtype)
    vocabulary = tokenizer.vocabulary()
    form = checkpoint_format_of(config, objective, vocabulary)
    assert not isinstance(form, str), form
    folder.mkdir()
    values = {"name": "bert", "length": 48, "next_sentence": False}
    state = {"model": config_values(config), "objective": values}
    store.write_files(folder, 0, model.state_dict(), {}, state, make_hf_layout(form, objective, tokenizer, vocabulary))
    return model


@pytest.mark.parametrize("dtype", LOW)
def test_a_model_keeps_its_type_through_import_and_export(tmp_path: Path, dtype: torch.dtype) -> None:
    pytest.importorskip("transformers")
    model = write_folder(tmp_path / "theirs", dtype)
    (tmp_path / "theirs" / store.STATE).unlink()
    made = import_model(tmp_path / "theirs", tmp_path / "ours")
    assert (made.dtype, made.converted) == (str(dtype).removeprefix("torch."), "")
    ours = load_model(tmp_path / "ours").model
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), model.state_dict().values(), strict=True))
    with torch.inference_mode(False):
        exported = export_model(tmp_path / "ours", tmp_path / "back")
    assert exported.difference is not None and exported.difference < 1e-4
    before, after = (load_file(tmp_path / name / store.MODEL) for name in ("theirs", "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    wide = import_model(tmp_path / "theirs", tmp_path / "wide", dtype="fp32")
    assert (wide.dtype, wide.converted) == ("float32", made.dtype)
    assert blankfill.load(tmp_path / "wide").loaded.model.token_embeddings.weight.dtype == torch.float32
    assert blankfill.load(tmp_path / "wide", dtype="fp16").loaded.model.token_embeddings.weight.dtype == torch.float16


MEASURE = """
import resource, sys
from pathlib import Path
import torch
from blankfill.checkpoint.load import load_model
from blankfill.finetuning.importing import import_model

small, large, out = map(Path, sys.argv[1:])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
load_model(small)  # what is imported on the way
import_model(small, out / "small")
before = peak()
model = load_model(large).model
assert model.token_embeddings.weight.dtype == torch.float16
print(peak() - before)
del model
import_model(large, out / "large")
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the peak of a process is measured by Unix")
def test_loading_and_importing_take_little_more_than_the_file(tmp_path: Path) -> None:
    """Converted to fp32 on the way, it would be three times the file."""
    for name, width, layers, words in (("small", 32, 2, 400), ("large", 512, 8, 20_000)):
        write_folder(tmp_path / name, torch.float16, width, layers, words)
        (tmp_path / name / store.STATE).unlink()
    size = (tmp_path / "large" / store.MODEL).stat().st_size
    assert size > 60 << 20
    arguments = [str(tmp_path / name) for name in ("small", "large", "out")]
    (tmp_path / "out").mkdir()
    run = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
    loading, importing = map(int, run.stdout.split())
    assert loading < 1.3 * size and importing < 1.3 * size


def test_a_model_that_is_to_learn_gets_master_weights(tmp_path: Path) -> None:
    write_folder(tmp_path / "low", torch.bfloat16)
    assert open_teacher(tmp_path / "low").loaded.model.token_embeddings.weight.dtype == torch.float32
    config = FinetuneConfig("classify", tmp_path, tmp_path / "low", FinetuneOptions())
    assert load_pretrained(config)[0].model.token_embeddings.weight.dtype == torch.float32
