"""Writing text: the greedy path of GPT-2 in transformers, streaming, ends, windows, and every error."""

from collections.abc import Sequence

import pytest
import torch

from blankfill.checkpoint.load import Loaded
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import ConfigError, UserError
from blankfill.generation.sampling import SampledRow, Sampling
from blankfill.generation.scheduler import Scheduler
from blankfill.generation.text_stream import Detokenizer
from blankfill.generation.write import Writer, generate, generate_many
from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import Transformer, build
from blankfill.objectives import Glm
from blankfill.objectives.gpt import gpt_input
from blankfill.types import DecoderInput
from generate_models import byte_level, forced_model, loaded, random_model, wordpiece

GREEDY = Sampling(temperature=0)
TEXTS = ["the cat sat on the mat", "a dog ran", "猫在垫子上，狗在跑。", "naïve café 🙂 ok", "one\ntwo  three\n"]
BYTES = byte_level(TEXTS * 3, 300)


def from_gpt2(theirs: torch.nn.Module) -> Transformer:
    """Our model with the weights of a GPT2LMHeadModel."""
    config = theirs.config
    ours = build(
        TransformerConfig(
            vocab_size=config.vocab_size, hidden_size=config.n_embd, num_layers=config.n_layer,
            num_heads=config.n_head, ffn_size=4 * config.n_embd, position_sizes=(config.n_positions,),
            norm="pre", norm_eps=config.layer_norm_epsilon, activation="gelu_tanh",
        )
    )  # fmt: skip
    names = {
        "attention_norm": "ln_1", "ffn_norm": "ln_2", "attention.qkv": "attn.c_attn", "attention.output": "attn.c_proj",
        "ffn.inner": "mlp.c_fc", "ffn.output": "mlp.c_proj",
    }  # fmt: skip
    source = theirs.transformer.state_dict()
    state = {"token_embeddings.weight": source["wte.weight"], "positions.0.weight": source["wpe.weight"]}
    for kind in ("weight", "bias"):
        state[f"final_norm.{kind}"] = source[f"ln_f.{kind}"]
        for k in range(config.n_layer):
            for name, their_name in names.items():
                tensor = source[f"h.{k}.{their_name}.{kind}"]
                # GPT-2's Conv1D keeps its matrices the other way round
                turned = tensor.T if kind == "weight" and tensor.ndim == 2 else tensor
                state[f"layers.{k}.{name}.{kind}"] = turned
    ours.load_state_dict(state)
    return ours.eval()


def gpt2(seed: int = 0, **sizes: int) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    options = {"vocab_size": 97, "n_positions": 40, "n_embd": 32, "n_layer": 3, "n_head": 4, **sizes}
    config = transformers.GPT2Config(**options, initializer_range=0.3, bos_token_id=96, eos_token_id=96)
    return transformers.GPT2LMHeadModel(config).eval()


def written(model: Transformer, rows: Sequence[tuple[DecoderInput, SampledRow, int, Sequence[int]]]) -> list[list[int]]:
    """What rows write: (decoder input, settings, most tokens, ends) of each."""
    scheduler = Scheduler(model)
    texts: dict[int, list[int]] = {scheduler.join(*row): [] for row in rows}
    while scheduler.busy:
        for handle, update in scheduler.step().items():
            texts[handle] += [] if update.token is None else [update.token]
    return list(texts.values())


@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_greedy_continuation_is_that_of_transformers(penalty: float) -> None:
    theirs = gpt2()
    ours = from_gpt2(theirs)
    prompts = [[5, 17, 33], [1], [60, 2, 8, 44, 9, 11, 3]]
    contexts = [gpt_input(prompt, 40) for prompt in prompts]
    sampling = Sampling(temperature=0, repetition_penalty=penalty)
    nothing = torch.zeros(97, dtype=torch.bool)
    rows = [SampledRow(sampling, prompt, nothing) for prompt in prompts]
    texts = written(ours, [(context, row, 20, [96]) for context, row in zip(contexts, rows, strict=True)])
    for row, prompt in enumerate(prompts):
        expected = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=20, do_sample=False, pad_token_id=96, repetition_penalty=penalty
        )[0, len(prompt) :].tolist()  # fmt: skip
        assert texts[row] == [token for token in expected if token != 96]


