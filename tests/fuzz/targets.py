"""What is fuzzed: each reader of files that may come from elsewhere, with well-formed files to damage.

A target writes the bytes under its file's name, opens them as a command would, and may end in two ways: well, or with a
`UserError` of bounded length. Adding a reader means adding a target here.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import shutil
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

ROWS = [
    {"text": "The film is a joy from beginning to end.", "label": "good", "id": 1},
    {"text": "Dull, and then it rains.", "label": "bad", "id": 2, "second": None},
    {"text": "晴天，去海边。", "label": "good", "id": 3},
]
WIKI = """<mediawiki xml:lang="en"><siteinfo><namespaces><namespace key="0" /><namespace key="6">File</namespace>
</namespaces></siteinfo><page><title>Boat</title><ns>0</ns><id>1</id><revision><text xml:space="preserve">'''Boats'''
are [[vessel|vessels]]{{cite|a={{b}}}}.&lt;ref name="x"&gt;A book.&lt;/ref&gt; {| class="t"
|-
| a || b
|}
== History ==
* [http://example.org A link] &lt;nowiki&gt;[[x]]&lt;/nowiki&gt; &lt;!-- no --&gt;
[[File:A.jpg|thumb|A ''boat'' in [[Rome]]]] Then more was said of it, and that was long ago.
</text></revision></page></mediawiki>
"""
EXTRACTOR = '<doc id="1" url="u" title="Boat">\nBoat\n\nA boat is a vessel. It floats.\n</doc>\n'
TREE = [{"title": "t", "paragraphs": [{"context": "The mill was built in 1823 by Ada.", "qas": [
    {"id": "q1", "question": "When was it built?", "answers": [{"text": "1823", "answer_start": 22}]},
    {"id": "q2", "question": "Who painted it?", "answers": [], "is_impossible": True}]}]}]  # fmt: skip
SQUAD = {"version": "v2.0", "data": TREE}
CONLL = "-DOCSTART- -X- O O\n\nAda B-PER\nlives O\nin O\nRome B-LOC\n\nIt O\nrains O\n"
GLUE = "sentence\tlabel\nit 's a charming film\t1\nunflinchingly bleak\t0\n"
PATTERNS = """verbalizers: {good: [good, great], bad: bad}
patterns:
  - "{text:bare}. It was [MASK]."
  - {text: "[MASK]! {text} || {text:whole,lower}", verbalizers: {good: yes, bad: no}}
"""
FORM = b'input: "classify: {text}"\nlabels: {good: fine, bad: poor}\n'
RECIPE = "base: bert-nano\nname: mine\ntrain: {lr: 3e-4, steps: 100}\nobjective: {name: bert, length: 64}\n"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "boat", "##s", "sings", ".", ","]


@dataclass(frozen=True)
class Target:
    """One reader. file: the name under which the bytes are written; seeds: well-formed contents.

    run: reads the folder that holds the file. setup: fills the folder first, once.
    """

    name: str
    file: str
    seeds: Callable[[], list[bytes]]
    run: Callable[[Path], Any]
    setup: Callable[[Path], None] = lambda folder: None


def dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def lines(rows: Iterable[Any]) -> bytes:
    return b"".join(dumps(row) + b"\n" for row in rows)


def read_corpus(folder: Path) -> None:
    """All that `prepare` reads of the files in a folder."""
    from blankfill.corpus.sources import SourceOptions, discover, read

    options = SourceOptions()
    for source in discover([next(folder.iterdir())], options):
        for document in read(source, options):
            for _ in document.paragraphs:
                pass


def zipped(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.tsv", data)
    return stream.getvalue()


def parquet() -> list[bytes]:
    import pyarrow as pa
    from pyarrow import parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"text": row["text"], "n": row["id"]} for row in ROWS]), stream)
    return [stream.getvalue()]


def packed() -> list[bytes]:
    import zstandard

    data = WIKI.encode() * 3
    return [gzip.compress(data), bz2.compress(data), lzma.compress(data), zstandard.compress(data)]


def read_task(name: str, split: str = "train") -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        from blankfill.tasks.datasets.registry import task_named

        task_named(name).read(folder, split)

    return run


def own_columns(folder: Path) -> None:
    from blankfill.corpus.tables.options import TableOptions
    from blankfill.tasks.datasets.tabular import tabular_task

    tabular_task("classify", TableOptions(columns=("text=text", "label=label"))).read(folder, "train")


def superglue() -> list[bytes]:
    return [
        lines([{"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment", "idx": 0}]),
        lines([{"text": "Mark told Pete.", "target": {"span1_index": 0, "span1_text": "Mark", "span2_index": 2,
               "span2_text": "Pete."}, "label": True, "idx": 1}]),
        lines([{"word": "place", "sentence1": "a place", "sentence2": "my place", "start1": 2, "end1": 7, "start2": 3,
               "end2": 8, "label": False, "idx": 2}]),
        lines([{"passage": {"text": "p", "questions": [{"question": "q", "answers": [{"text": "a", "label": 1, "idx":
               0}], "idx": 0}]}, "idx": 3}]),
        lines([{"source": "ReCoRD", "passage": {"text": "Ada met Bo.", "entities": [{"start": 0, "end": 2}]},
               "qas": [{"query": "@placeholder met Bo", "answers": [{"start": 0, "end": 2, "text": "Ada"}], "idx": 0}],
               "idx": 4}]),
    ]  # fmt: skip


def read_superglue(folder: Path) -> None:
    from blankfill.errors import UserError
    from blankfill.tasks.datasets.registry import task_named

    for name in ("rte", "wsc", "wic", "multirc", "record", "copa", "cb", "boolq"):
        try:
            task_named(name).read(folder / "train.jsonl", "train")
        except UserError:
            continue


def read_patterns(folder: Path) -> None:
    from blankfill.tasks.cloze.pattern import pattern_text
    from blankfill.tasks.cloze.pattern import read_patterns as read

    text, origin = pattern_text(str(folder / "patterns.yaml"), "classify")
    read(text, origin, ("good", "bad"))


def read_form(folder: Path) -> None:
    from blankfill.tasks.datasets.registry import task_named
    from blankfill.tasks.text.text_form import form_text
    from blankfill.tasks.text.text_form import read_form as read

    text, origin = form_text(str(folder / "form.yaml"), "classify")
    read(text, origin, task_named("classify"), ("good", "bad"))


def read_recipe(folder: Path) -> None:
    from blankfill.config.recipe import load_recipe

    load_recipe(folder / "mine.yaml")


def read_tokenizer(folder: Path) -> None:
    from blankfill.corpus.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    tokenizer.vocabulary()
    tokenizer.decode(tokenizer.encode("The boats sing. 晴天"))


def tokenizer_json() -> list[bytes]:
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordPiece({word: k for k, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return [made.to_str().encode()]


def write_vocabulary(folder: Path) -> None:
    """The vocabulary that belongs to a `merges.txt`."""
    (folder / "vocab.json").write_bytes(dumps({piece: k for k, piece in enumerate(["t", "h", "e", "th", "the"])}))


@cache
def spiece() -> bytes:
    import sentencepiece

    stream = io.BytesIO()
    text = ["the boats sing in the rain", "a boat sings near the lamp", "old red boats on the sea"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=stream, vocab_size=40, model_type="unigram", minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    return stream.getvalue()


def read_indexed(folder: Path) -> None:
    from blankfill.corpus.indexed import IndexedCorpus

    corpus = IndexedCorpus(folder / "train")
    _ = corpus.fingerprint, corpus.sentence_starts, corpus.document_tokens
    int(np.asarray(corpus.tokens).astype(np.int64).sum())


def make_indexed(folder: Path) -> None:
    from blankfill.corpus.indexed import IndexedWriter

    with IndexedWriter(folder / "train", np.uint16) as writer:
        writer.add_document(np.arange(20), [5, 10, 5])
        writer.add_document(np.arange(7), [7])


def indexed(suffix: str) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            make_indexed(Path(folder))
            return [(Path(folder) / f"train{suffix}").read_bytes()]

    return seeds


@cache
def bert() -> dict[str, bytes]:
    """The files of a tiny BERT as transformers stores it."""
    import tempfile

    import torch
    from safetensors.torch import save

    from blankfill.families import weight_names
    from blankfill.families.checkpoint_format import CheckpointFormat
    from blankfill.model.config import TransformerConfig
    from blankfill.model.transformer import build

    config = TransformerConfig(
        vocab_size=len(WORDS), hidden_size=8, num_layers=1, num_heads=2, ffn_size=8, position_sizes=(12, 2),
        norm="post", embedding_norm=True, activation="gelu", head_transform=True, head_bias=True, pooler=True,
        norm_eps=1e-12, dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    form = CheckpointFormat(weight_names()["bert"], config)
    theirs = form.table.to_theirs(build(config, seed=4).state_dict())
    tensors = {name: part.contiguous().clone() for name, part in theirs.items()}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(tensors, Path(folder) / "x.bin")
        stored = (Path(folder) / "x.bin").read_bytes()
        torch.save(tensors, Path(folder) / "x.bin", _use_new_zipfile_serialization=False)
        old = (Path(folder) / "x.bin").read_bytes()
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "model.safetensors")}
    return {
        "config.json": dumps(form.family.write(config)), "vocab.txt": "\n".join(WORDS).encode(),
        "model.safetensors": save(tensors), "pytorch_model.bin": stored, "old": old,
        "model.safetensors.index.json": dumps(index), "tokenizer_config.json": dumps({"do_lower_case": True}),
    }  # fmt: skip


def write_bert(*names: str) -> Callable[[Path], None]:
    def setup(folder: Path) -> None:
        for name in names:
            (folder / name).write_bytes(bert()[name])

    return setup


def read_model(folder: Path) -> None:
    from blankfill.checkpoint.load import load_model

    load_model(folder)


def read_bin(folder: Path) -> None:
    from blankfill.checkpoint.weights import open_weights

    weights = open_weights(folder / "pytorch_model.bin", inert=True)
    for name in weights:
        _ = weights[name]


@cache
def run_folder() -> Path:
    """A pretraining run of two steps, made once for all targets that read one."""
    import atexit
    import tempfile

    from blankfill.config.recipe import load_recipe
    from blankfill.pretraining.run import pretrain
    from small_run import SMALL, sentences

    folder = Path(tempfile.mkdtemp(prefix="blankfill-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "text.txt").write_text(sentences(200, 0), encoding="utf-8")
    changes = {**SMALL, "train.steps": 2, "train.log_every": 1, "train.eval_every": 1, "train.threads": 1,
               "train.precision": "fp32"}  # fmt: skip
    pretrain([folder / "text.txt"], load_recipe("bert-nano", changes), folder / "run")
    return folder / "run"


def run_file(name: str) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        result = sorted(run_folder().glob(name))
        assert result, f"a run has no {name}"
        return [result[-1].read_bytes()]

    return seeds


def copy_run(folder: Path) -> None:
    shutil.copytree(run_folder(), folder, dirs_exist_ok=True)


def copy_checkpoint(folder: Path) -> None:
    shutil.copytree(sorted((run_folder() / "checkpoints").glob("step-*"))[-1], folder, dirs_exist_ok=True)


def read_checkpoint(folder: Path) -> None:
    from blankfill.checkpoint import store

    store.read(folder)


def read_report(folder: Path) -> None:
    from blankfill.report.page import write_page

    write_page(folder, folder / "page.html")


def read_corpus_report(folder: Path) -> None:
    from blankfill.corpus.summary import CorpusReport

    CorpusReport.read(folder)


def read_config(folder: Path) -> None:
    from blankfill.finetuning.config import read_config as read

    read(folder)


def config() -> list[bytes]:
    from blankfill.finetuning.config import FinetuneConfig
    from blankfill.tasks.options import FinetuneOptions

    return [dumps(FinetuneConfig("sst2", Path("data"), Path("model"), FinetuneOptions()).values())]


def read_rows(folder: Path) -> None:
    """The rows that `predict` is given, for each kind of task."""
    from blankfill.cli.lines import lines_of
    from blankfill.errors import UserError
    from blankfill.finetuning.rows import items_of
    from blankfill.tasks.datasets.registry import task_named

    for name in ("classify", "tag", "qa", "choice", "seq2seq", "wsc", "record", "sst2"):
        try:
            for _ in items_of(task_named(name), lines_of(folder / "rows.jsonl")):
                pass
        except UserError:
            continue


def read_predictions(folder: Path) -> None:
    from blankfill.finetuning.score import read_predictions as read

    read(folder / "predictions.jsonl")


def read_blanks(folder: Path) -> None:
    from blankfill.generation.blanks import find_blanks, parse_lengths

    text = (folder / "text").read_bytes().decode("utf-8", "replace")
    find_blanks(text)
    parse_lengths(text[:5000])


JSONL = b"\n".join(dumps(row) for row in ROWS) + b"\n"
CSV = "text,label,id\n" + "\n".join(f'"{row["text"]}",{row["label"]},{row["id"]}' for row in ROWS) + "\n"
QUESTIONS = [{"question": "When?", "context": "In 1823.", "answer": "1823"},
             {"context": "c", "choices": ["a", "b"], "label": 0}, {"words": ["Ada", "lives"]}]  # fmt: skip

TARGETS = [
    Target("text", "a.txt", lambda: [b"Some words.\n\nMore of them.\n", "晴天。".encode("gb18030")], read_corpus),
    Target("jsonl", "a.jsonl", lambda: [JSONL], read_corpus),
    Target("json", "a.json", lambda: [dumps(ROWS), dumps({"data": ROWS})], read_corpus),
    Target("csv", "a.csv", lambda: [CSV.encode(), CSV.replace(",", ";").encode("utf-16")], read_corpus),
    Target("tsv", "a.tsv", lambda: [CSV.replace(",", "\t").encode()], read_corpus),
    Target("parquet", "a.parquet", parquet, read_corpus),
    Target("mediawiki", "a.xml", lambda: [WIKI.encode()], read_corpus),
    Target("extractor", "wiki_00", lambda: [EXTRACTOR.encode() * 3], read_corpus),
    Target("compressed", "a.xml.gz", packed, read_corpus),
    Target("glue", "train.tsv", lambda: [GLUE.encode(), zipped(GLUE.encode())], read_task("sst2")),
    Target("superglue", "train.jsonl", superglue, read_superglue),
    Target("squad", "train-v2.0.json", lambda: [dumps(SQUAD)], read_task("squad2")),
    Target("conll", "train.txt", lambda: [CONLL.encode()], read_task("conll")),
    Target("own-csv", "train.csv", lambda: [CSV.encode()], own_columns),
    Target("own-jsonl", "train.jsonl", lambda: [JSONL], own_columns),
    Target("own-qa", "train.jsonl", lambda: [lines(QUESTIONS)], read_task("qa")),
    Target("own-tags", "train.jsonl", lambda: [lines([{"words": ["Ada"], "tags": ["B-PER"]}] * 2)], read_task("tag")),
    Target("patterns", "patterns.yaml", lambda: [PATTERNS.encode()], read_patterns),
    Target("text-form", "form.yaml", lambda: [FORM], read_form),
    Target("recipe", "mine.yaml", lambda: [RECIPE.encode()], read_recipe),
    Target("tokenizer-json", "tokenizer.json", tokenizer_json, read_tokenizer),
    Target("vocab", "vocab.txt", lambda: ["\n".join(WORDS).encode()], read_tokenizer),
    Target("merges", "merges.txt", lambda: [b"#version: 0.2\nt h\nth e\n"], read_tokenizer,
           write_vocabulary),
    Target("spiece", "spiece.model", lambda: [spiece()], read_tokenizer),
    Target("index", "train.idx", indexed(".idx"), read_indexed, make_indexed),
    Target("tokens", "train.bin", indexed(".bin"), read_indexed, make_indexed),
    Target("hf-config", "config.json", lambda: [bert()["config.json"]], read_model,
           write_bert("vocab.txt", "model.safetensors", "tokenizer_config.json")),
    Target("hf-tokenizer-config", "tokenizer_config.json", lambda: [bert()["tokenizer_config.json"]], read_model,
           write_bert("vocab.txt", "model.safetensors", "config.json")),
    Target("hf-safetensors", "model.safetensors", lambda: [bert()["model.safetensors"]], read_model,
           write_bert("vocab.txt", "config.json")),
    Target("hf-index", "model.safetensors.index.json", lambda: [bert()["model.safetensors.index.json"]], read_model,
           write_bert("vocab.txt", "config.json")),
    Target("hf-bin", "pytorch_model.bin", lambda: [bert()["pytorch_model.bin"], bert()["old"]], read_bin),
    Target("state", "state.json", run_file("checkpoints/step-2/state.json"), read_checkpoint, copy_checkpoint),
    Target("latest", "latest", lambda: [b"step-2\n"], read_model, copy_run),
    Target("run-recipe", "recipe.yaml", run_file("recipe.yaml"), read_report, copy_run),
    Target("metrics", "metrics.jsonl", run_file("metrics.jsonl"), read_report, copy_run),
    Target("samples", "samples.jsonl", run_file("samples.jsonl"), read_report, copy_run),
    Target("facts", "run.json", run_file("run.json"), read_report, copy_run),
    Target("corpus-report", "corpus.json", run_file("corpus/corpus.json"), read_corpus_report),
    Target("config", "finetune.json", config, read_config),
    Target("rows", "rows.jsonl", lambda: [lines([*ROWS, *QUESTIONS])], read_rows),
    Target("predictions", "predictions.jsonl", lambda: [lines([{"id": "1", "label": "good"}])], read_predictions),
    Target("blanks", "text", lambda: [b"The [MASK] of [MASK:3] and [gMASK].", b"1-3"], read_blanks),
]  # fmt: skip
