"""Import and export: what transformers saved comes in, what goes out opens there and computes the same."""

from __future__ import annotations

import io
import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from blankfill.checkpoint import store
from blankfill.checkpoint.hf_loading import open_external
from blankfill.checkpoint.load import load_model
from blankfill.cli.main import main
from blankfill.convert import exporting, importing
from blankfill.convert.check import difference, larger, our_scores, real_text
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError
from blankfill.exporting.model import export_model
from blankfill.families import weight_names
from blankfill.families.checkpoint_format import CheckpointFormat
from blankfill.families.glm import sizes_from_shapes
from blankfill.finetuning.importing import import_model
from blankfill.generation.fill import Filler
from blankfill.model.config import config_values
from blankfill.model.transformer import build
from blankfill.system.reading import read_json
from written_models import OBJECTIVES, SPECIAL, TEXTS, WORDS, config_of, vocabulary_file, write_model


@pytest.mark.parametrize("family", OBJECTIVES)
def test_an_export_computes_the_same_in_transformers(tmp_path: Path, family: str) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "text.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    made = export_model(write_model(tmp_path / "model", family), tmp_path / "out", tmp_path / "text.txt")
    assert made.difference is not None and made.difference < 1e-4
    assert made.texts == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "albert", "modernbert"])
def test_the_fill_mask_pipeline_fills_as_we_do(tmp_path: Path, family: str) -> None:
    transformers = pytest.importorskip("transformers")
    folder = write_model(tmp_path / "model", family)
    export_model(folder, tmp_path / "out")
    pipeline = transformers.pipeline("fill-mask", model=str(tmp_path / "out"))
    ours = Filler(load_model(folder)).fill("the old [MASK] sings.", 3)
    allowed = [answer for answer in pipeline("the old [MASK] sings.", top_k=len(WORDS))
               if answer["token_str"] not in SPECIAL and not answer["token_str"].startswith("##")]  # fmt: skip
    assert len(ours.candidates[0]) == 3  # a blank of its own begins a word
    for mine, theirs in zip(ours.candidates[0], allowed, strict=False):
        assert mine.text.strip() == theirs["token_str"]
        assert mine.probability == pytest.approx(theirs["score"], rel=1e-4)