def test_batched_rows_are_the_rows_alone() -> None:
    model = random_model("gpt", 2, rows=BYTES.size)
    ready = loaded("gpt", model, BYTES)
    prompts = ["the cat", "a", "猫在垫子"]
    together = generate_many(ready, prompts, 12, GREEDY)
    for prompt, generation in zip(prompts, together, strict=True):
        assert generate_many(ready, [prompt], 12, GREEDY) == [generation]
        assert "".join(generate(ready, prompt, 12, GREEDY)) == generation.text
        assert generation.whole == prompt + generation.text
        assert len(generation.ids) == 12 and generation.finish == "length"
    assert generate_many(ready, []) == []


def test_samples_differ_and_repeat_with_their_seed() -> None:
    ready = loaded("gpt", random_model("gpt", 2, rows=BYTES.size, sharp=1.0), BYTES)
    many = generate_many(ready, ["the"] * 4, 10, Sampling(seed=3))
    assert len({generation.ids for generation in many}) == 4
    assert generate_many(ready, ["the"] * 2, 10, Sampling(seed=3)) == many[:2]
    assert "".join(generate(ready, "the", 10, Sampling(seed=3))) == many[0].text


@pytest.mark.parametrize("text", [*TEXTS, "".join(TEXTS), "x" * 300, "狗" * 300])
@pytest.mark.parametrize("before", ["", "the cat\n", "一"])
def test_pieces_join_to_the_text_in_whole_characters_and_words(text: str, before: str) -> None:
    detokenizer = Detokenizer(BYTES, BYTES.encode(before))
    pieces = [detokenizer.push(token) for token in BYTES.encode(text)]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + detokenizer.flush() == text
    if text.isascii() and len(text) < 100:
        words = set(text.split())
        assert all(word in words for piece in pieces for word in piece.split())


def test_wordpiece_text_is_spaced_as_its_decoding() -> None:
    tokenizer = wordpiece(words=["the", "don", "'", "t", "play", "##ing", ".", ",", '"', "猫", "狗", "well", "-"])
    text = "the don't playing, well-playing. 猫狗 the."
    detokenizer = Detokenizer(tokenizer, tokenizer.encode("the"))
    pieces = [detokenizer.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) + detokenizer.flush() == " the don't playing, well-playing.猫狗the."
    detokenizer = Detokenizer(tokenizer)
    quoted = 'the "playing" the'
    pieces = [detokenizer.push(token) for token in tokenizer.encode(quoted)]
    assert ("".join(pieces) + detokenizer.flush()).replace(" ", "") == quoted.replace(" ", "")


def test_long_texts_keep_their_words_when_the_window_moves() -> None:
    tokenizer = wordpiece(words=["the", "play", "##ing", ".", "猫"])
    text = "the playing. 猫 the " * 90
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(tokenizer.encode(text))


def place_words(tokenizer: Tokenizer, words: dict[int, str]) -> dict[int, dict[int, float]]:
    ids = {place: tokenizer.id(word) for place, word in words.items()}
    return {place: {token: 9.0} for place, token in ids.items() if token is not None}


WORDS = wordpiece()


def test_gpt_ends_at_the_end_token_and_spaces_follow_the_prompt() -> None:
    wanted = place_words(WORDS, {1: "cat", 2: "sat", 3: ".", 4: "<|endoftext|>"})
    ready = loaded("gpt", forced_model("gpt", 0, wanted, 30), WORDS)
    (generation,) = generate_many(ready, ["the"], 20, GREEDY)
    assert (generation.text, generation.finish, len(generation.ids)) == (" cat sat.", "end", 3)
    assert generation.to_json()["whole"] == "the cat sat."
    assert "".join(generate(ready, "the ", 20, GREEDY)) == "cat sat."
    assert list(generate(ready, "the", 20, GREEDY)) == [" cat", " sat."]


def test_gpt_stops_at_its_last_position_or_slides() -> None:
    ready = loaded("gpt", random_model("gpt", 3, rows=BYTES.size, length=16), BYTES, length=16)
    with torch.no_grad():
        ready.model.token_embeddings.weight[ready.vocabulary["eos"]] = 0.0
    (generation,) = generate_many(ready, ["the cat"], 50, GREEDY)
    prompt = 1 + len(BYTES.encode("the cat"))
    assert generation.finish == "positions" and len(generation.ids) == 16 - prompt + 1
    (more,) = generate_many(ready, ["the cat"], 50, GREEDY, slide=True)
    assert more.finish == "length" and len(more.ids) == 50 and more.ids[: len(generation.ids)] == generation.ids
    whole = [ready.vocabulary["eos"], *BYTES.encode("the cat"), *generation.ids]
    row = SampledRow(GREEDY, [], Writer(ready, ["the cat"], 1, GREEDY, True).reader.banned_V)
    ((again, *_),) = written(ready.model, [(gpt_input(whole[-8:], 16), row, 3, [])])
    assert again == more.ids[len(generation.ids)]
    assert len(generate_many(ready, ["the cat " * 40], 5, GREEDY, slide=True)[0].ids) == 5


