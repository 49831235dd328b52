"""The begin token before a prompt: GPT-2 from elsewhere continues a prompt as transformers does, without the token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import blankfill
from blankfill.cli.main import main
from blankfill.errors import UserError
from blankfill.generation.sampling import Sampling
from blankfill.generation.write import Writer, generate
from blankfill.inference import load
from generate_models import byte_level, loaded, random_model, wordpiece

transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")

GREEDY = {"temperature": 0.0, "top_p": 1.0}
BYTES = byte_level(["the cat sat on the mat", "a dog ran"] * 3, 300)
PROMPTS = ["the cat sat", "a", "on the mat"]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers with a small random GPT-2 over bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    folder = tmp_path_factory.mktemp("gpt2")
    vocab = {letter: k for k, letter in enumerate([*sorted(ByteLevel.alphabet()), "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    torch.manual_seed(3)
    config = transformers.GPT2Config(
        vocab_size=257, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=256, eos_token_id=256,
        initializer_range=0.4,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def theirs(folder: Path, prompt: str, bos: bool = False) -> list[int]:
    """The ids that transformers writes after a prompt, the likeliest each time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = [256] * bos + tokenizer(prompt)["input_ids"]
    out = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, pad_token_id=256)
    return [int(token) for token in out[0, len(ids) :] if token != 256]


def test_greedy_text_is_that_of_transformers(gpt2: Path, tmp_path: Path) -> None:
    """Of the folder as it is and imported; with the token, of the prompt after it."""
    blankfill.import_model(gpt2, tmp_path / "ours")
    differing = 0
    for path in (gpt2, tmp_path / "ours"):
        model = load(path)
        for prompt in PROMPTS:
            expected = theirs(gpt2, prompt), theirs(gpt2, prompt, bos=True)
            plain, false, true = (
                list(model.generate_many([prompt], 12, add_bos=add_bos, **GREEDY)[0].ids)
                for add_bos in (None, False, True)
            )
            assert plain == false == expected[0] and true == expected[1]
            differing += expected[0] != expected[1]
    assert differing  # the token matters


def test_the_command_takes_the_option(gpt2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for option in ([], ["--no-add-bos"], ["--add-bos"]):
        args = ["--model", str(gpt2), "--prompt", PROMPTS[0], "--max-new-tokens", "12", "--temperature", "0", "--json"]
        assert main(["generate", *args, *option]) == 0
        shown.append(json.loads(capsys.readouterr().out)["text"])
    assert shown[0] == shown[1] == blankfill.generate(gpt2, PROMPTS[0], max_new_tokens=12, **GREEDY)
    assert shown[2] == blankfill.generate(gpt2, PROMPTS[0], max_new_tokens=12, add_bos=True, **GREEDY)


def test_a_prompt_of_nothing_begins_with_the_token(gpt2: Path) -> None:
    (text,) = load(gpt2).generate_many([""], 12, add_bos=False, **GREEDY)
    assert list(text.ids) == theirs(gpt2, "", bos=True)


def test_documents_apart_begin_with_the_token() -> None:
    """As in the training of such a model; the option leaves it out."""
    ready = loaded("gpt", random_model("gpt", 2, rows=BYTES.size), BYTES)
    first = [
        Writer(ready, ["the cat"], 4, Sampling(temperature=0), add_bos=add_bos).contexts[0].input_ids[0]
        for add_bos in (None, True, False)
    ]
    eos = ready.vocabulary["eos"]
    assert first == [eos, eos, BYTES.encode("the cat")[0]]


def test_other_models_have_no_such_token() -> None:
    ready = loaded("glm", random_model("glm"), wordpiece())
    with pytest.raises(UserError, match="add_bos=False is for a gpt model; a glm model reads a prompt as in training"):
        next(generate(ready, "the cat", 4, add_bos=False))
