"""Vectors of texts: the same alone and among others, cut, refused; and what the command writes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

import blankfill.checkpoint.load
from blankfill.attention.masks import Mask
from blankfill.checkpoint.load import Loaded
from blankfill.cli.embed import EmbedArguments
from blankfill.cli.main import main
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.data.packing import padded_batches
from blankfill.embedding.embed import Embedder
from blankfill.errors import UserError
from blankfill.model.io import Inputs
from blankfill.objectives import Gpt
from generate_models import SPECIAL, loaded, random_model, wordpiece

pytestmark = pytest.mark.usefixtures("restored_threads")

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "mat", "red", "big", "play", ".", ",", "猫", "狗", "在", "跑"]


def framed(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that puts [CLS] and [SEP] around a text by itself, as published ones do."""
    from tokenizers import processors

    sep, cls = (("[SEP]", tokenizer.id("[SEP]")), ("[CLS]", tokenizer.id("[CLS]")))
    tokenizer._full.post_processor = processors.BertProcessing(sep, cls)
    return tokenizer


def some_texts(count: int, longest: int = 12) -> list[str]:
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(WORDS, rng.integers(1, longest))) for _ in range(count)]


def alone(model: Loaded, text: str, pooling: str) -> torch.Tensor:
    """The vector of one text, in one plain pass: no batch, no padding."""
    tokenizer, objective = model.tokenizer, model.objective
    ids = tokenizer.encode(text)
    if objective.name == "t5":
        ids = [*ids, model.vocabulary["eos"]]
    elif objective.name == "gpt":
        ids = [model.vocabulary["eos"], *ids]
    elif objective.name == "glm":
        ids = [model.vocabulary["cls"], *ids, model.vocabulary["eos"]]
    else:
        ids = [model.vocabulary["cls"], *ids, model.vocabulary["sep"]]
    positions = torch.zeros(len(model.model.config.position_sizes), 1, len(ids), dtype=torch.int64)
    positions[0] = torch.arange(len(ids)) + (2 if objective.name in ("mlm", "bart") else 0)
    with torch.no_grad():
        if model.model.encoder is not None:
            hidden = model.model.encoder(model.model.token_embeddings(torch.tensor([ids])), positions, Mask("none"))[0]
        else:
            mask = Mask("causal" if objective.name == "gpt" else "none")
            hidden = model.model(Inputs(torch.tensor([ids]), positions, mask)).hidden[0]
    return hidden[0] if pooling == "cls" else hidden.mean(0)


@pytest.mark.parametrize("name", ["bert", "mlm", "glm", "gpt", "bart"])
@pytest.mark.parametrize("kind", [framed, lambda tokenizer: tokenizer], ids=["framed", "bare"])
def test_a_text_among_others_has_the_vector_it_has_alone(name: str, kind) -> None:
    model = loaded(name, random_model(name, sharp=3.0), kind(wordpiece()))
    texts = some_texts(40)
    vectors = Embedder(model, normalize=False).vectors(texts)
    assert vectors.cut == 0
    expected = torch.stack([alone(model, text, "mean") for text in texts])
    torch.testing.assert_close(torch.from_numpy(vectors.array), expected, atol=1e-5, rtol=1e-4)


def test_a_t5s_encoder_reads_a_text_and_its_end() -> None:
    model = loaded("t5", random_model("t5", sharp=3.0))
    texts = some_texts(9)
    vectors = torch.from_numpy(Embedder(model, normalize=False).vectors(texts).array)
    expected = torch.stack([alone(model, text, "mean") for text in texts])
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match=r"a t5 model has no \[CLS\] that would stand for a text; use pooling=mean"):
        Embedder(model, "cls")


def test_the_first_column_and_the_length() -> None:
    model = loaded("bert", random_model("bert", sharp=3.0))
    texts = some_texts(9)
    first = Embedder(model, "cls", normalize=False).vectors(texts).array
    torch.testing.assert_close(torch.from_numpy(first[4]), alone(model, texts[4], "cls"), atol=1e-5, rtol=1e-4)
    normal = Embedder(model, "cls").vectors(texts).array
    assert np.allclose(np.linalg.norm(normal, axis=1), 1)
    assert np.allclose(normal * np.linalg.norm(first, axis=1, keepdims=True), first, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "mlm", "gpt"])
def test_long_texts_are_cut_and_counted(name: str) -> None:
    """48 positions: [CLS], 46 words and [SEP]; a gpt model reads the end of the text before, and 47 words."""
    model = loaded(name, random_model(name))
    words = ("cat dog " * 40).split()
    room = 47 if name == "gpt" else 46
    embedder = Embedder(model)
    vectors = embedder.vectors([" ".join(words), " ".join(words[:room]), "cat"])
    assert embedder.longest == 48 and vectors.cut == 1
    assert np.allclose(vectors.array[0], vectors.array[1], atol=1e-6)