def test_the_text_generation_pipeline_writes_as_we_do(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = write_model(tmp_path / "model", "gpt2")
    export_model(folder, tmp_path / "out")
    pipeline = transformers.pipeline("text-generation", model=str(tmp_path / "out"))
    written = pipeline("the old boat", max_new_tokens=5, do_sample=False, return_tensors=True)[0]["generated_token_ids"]
    loaded = load_model(folder)
    ids = loaded.tokenizer.encode("the old boat")
    assert written[:3] == ids
    format = loaded.objective.format(loaded.vocabulary, loaded.model.config.position_sizes)
    for k in range(3, len(written)):
        with torch.inference_mode():
            assert written[k] == int(our_scores(loaded, format.export_row(written[:k]))[-1].argmax())


@pytest.mark.parametrize("family", [
    "bert", "distilbert", "roberta", "albert", "spanbert", "ernie", "gpt2", "modernbert",
])  # fmt: skip
def test_a_checkpoint_is_a_transformers_folder(tmp_path: Path, family: str) -> None:
    transformers = pytest.importorskip("transformers")
    folder = write_model(tmp_path / "model", family)
    kind = transformers.AutoModelForCausalLM if family == "gpt2" else transformers.AutoModelForMaskedLM
    _, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    heads = ("seq_relationship", "sop_classifier", "pooler")
    assert [key for key in report["unexpected_keys"] if not any(head in key for head in heads)] == []
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer("old boat")["input_ids"] == ([12, 13] if family == "gpt2" else [2, 12, 13, 3])
    assert ("token_type_ids" in tokenizer("old boat")) == (family in ("bert", "albert", "spanbert", "ernie"))
    assert tokenizer.mask_token == "[MASK]"


def test_the_head_that_has_no_place_is_kept_here_and_left_out_there(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = write_model(tmp_path / "model", "spanbert")
    imported = load_model(folder).model
    assert imported.span_boundary_head is not None and imported.config.max_span_positions == 20
    made = export_model(folder, tmp_path / "out")
    assert made.left_out == "span boundary head" and made.architecture == "BertForMaskedLM"
    back = load_model(tmp_path / "out").model
    assert back.span_boundary_head is None and torch.equal(
        back.token_embeddings.weight, imported.token_embeddings.weight
    )


def test_an_export_that_differs_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("transformers")
    folder = write_model(tmp_path / "model", "bert")

    def spoiled(folder: Path, stream: Any, *others: Any) -> None:
        tensors = {name: stream[name].clone() for name in stream}
        tensors["cls.predictions.bias"] += torch.eye(len(WORDS))[3] * 1e-3
        store.write_weights(folder / "model.safetensors", tensors)

    monkeypatch.setattr(exporting, "write_shards", spoiled)
    with pytest.raises(UserError, match=r"differ by up to 0\.001, and 0\.0001 is allowed"):
        export_model(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_scores_that_are_no_numbers_differ(tmp_path: Path) -> None:
    assert larger(larger(0.5, float("nan")), 1.0) == float("inf") and larger(0.5, 1.0) == 1.0
    pytest.importorskip("transformers")
    folder = write_model(tmp_path / "model", "roberta")
    export_model(folder, tmp_path / "out")
    loaded = load_model(folder)
    with torch.no_grad():
        loaded.model.lm_head.bias[3] = float("nan")
    assert difference(loaded, tmp_path / "out", TEXTS) == float("inf")


def test_an_import_is_compared_on_documentation_and_its_own_words(tmp_path: Path) -> None:
    texts = real_text(load_model(write_model(tmp_path, "gpt2")), tmp_path)
    assert len(texts) == 8 and all(text.strip() for text in texts)
    assert min(len(text) for text in texts[:4]) > 200  # Python's, in sentences
    assert {word for text in texts[4:] for word in text.split()} & {"boat", "lamp", "sleeps"}


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_what_is_written_may_be_read_by_those_that_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        assert write_model(tmp_path, "bert").joinpath("model.safetensors").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_without_transformers_nothing_is_compared(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    folder = write_model(tmp_path / "model", "bert")
    monkeypatch.setattr(exporting, "has_module", lambda name: False)
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert "transformers is not installed" in capsys.readouterr().out


def test_a_model_that_transformers_lacks_is_told(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "bert", norm="pre")
    assert not (folder / "config.json").exists()
    with pytest.raises(UserError, match=r"cannot be exported: transformers' bert has no model\.norm = pre"):
        export_model(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), (b"\n \n", "is empty"), (b"\xff", "not UTF-8")]
)
def test_a_text_that_cannot_be_compared_on_is_told(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        export_model(tmp_path, tmp_path / "out", tmp_path / "text.txt")


def test_what_transformers_saved_comes_in_and_goes_out_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    theirs = transformers.BertForPreTraining(transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=20,
    ))  # fmt: skip
    theirs.save_pretrained(tmp_path / "theirs")
    vocabulary_file(tmp_path / "theirs")
    made = import_model(tmp_path / "theirs", tmp_path / "ours")
    assert (made.family, made.converted) == ("bert", "")
    assert made.parameters == sum(p.numel() for p in theirs.parameters())
    export_model(tmp_path / "ours", tmp_path / "back")
    source, back = (
        load_file(tmp_path / "theirs" / "model.safetensors"),
        load_file(tmp_path / "back" / "model.safetensors"),
    )
    assert source.keys() == back.keys()
    assert all(torch.equal(source[name], back[name]) for name in source)
    again = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "ours")
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), theirs.state_dict().values(), strict=True)
    )


