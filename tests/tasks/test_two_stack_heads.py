"""Heads on models of two stacks: the scores are those of transformers' classes that have such heads."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blankfill.checkpoint.load import Loaded, load_model
from blankfill.errors import UserError
from blankfill.finetuning.model_setup import build_adapter, build_model
from blankfill.objectives import Bert
from blankfill.tasks.batching import pack
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.heads.models import TaskModel, task_losses
from blankfill.tasks.input_format import reads_encoder_only
from blankfill.tasks.items import Item, TaggedItem, TextItem
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.training import task_optimizer
from blankfill.types import Batch

transformers = pytest.importorskip("transformers")

WORDS = [f"w{k}" for k in range(40)]
OPTIONS = FinetuneOptions(max_length=48, threads=1)


def model_of(family: str) -> Any:
    """transformers' classifier, its weights drawn."""
    torch.manual_seed(0)
    if family == "bart":
        sides = {f"{side}_{name}": value for side in ("encoder", "decoder")
                 for name, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))}  # fmt: skip
        config = transformers.BartConfig(
            vocab_size=48, d_model=32, max_position_embeddings=64, dropout=0.0, num_labels=2, **sides
        )
        return transformers.BartForSequenceClassification(config).eval()
    config = transformers.T5Config(
        vocab_size=48,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        num_labels=2,
        decoder_start_token_id=0,
    )
    return transformers.T5ForSequenceClassification(config).eval()