def test_batches_hold_every_text_once_and_little_padding() -> None:
    rng = np.random.default_rng(0)
    lengths = np.minimum(3 + rng.geometric(0.05, 3000), 512)
    batches = list(padded_batches(lengths))
    assert sorted(np.concatenate(batches).tolist()) == list(range(3000))
    columns = [int(lengths[batch].max()) * len(batch) for batch in batches]
    assert max(columns) <= 4096
    assert sum(columns) < 1.02 * lengths.sum()
    assert [len(batch) for batch in padded_batches(np.array([9000, 5, 5]))] == [2, 1]


def test_what_cannot_be_embedded_is_refused() -> None:
    gpt = loaded("gpt", random_model("gpt"))
    with pytest.raises(UserError, match="pooling=mean"):
        Embedder(gpt, "cls")
    stream = dataclasses.replace(gpt, objective=Gpt(48, documents="stream"))
    with pytest.raises(UserError, match="text 12 is empty"):
        Embedder(stream).vectors(["cat", ""], first=11)
    bare = wordpiece([token for token in SPECIAL if token not in ("[CLS]", "[SEP]")])
    with pytest.raises(UserError, match="no token for cls, sep"):
        Embedder(loaded("bert", random_model("bert"), bare))
    assert Embedder(loaded("bert", random_model("bert"))).vectors(["", "cat"]).array.shape == (2, 32)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    ready = loaded("bert", random_model("bert"))
    monkeypatch.setattr(blankfill.checkpoint.load, "load_model", lambda path, device, dtype: ready)
    return ready