def test_glm_writes_at_the_end_or_in_its_blank() -> None:
    wanted = place_words(WORDS, {1: "big", 2: "cat", 3: "<|endoftext|>"})
    ready = loaded("glm", forced_model("glm", 1, wanted, 32), WORDS)
    (generation,) = generate_many(ready, ["the"], 9, GREEDY)
    assert (generation.text, generation.whole, generation.finish) == (" big cat", "the big cat", "end")
    (generation,) = generate_many(ready, ["the [sMASK] sat"], 9, GREEDY)
    assert (generation.text, generation.whole) == ("big cat", "the big cat sat")
    assert generate_many(ready, [""], 9, GREEDY)[0].text == "big cat"
    writer = Writer(ready, ["the", "the [MASK] ."], 9, GREEDY, False)
    gmask, mask = ready.vocabulary["gmask"], ready.vocabulary["mask"]
    assert writer.contexts[0].input_ids.tolist()[2] == gmask and writer.contexts[1].input_ids.tolist()[2] == mask


def test_glm_writes_at_length_with_the_longest_blank_that_it_knows() -> None:
    vocabulary = WORDS.vocabulary()
    assert Glm().format(vocabulary).longest_blank == "mask"
    assert Glm(sentence=1.0).format(vocabulary).longest_blank == "smask"
    assert Glm(sentence=1.0, document=1.0).format(vocabulary).longest_blank == "gmask"
    ready = loaded("glm", random_model("glm", rows=32), WORDS)
    token_only = Loaded(ready.model, WORDS, ready.vocabulary, Glm(48), ready.path)
    ids = Writer(token_only, ["the"], 9, GREEDY, False).contexts[0].input_ids.tolist()
    assert ids == [ready.vocabulary[role] for role in ("cls", "mask", "eos", "sop")][:1] + [WORDS.id("the")] + [
        ready.vocabulary[role] for role in ("mask", "eos", "sop")
    ]


def test_glm_stops_at_its_last_position() -> None:
    ready = loaded("glm", forced_model("glm", 1, {k: {12: 9.0} for k in range(17)}, 32, length=16), WORDS, length=16)
    (generation,) = generate_many(ready, ["the"], 50, GREEDY)
    assert generation.finish == "positions" and len(generation.ids) == 16


@pytest.mark.parametrize("name", ["bert", "mlm"])
def test_a_masked_model_is_sent_to_fill(name: str) -> None:
    sentence = f"{name} fills blanks but does not write on; use `blankfill fill --model run "
    with pytest.raises(UserError, match=sentence):
        generate(loaded(name, random_model(name)), "the")


def test_errors_say_what_to_do() -> None:
    gpt = loaded("gpt", random_model("gpt", rows=32, length=16), WORDS, length=16)
    glm = loaded("glm", random_model("glm", rows=32, length=16), WORDS, length=16)
    for ready in (gpt, glm):
        with pytest.raises(UserError, match=r"the text has \d+ tokens .* at most 1[67]; shorten it"):
            generate(ready, "the cat " * 12)
        with pytest.raises(UserError, match="max-new-tokens is 0"):
            generate(ready, "the", 0)
        with pytest.raises(ConfigError, match="top_p is 2"):
            generate(ready, "the", sampling=Sampling(top_p=2))
    with pytest.raises(UserError, match="the prompt has 2 blanks"):
        generate(glm, "the [MASK] sat [MASK]")
    with pytest.raises(UserError, match=r"the blank \[MASK:2\] has a length"):
        generate(glm, "the [MASK:2] sat")
    with pytest.raises(UserError, match="only a gpt model can slide"):
        generate(glm, "the", slide=True)
    bare = wordpiece(["[UNK]"])
    with pytest.raises(UserError, match="no token for eos"):
        generate(loaded("gpt", random_model("gpt"), bare), "the")
    with pytest.raises(UserError, match="no token for cls, mask, sop"):
        generate(loaded("glm", random_model("glm"), bare), "the")