def test_half_precision_is_kept_or_written_as_another_type(tmp_path: Path, capsys: Any) -> None:
    folder = write_model(tmp_path / "model", "gpt2")
    weights = {name: t.bfloat16() for name, t in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    (folder / "state.json").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    for out, options, dtype in (("same", [], torch.bfloat16), ("wide", ["--dtype", "fp32"], torch.float32)):
        assert main(["import", str(folder), "--out", str(tmp_path / out), *options]) == 0
        err = "bfloat16 weights are converted to float32" in capsys.readouterr().err
        assert err == (out == "wide")
        made = load_file(tmp_path / out / "model.safetensors")
        assert {t.dtype for t in made.values()} == {dtype}
        assert all(torch.equal(made[name].bfloat16(), weights[name]) for name in made)
        assert read_json(tmp_path / out / "config.json")["torch_dtype"] == str(dtype)[6:]


def test_a_glm_over_berts_vocabulary_gets_its_marks(tmp_path: Path) -> None:
    """The released checkpoints bring no tokenizer; their code adds four tokens behind BERT's."""
    words = [word for word in WORDS if word not in SPECIAL[5:]]  # its end of text is [PAD], in the original code
    config = replace(config_of("glm", OBJECTIVES["glm"]), vocab_size=len(words) + 6)
    theirs = CheckpointFormat(weight_names()["glm"], config).table.to_theirs(build(config, seed=2).state_dict())
    torch.save({"module": theirs}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(UserError, match="beside its weights, or name it with tokenizer"):
        import_model(tmp_path, tmp_path / "out", heads=2)
    file = vocabulary_file(tmp_path / "words", words)
    import_model(tmp_path, tmp_path / "out", file, heads=2)
    marks = ("<|startofpiece|>", "<|endofpiece|>", "[gMASK]", "[sMASK]")
    vocabulary_file(tmp_path, words)
    values = sizes_from_shapes({name: tuple(tensor.shape) for name, tensor in theirs.items()}, heads=2)
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    for folder in (tmp_path / "out", tmp_path):  # imported, and opened as it is
        loaded = load_model(folder)
        assert [loaded.tokenizer.id(mark) for mark in marks] == [len(words) + k for k in range(4)]
        assert loaded.vocabulary["eos"] == loaded.vocabulary["pad"] == 0
    values = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert (values["sop_token_id"], values["eos_token_id"]) == (len(words), [len(words) + 1, 0])
    assert Filler(loaded).fill("the old [MASK] sings.", 2).candidates[0]


def roberta_bpe(folder: Path) -> int:
    """RoBERTa's vocab.json and merges.txt over a few words; how many tokens there are."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted({character for text in TEXTS for character in text.replace(" ", "Ġ")} | {"Ġ"})
    merges = ["t h", "th e", "Ġ the", "o a", "b oa", "boa t", "Ġ boat"]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *letters, *(merge.replace(" ", "") for merge in merges), "<mask>"]
    (folder / "vocab.json").write_text(json.dumps({token: k for k, token in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return len(tokens)


def test_roberta_frames_pairs_as_transformers_does(tmp_path: Path) -> None:
    """From vocab.json and merges.txt: `<s> a </s></s> b </s>`, here, in transformers, and after an export."""
    transformers = pytest.importorskip("transformers")
    size = roberta_bpe(tmp_path / "theirs")
    torch.manual_seed(5)
    transformers.RobertaForMaskedLM(transformers.RobertaConfig(
        vocab_size=size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=40, type_vocab_size=1,
    )).save_pretrained(tmp_path / "theirs")  # fmt: skip
    import_model(tmp_path / "theirs", tmp_path / "ours")
    assert export_model(tmp_path / "ours", tmp_path / "back").difference < 1e-4
    expected = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    pair = ("the old boat", "on the sea<mask>")
    ids = expected(*pair)["input_ids"]
    assert ids[0] == 0 and [k for k in ids if k == 2] == [2, 2, 2]
    for folder in ("ours", "back"):
        assert transformers.AutoTokenizer.from_pretrained(tmp_path / folder)(*pair)["input_ids"] == ids
    assert Tokenizer.load(tmp_path / "theirs").frame() == ((0,), (2,))


@pytest.mark.parametrize("added", [{}, {"[CLS]": 60, "[SEP]": 61, "[MASK]": 62, "<|startofpiece|>": 63,
                                        "<|endofpiece|>": 64, "[gMASK]": 65, "[sMASK]": 66}])  # fmt: skip
def test_a_sentencepiece_tokenizer_comes_along(tmp_path: Path, added: dict[str, int]) -> None:
    """A Unigram *.model beside the weights; with added_tokens.json behind it, as the Chinese GLMs are laid out."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="the package sentencepiece is not installed")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS, *WORDS[11:]] * 20), model_writer=model, vocab_size=60, minloglevel=2,
        hard_vocab_limit=False, byte_fallback=False, pad_id=3,
    )  # fmt: skip
    oracle = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    first = oracle.get_piece_size()
    added = {name: first + k for k, name in enumerate(added)}
    (tmp_path / "spiece.model").write_bytes(model.getvalue())
    family = "glm" if added else "gpt2"
    if added:
        (tmp_path / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    config = replace(config_of(family, OBJECTIVES[family]), vocab_size=first + len(added))
    form = CheckpointFormat(weight_names()[family], config)
    torch.save(form.table.to_theirs(build(config).state_dict()), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(form.family.write(config)), encoding="utf-8")
    import_model(tmp_path, tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    assert [loaded.tokenizer.encode(text) for text in TEXTS] == oracle.encode(TEXTS)
    assert {name: loaded.tokenizer.id(name) for name in added} == added
    if added:
        assert loaded.tokenizer.encode("[gMASK]") == [added["[gMASK]"]]
        assert Filler(loaded).fill("the old [MASK] sings.", 2).candidates[0]
        (tmp_path / "added_tokens.json").write_text(json.dumps({**added, "[SEP]": 999}), encoding="utf-8")
        with pytest.raises(UserError, match=r"added_tokens\.json gives '\[SEP\]' the id 999"):
            import_model(tmp_path, tmp_path / "other")


def test_the_memory_that_is_told_is_that_of_the_largest_weight(tmp_path: Path) -> None:
    """Weights are copied one at a time: what is read from the file, and the tensor that is made of it and written."""
    folder = write_model(tmp_path / "model", "bert")
    (folder / "state.json").unlink()
    checkpoint = open_external(folder)
    weights = load_file(folder / "model.safetensors")
    count = sum(tensor.numel() for tensor in weights.values())
    assert checkpoint.parameters == count
    largest = 3 * 16 * 16  # queries, keys and values, which are joined; the inner layer has 16 · 64
    assert largest < 16 * 64
    assert checkpoint.memory == 4 * (3 * 16 * 64 + count)
    store.write_weights(folder / "model.safetensors", {name: tensor.half() for name, tensor in weights.items()})
    assert open_external(folder).memory == 2 * (3 * 16 * 64 + count)
    assert open_external(folder, dtype=torch.float32).memory == (2 + 8) * 16 * 64 + 2 * count


def test_bad_places_are_told_and_nothing_is_left(tmp_path: Path, monkeypatch: Any) -> None:
    folder = write_model(tmp_path / "model", "bert")
    (folder / "state.json").unlink()
    with pytest.raises(UserError, match="is there already and not empty"):
        import_model(folder, folder)
    with pytest.raises(UserError, match="no such file or folder"):
        import_model(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="is a run of blankfill, which every command opens as it is"):
        import_model(tmp_path / "run", tmp_path / "out")
    shutil.rmtree(tmp_path / "run")
    monkeypatch.setattr(importing, "usable_memory", lambda: 10)
    with pytest.raises(UserError, match="of memory, and 10 B is free"):
        import_model(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_tokenizer_without_a_mask_cannot_fill(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "bert")
    (folder / "state.json").unlink()
    words = [word if word != "[MASK]" else "anchor" for word in WORDS]
    import_model(folder, tmp_path / "out", vocabulary_file(tmp_path / "words", words))
    with pytest.raises(UserError, match="the tokenizer has no token for mask"):
        Filler(load_model(tmp_path / "out"))


def test_the_state_of_an_import_is_plain(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "roberta")
    (folder / "state.json").unlink()
    import_model(folder, tmp_path / "out")
    state = json.loads((tmp_path / "out" / "state.json").read_text(encoding="utf-8"))
    assert state["names"] == {"family": "roberta", "shift": 0}
    assert state["objective"]["name"] == "mlm" and state["objective"]["position_offset"] == 1  # [PAD] is token 0


def test_another_glm_vocabulary_must_bring_its_marks(tmp_path: Path) -> None:
    config = replace(config_of("glm", OBJECTIVES["glm"]), vocab_size=20)
    theirs = CheckpointFormat(weight_names()["glm"], config).table.to_theirs(build(config).state_dict())
    torch.save({"module": theirs}, tmp_path / "mp_rank_00_model_states.pt")
    (tmp_path / "vocab.json").write_text(json.dumps({"[PAD]": 0, "[CLS]": 1, "[MASK]": 2, "Ġ": 3}), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"no token for sop, eop, gmask, smask; give a tokenizer\.json"):
        import_model(tmp_path, tmp_path / "out", heads=2)


def test_a_disk_without_room_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    folder = write_model(tmp_path / "model", "bert")
    (folder / "state.json").unlink()
    monkeypatch.setattr(importing.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 7})())
    with pytest.raises(UserError, match="of disk, and 7 B is free"):
        import_model(folder, tmp_path / "out")
    monkeypatch.undo()
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be written"):
        import_model(folder, tmp_path / "file" / "out")


def test_a_tokenizer_that_reads_otherwise_is_told(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = write_model(tmp_path / "model", "bert")
    export_model(folder, tmp_path / "out")
    spec = json.loads((tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8"))
    spec["normalizer"]["lowercase"] = False
    (tmp_path / "out" / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(UserError, match="transformers' tokenizer reads 'The OLD boat' otherwise"):
        difference(load_model(folder), tmp_path / "out", ["The OLD boat"])


@pytest.mark.parametrize("family", OBJECTIVES)
def test_a_checkpoint_of_before_still_opens(tmp_path: Path, family: str) -> None:
    """Weights under our own names, and a configuration without the fields that have been added since."""
    objective = OBJECTIVES[family]
    config = config_of(family, objective)
    added = ("lm_head", "tied", "head_activation", "pair_classifier")
    values = {name: value for name, value in config_values(config).items() if name not in added}
    vocabulary_file(tmp_path)
    model = build(config, seed=1)
    state = {"model": values, "objective": {"name": objective.name, **asdict(objective)}}
    store.write_files(tmp_path, 3, model.state_dict(), {}, state)
    assert "token_embeddings.weight" in load_file(tmp_path / "model.safetensors")
    loaded = load_model(tmp_path)
    assert loaded.model.config == config
    assert all(torch.equal(value, loaded.model.state_dict()[name]) for name, value in model.state_dict().items())