def test_the_command_writes_rows_in_the_order_of_the_lines(
    model: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("blankfill.embedding.embed.WINDOW", 7)
    texts = [*some_texts(20), "", "cat " * 60]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    command = ["embed", str(tmp_path / "texts.txt"), "--model", "RUN"]
    assert main([*command, "--out", str(tmp_path / "v.npy")]) == 0
    assert "22 vectors of 32 numbers" in (printed := capsys.readouterr().err) and "1 were longer" in printed
    expected = Embedder(model).vectors(texts).array
    vectors = np.load(tmp_path / "v.npy")
    assert vectors.dtype == np.float32 and np.allclose(vectors, expected, atol=1e-6)
    assert main([*command, "--out", str(tmp_path / "v.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["text"] for line in lines] == texts
    assert np.array_equal(np.array([line["vector"] for line in lines], np.float32), vectors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.txt", "v.jsonl", "v.npy"]
    capsys.readouterr()
    stdin = io.TextIOWrapper(io.BytesIO("the cat\n狗\n".encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert main(["embed", "-", "--model", "RUN", "--no-normalize"]) == 0
    said = capsys.readouterr()
    assert "not as a table" not in said.err
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["text"] for line in lines] == ["the cat", "狗"]
    assert abs(np.linalg.norm(lines[0]["vector"]) - 1) > 1e-3


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes there")
def test_a_pipe_is_read_once(model: Loaded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a shell's <(…) gives it: counting its lines first would leave none to embed."""
    os.mkfifo(tmp_path / "pipe")
    feeder = threading.Thread(target=(tmp_path / "pipe").write_text, args=("the cat\na dog\n",))
    feeder.start()
    assert main(["embed", str(tmp_path / "pipe"), "--model", "RUN", "--out", str(tmp_path / "v.npy")]) == 0
    feeder.join()
    assert np.array_equal(np.load(tmp_path / "v.npy"), Embedder(model).vectors(["the cat", "a dog"]).array)
    assert "2 vectors" in capsys.readouterr().err


@pytest.mark.parametrize("by", ["its name", "another path", "a link"])
def test_the_text_is_not_written_over(
    model: Loaded, tmp_path: Path, capsys: pytest.CaptureFixture[str], by: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "v.npy").write_text("the cat\n", encoding="utf-8")
    (tmp_path / "link.npy").symlink_to(tmp_path / "v.npy")
    out = {"its name": "v.npy", "another path": "folder/../v.npy", "a link": "link.npy"}[by]
    assert main(["embed", str(tmp_path / "v.npy"), "--model", "RUN", "--out", str(tmp_path / out)]) == 2
    assert "is the file that is read, which would be lost; give another name" in capsys.readouterr().err
    assert (tmp_path / "v.npy").read_text(encoding="utf-8") == "the cat\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.txt"], "none.txt: the file cannot be read"),
        (["bad.txt"], "bad.txt, line 2: byte 3 is not UTF-8"),
        (["good.txt", "--out", "v.xlsx"], "a .npy, .jsonl, .parquet, .csv or .tsv file"),
        (["good.txt", "--out", "nowhere/v.npy"], "v.npy cannot be written"),
    ],
)
def test_mistakes_get_a_sentence_and_leave_nothing(
    model: Loaded, arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("good.txt").write_text("the cat\n", encoding="utf-8")
    Path("bad.txt").write_bytes(b"the cat\nab\xff\n")
    if len(arguments) == 1:
        arguments = [*arguments, "--out", "v.npy"]
    assert main(["embed", "--model", "RUN", *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.txt", "good.txt"]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_the_rows_of_a_table_keep_their_columns(
    model: Loaded, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    (tmp_path / "t.csv").write_text('id,body,vector\n7,"the cat,\ndog",x\n8,,y\n', encoding="utf-8")
    expected = Embedder(model).vectors(["the cat,\ndog", ""]).array
    out = tmp_path / f"v.{form}"
    command = ["embed", str(tmp_path / "t.csv"), "--model", "RUN", "--allow-unknown"]
    assert main([*command, "--out", str(out)]) == 0
    notices = capsys.readouterr().err
    assert "t.csv: CSV, ','; text 'body'" in notices and "that of the vectors is 'vector_2'" in notices
    if form == "parquet":
        rows = pyarrow.parquet.read_table(out).to_pylist()
    elif form == "csv":
        with out.open(encoding="utf-8", newline="") as file:
            rows = [{**row, "vector_2": json.loads(row["vector_2"])} for row in csv.DictReader(file)]
    else:
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(row["id"], row["body"], row["vector"]) for row in rows] == [("7", "the cat,\ndog", "x"), ("8", "", "y")]
    assert np.allclose(np.array([row["vector_2"] for row in rows], np.float32), expected, atol=1e-6)
    assert main([*command, "--columns", "vector", "--out", str(tmp_path / "v.npy")]) == 0
    assert "both counted from 0 and without the header" in capsys.readouterr().err
    assert np.allclose(np.load(tmp_path / "v.npy"), Embedder(model).vectors(["x", "y"]).array, atol=1e-6)


def test_a_table_without_texts_is_refused(model: Loaded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text, sentence, options in (
        ("t.csv", "id,body\n1,a\n", "has no column 'text'; its columns are id, body", ["--columns", "text"]),
        ("t.csv", "id,body\n", "has no rows", ["--columns", "body"]),
        ("t.csv", "id,body\n", "no role 'label' here", ["--columns", "label=body"]),
        ("t.json", '[{"text": "a"}, 5]', "record 2 is not a JSON object", []),
        ("t.jsonl", '{"text": "a"}\n{"text": {"b": 1}}\n', "line 2 has an object in 'text'", []),
        ("t.txt", '[{"text": "a"}, {"text": 3}]', "record 2 has a number in 'text'", []),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert main(["embed", str(tmp_path / name), "--model", "RUN", *options]) == 2
        assert sentence in capsys.readouterr().err
    assert main(["embed", "-", "--model", "RUN", "--sheet", "2"]) == 2
    assert "standard input is read as lines" in capsys.readouterr().err


def test_the_columns_of_the_corpus_are_remembered(model: Loaded, tmp_path: Path) -> None:
    from blankfill.corpus.options import PrepareConfig
    from blankfill.corpus.prepare import prepare
    from blankfill.runs.folder import note_corpus, text_columns_of

    rows = "".join(f"{k},the cat sat on mat number {k},a title of some words\n" for k in range(60))
    (tmp_path / "t.csv").write_text("id,story line,title line\n" + rows, encoding="utf-8")
    config = PrepareConfig(columns=("text=story line",), vocab_size=0, validation=0.2, workers=1)
    prepare([tmp_path / "t.csv"], tmp_path / "corpus", config)
    (tmp_path / "run").mkdir()
    note_corpus(tmp_path / "run", tmp_path / "corpus")
    assert text_columns_of(tmp_path / "run") == ("story line",) and text_columns_of(tmp_path / "none") == ()
    command = ["embed", str(tmp_path / "t.csv"), "--model", str(tmp_path / "run"), "--allow-unknown"]
    assert main([*command, "--out", str(tmp_path / "v.jsonl")]) == 0
    assert len((tmp_path / "v.jsonl").read_text(encoding="utf-8").splitlines()) == 60


def test_the_list_of_options_is_frozen() -> None:
    names = [field.name for field in dataclasses.fields(EmbedArguments)]
    table = ["encoding", "delimiter", "sheet", "columns"]
    names_of_embed = [
        "file",
        "model",
        "adapter",
        "out",
        "pooling",
        "normalize",
        "allow_unknown",
        "dtype",
        "device",
        "threads",
    ]
    assert names == [*table, *names_of_embed]


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_vectors_equal_those_of_transformers(kind: str, tmp_path: Path) -> None:
    """A tiny random encoder saved by transformers: the masked mean over a padded batch, as sentence-transformers."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    tokenizer = framed(wordpiece())
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=tokenizer.size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=26, initializer_range=0.3, pad_token_id=0, type_vocab_size=2 if kind == "Bert" else 1,
    )  # fmt: skip
    theirs = getattr(transformers, f"{kind}Model")(config).eval()
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    texts = [*some_texts(30), "", "cat " * 40]
    ours = Embedder(blankfill.checkpoint.load.load_model(tmp_path))
    read = transformers.AutoTokenizer.from_pretrained(tmp_path)
    inputs = read(texts, padding=True, truncation=True, max_length=ours.longest, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        hidden = theirs(**inputs).last_hidden_state
    inside = inputs["attention_mask"][:, :, None].float()
    expected = torch.nn.functional.normalize((hidden * inside).sum(1) / inside.sum(1))
    torch.testing.assert_close(torch.from_numpy(ours.vectors(texts).array), expected, atol=2e-6, rtol=1e-5)