def imported(family: str, theirs: Any, folder: Path) -> Loaded:
    """The model below the classifier, opened here with a tokenizer of its kind."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    first = ["<pad>", "</s>", "<unk>"] if family == "t5" else ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    more = [f"<extra_id_{k}>" for k in range(3)] if family == "t5" else []
    names = [*first, *WORDS, *more]
    raw = Tokenizer(models.WordLevel({name: k for k, name in enumerate(names)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens([*first, *more])
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    if family == "bart":
        named |= {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>", "bos_token": "<s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, **named).save_pretrained(folder)
    whole = transformers.AutoModelForSeq2SeqLM.from_config(theirs.config)
    body = getattr(theirs, "model", None) or theirs.transformer
    state = body.state_dict()
    under = "model." if family == "bart" else ""
    whole.load_state_dict({f"{under}{name}": tensor for name, tensor in state.items()}, strict=False)
    whole.tie_weights()
    whole.save_pretrained(folder)
    return load_model(folder)


def some_texts() -> list[Item]:
    rng = np.random.default_rng(0)

    def text(longest: int) -> str:
        return " ".join(f"w{k}" for k in rng.integers(0, 40, int(rng.integers(1, longest))))

    return [TextItem(str(k), text(12), text(9) if k % 2 else None, int(rng.integers(0, 2))) for k in range(7)]


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_scores_are_those_of_transformers_classifier(family: str, tmp_path: Path) -> None:
    theirs = model_of(family)
    loaded = imported(family, theirs, tmp_path)
    task, items = task_named("rte"), some_texts()
    adapter = build_adapter(task, task.labels, loaded, OPTIONS)
    encoded = adapter.encode(items).encoded
    model = build_model(loaded, adapter, items, OPTIONS, torch.device("cpu"), torch.float32).eval()
    assert isinstance(model, TaskModel) and model.head.dense is not None
    head = theirs.classification_head
    model.head.dense.load_state_dict(head.dense.state_dict())
    model.head.output.load_state_dict(head.out_proj.state_dict())
    packed = pack(encoded, loaded.vocabulary["pad"])
    with torch.no_grad():
        ours = model.scores(packed.batch)
        for k, item in enumerate(encoded):
            context = item.examples[0].context
            assert context is not None
            ids = torch.from_numpy(context.input_ids.astype(np.int64))[None]
            # theirs uses the last end token, which in a pair is not the first one
            expected = theirs(input_ids=ids).logits
            assert torch.allclose(ours[packed.items == k], expected, atol=1e-5)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_tag_is_asked_where_pretraining_asks_for_the_word(family: str, tmp_path: Path) -> None:
    theirs = model_of(family)
    loaded = imported(family, theirs, tmp_path)
    task = task_named("wikigold")
    items: list[Item] = [TaggedItem("0", ("w3", "w4", "w5"), ("O", "B-PER", "I-PER")), TaggedItem("1", ("w6",), ("O",))]
    labels = ("O", "B-PER", "I-PER")
    adapter = build_adapter(task, labels, loaded, dataclasses.replace(OPTIONS, head_on="decoder"))
    encoded = adapter.encode(items, learn=True).encoded
    packed = pack(encoded, loaded.vocabulary["pad"])
    whole = theirs.model if family == "bart" else theirs.transformer
    ids = torch.tensor([loaded.tokenizer.encode("w3 w4 w5")])
    frame = {"t5": ([], [1]), "bart": ([0], [2])}[family]
    ids = torch.cat([torch.tensor([frame[0]]).long(), ids, torch.tensor([frame[1]])], 1)
    start = theirs.config.decoder_start_token_id
    with torch.no_grad():
        hidden = loaded.model.eval()(packed.batch).hidden.flatten(0, 1)[packed.batch.labels["answer"][0]]
        shifted = torch.cat([torch.tensor([[start]]), ids[:, :-1]], 1)
        expected = whole(input_ids=ids, decoder_input_ids=shifted).last_hidden_state[0]
    place = len(frame[0])
    assert torch.allclose(hidden[packed.items == 0], expected[place : place + 3], atol=1e-5)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_cloze_is_refused(family: str, tmp_path: Path) -> None:
    loaded, task = imported(family, model_of(family), tmp_path), task_named("rte")
    with pytest.raises(UserError, match="writes its answers; use method=text in place of method=cloze"):
        build_adapter(task, task.labels, loaded, FinetuneOptions(method="cloze"))


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_it_learns_all_of_both_stacks(family: str, tmp_path: Path) -> None:
    loaded = imported(family, model_of(family), tmp_path)
    task, items = task_named("rte"), some_texts()
    adapter = build_adapter(task, task.labels, loaded, OPTIONS)
    model = build_model(loaded, adapter, items, OPTIONS, torch.device("cpu"), torch.float32)
    batch: Batch = pack(adapter.encode(items, learn=True).encoded, loaded.vocabulary["pad"]).batch
    task_losses(model, batch)["answer"].backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("encoder.lm_head"):  # words are not scored
            assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), name


def test_tags_with_t5_are_those_of_transformers_class(tmp_path: Path) -> None:
    """Which has no decoder: the encoder reads the item alone."""
    loaded = imported("t5", model_of("t5"), tmp_path)
    body = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    task = task_named("wikigold")
    body.config.num_labels = len(task.labels)
    theirs = transformers.T5ForTokenClassification(body.config).eval()
    theirs.transformer.load_state_dict(body.state_dict(), strict=False)
    items: list[Item] = [
        TaggedItem("0", ("w3", "w4", "w5"), ("O", "B-PER", "O")),
        TaggedItem("1", ("w6",), ("O",)),
        TaggedItem("2", ("w7", "w3"), ("B-PER", "O")),
    ]
    adapter = build_adapter(task, task.labels, loaded, OPTIONS)
    encoded = adapter.encode(items, learn=True).encoded
    model = build_model(loaded, adapter, items, OPTIONS, torch.device("cpu"), torch.float32).eval()
    assert isinstance(model, TaskModel)
    model.head.output.load_state_dict(theirs.classifier.state_dict())
    packed = pack(encoded, loaded.vocabulary["pad"])
    with torch.no_grad():
        ours = model.scores(packed.batch)
        for k, item in enumerate(encoded):
            assert item.examples[0].context is None
            ids = torch.from_numpy(item.examples[0].input_ids.astype(np.int64))[None]
            expected = theirs(input_ids=ids).logits[0, :-1]  # without the end token
            assert torch.allclose(ours[packed.items == k], expected, atol=1e-5)


@pytest.mark.parametrize(("family", "column"), [("t5", -1), ("bart", 0)])
def test_the_encoder_reads_alone(family: str, column: int, tmp_path: Path) -> None:
    """Its own states are what the head reads, and nothing of the decoder learns."""
    theirs = model_of(family)
    loaded = imported(family, theirs, tmp_path)
    task, items = task_named("rte"), some_texts()
    options = dataclasses.replace(OPTIONS, head_on="encoder")
    adapter = build_adapter(task, task.labels, loaded, options)
    encoded = adapter.encode(items, learn=True).encoded
    model = build_model(loaded, adapter, items, options, torch.device("cpu"), torch.float32).eval()
    body = (theirs.model if family == "bart" else theirs.transformer).encoder
    packed = pack(encoded, loaded.vocabulary["pad"])
    with torch.no_grad():
        states = loaded.model(packed.batch, encoder_only=True).hidden.flatten(0, 1)[packed.batch.labels["answer"][0]]
        for k, item in enumerate(encoded):
            ids = torch.from_numpy(item.examples[0].input_ids.astype(np.int64))[None]
            expected = body(input_ids=ids).last_hidden_state[:, column]
            assert torch.allclose(states[packed.items == k], expected, atol=1e-5)
    task_optimizer(model, options, options.train_options(len(encoded)))
    task_losses(model, packed.batch)["answer"].backward()
    for name, parameter in model.named_parameters():
        read = name.startswith(("head.", "encoder.encoder.", "encoder.token_embeddings."))
        assert parameter.requires_grad == read, name
        assert not read or (parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)), name


def test_features_of_the_encoder_alone(tmp_path: Path) -> None:
    loaded = imported("t5", model_of("t5"), tmp_path)
    task, labels = task_named("wikigold"), ("O", "B-PER")
    items: list[Item] = [TaggedItem("0", ("w3", "w4"), ("O", "B-PER"))]
    options = dataclasses.replace(OPTIONS, features="second-to-last")
    adapter = build_adapter(task, labels, loaded, options)
    model = build_model(loaded, adapter, items, options, torch.device("cpu"), torch.float32).eval()
    assert isinstance(model, TaskModel) and model.reader is not None
    packed = pack(adapter.encode(items, learn=True).encoded, loaded.vocabulary["pad"])
    body = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval().encoder
    with torch.no_grad():
        expected = body(input_ids=packed.batch.input_ids, output_hidden_states=True).hidden_states
        assert torch.allclose(model.reader(loaded.model, packed.batch, torch.float32), expected[1][0], atol=1e-5)


def test_where_there_is_no_stack_to_choose(tmp_path: Path) -> None:
    loaded = imported("bart", model_of("bart"), tmp_path)
    task, options = task_named("scitldr"), dataclasses.replace(OPTIONS, head_on="encoder")
    with pytest.raises(UserError, match="scitldr is written by the decoder; leave out head_on"):
        build_adapter(task, (), loaded, options)
    with pytest.raises(UserError, match="a T5 or BART a head reads, and a bert model has one stack; leave it out"):
        reads_encoder_only(Bert(), "decoder", task_named("rte"))
    problems = dataclasses.replace(options, method="text").problems()
    assert "method=text answers with the model's own words, not with a head; leave out head_on" in problems
