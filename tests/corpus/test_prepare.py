"""`prepare` from end to end: what goes in comes out, the split, duplicates, restarts, and every refusal."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blankfill.corpus import inputs, prepare, shards, stages
from blankfill.corpus.indexed import IndexedCorpus
from blankfill.corpus.options import PrepareConfig
from blankfill.corpus.sentences import split_sentences
from blankfill.corpus.shards import DocumentTable, Shard, ShardWriter
from blankfill.corpus.summary import CorpusReport
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
WORDS = re.findall(
    r"\w+",
    "amber basin candle drift ember fallow garden harbour island juniper kettle lantern meadow nettle orchard pebble "
    "quarry ripple saddle timber umber valley willow yonder zephyr anchor bramble copper dapple easel",
)
CONFIG = PrepareConfig(workers=1, validation=0.2)


def sentence(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(5, 12))).capitalize() + "."


def paragraph(rng: np.random.Generator) -> str:
    return " ".join(sentence(rng) for _ in range(rng.integers(1, 5)))


def text(seed: int, paragraphs: int = 4) -> str:
    rng = np.random.default_rng(seed)
    return "\n\n".join(paragraph(rng) for _ in range(paragraphs)) + "\n"


def write(root: Path, texts: dict[str, str] | list[str]) -> Path:
    root.mkdir(exist_ok=True)
    named = texts if isinstance(texts, dict) else {f"{n:03}.txt": text for n, text in enumerate(texts)}
    for name, text in named.items():
        (root / name).write_text(text, encoding="utf-8", newline="\n")
    return root


def run(source: Path, out: Path, config: PrepareConfig = CONFIG, **more) -> CorpusReport:
    return prepare.prepare([str(source)], out, config, **more)


def documents(out: Path, side: str) -> list[list[list[int]]]:
    """Every document of a side as lists of sentences of ids; none when there are no files."""
    if not (out / f"{side}.idx").exists():
        return []
    corpus = IndexedCorpus(out / side)
    sentences = np.split(corpus.tokens, corpus.sentence_starts[1:-1])
    return [
        [sentence.tolist() for sentence in sentences[begin:end]]
        for begin, end in zip(corpus.document_starts[:-1], corpus.document_starts[1:], strict=True)
    ]


def decoded(out: Path, side: str) -> list[str]:
    tokenizer = Tokenizer.load(out)
    return [" ".join(tokenizer.decode(sentence) for sentence in document) for document in documents(out, side)]


def files(out: Path) -> dict[str, bytes]:
    """All files of a corpus but what differs from run to run in the report."""
    result = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    report = json.loads(result.pop("corpus.json"))
    for name in ("seconds", "continued"):
        report.pop(name)
    return {**result, "report": json.dumps(report).encode()}


def expected(text: str) -> str:
    return " ".join(s for p in text.strip().split("\n\n") for s in split_sentences(p)).lower()


@pytest.fixture
def small_tasks(monkeypatch):
    """Many small tasks, ranges and shards instead of one of each."""
    monkeypatch.setattr(inputs, "TASK_BYTES", (3000, 3000))
    monkeypatch.setattr(inputs, "RANGE_BYTES", 4000)
    monkeypatch.setattr(stages, "SHARD_BYTES", 1500)
    monkeypatch.setattr(shards, "BLOCK_BYTES", 500)


def test_all_text_arrives_once_and_in_order(tmp_path):
    texts = [text(seed) for seed in range(40)]
    report = run(write(tmp_path / "in", texts), tmp_path / "out")
    train, valid = decoded(tmp_path / "out", "train"), decoded(tmp_path / "out", "valid")
    assert sorted(train + valid) == sorted(map(expected, texts))
    order = [expected(text) for text in texts]
    assert [order.index(document) for document in train] == sorted(order.index(document) for document in train)
    assert 2 <= len(valid) <= 15
    assert (report.documents, report.train.documents, report.valid.documents) == (40, len(train), len(valid))
    assert report.train.tokens == sum(len(s) for d in documents(tmp_path / "out", "train") for s in d)
    assert report.train.sentences == sum(len(d) for d in documents(tmp_path / "out", "train"))
    counts = np.load(tmp_path / "out" / "unigram.npy")
    ids = IndexedCorpus(tmp_path / "out" / "train").tokens
    assert counts.dtype == np.int64 and counts.tolist() == np.bincount(ids, minlength=report.vocabulary).tolist()
    assert report.unknown == 0 and len(report.samples) == 3
    assert all(any(document.startswith(sample[:150]) for document in train) for sample in report.samples)
    assert CorpusReport.read(tmp_path / "out") == report
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "corpus.json", "tokenizer.json", "tokenizer_config.json", "train.bin", "train.idx", "unigram.npy",
        "valid.bin", "valid.idx",
    ]  # fmt: skip


def test_one_document_in_any_number_of_pieces(tmp_path, monkeypatch):
    source = write(tmp_path / "in", [text(1, 80), text(2, 3), text(3, 50)])
    config = replace(CONFIG, validation=0)
    run(source, tmp_path / "whole", config)
    monkeypatch.setattr(inputs, "TASK_BYTES", (3000, 3000))
    monkeypatch.setattr(inputs, "RANGE_BYTES", 4000)
    monkeypatch.setattr(stages, "SHARD_BYTES", 1500)
    report = run(source, tmp_path / "cut", config)
    assert (tmp_path / "whole" / "train.bin").read_bytes() == (tmp_path / "cut" / "train.bin").read_bytes()
    assert (tmp_path / "whole" / "train.idx").read_bytes() == (tmp_path / "cut" / "train.idx").read_bytes()
    assert report.train.documents == 3 and report.documents == 3
    assert not (tmp_path / "cut" / "valid.bin").exists()


@pytest.mark.parametrize("dedup", ["lines", "near"])
def test_nothing_depends_on_the_number_of_workers(tmp_path, monkeypatch, dedup):
    if dedup == "near":
        pytest.importorskip("rensa", reason="rensa is not installed")
    texts = [text(seed % 25, 6) + "This very line stands in each of them.\n" for seed in range(30)]
    source = write(tmp_path / "in", texts)
    monkeypatch.setattr(inputs, "TASK_BYTES", (3000, 3000))
    config = replace(CONFIG, dedup=dedup)
    run(source, tmp_path / "one", config)
    run(source, tmp_path / "two", replace(config, workers=2))
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_sentences_of_a_byte_level_tokenizer_do_not_run_into_each_other(tmp_path):
    texts = [text(1, 30), "今天下雨了。我们不出门。\n\n明天再说吧。\n"]
    run(write(tmp_path / "in", texts), tmp_path / "out", replace(CONFIG, tokenizer="bpe", validation=0))
    tokenizer = Tokenizer.load(tmp_path / "out")
    whole = ["".join(tokenizer.decode(s) for s in d) for d in documents(tmp_path / "out", "train")]
    assert whole == [texts[0].strip().replace("\n\n", "\n"), "今天下雨了。我们不出门。\n明天再说吧。"]


def test_a_tokenizer_that_is_there_is_used(tmp_path, capsys):
    source = write(tmp_path / "in", [text(seed) for seed in range(10)])
    run(source, tmp_path / "first")
    other = write(tmp_path / "other", ["Übermut und Zweifel 中文。\n" * 3, text(50)])
    config = replace(CONFIG, tokenizer=str(tmp_path / "first"), validation=0, allow_unknown=True)
    report = run(other, tmp_path / "second", config)
    assert (tmp_path / "first" / "tokenizer.json").read_bytes() == (tmp_path / "second" / "tokenizer.json").read_bytes()
    assert report.unknown_share > 0.05 and "tokens of this text are unknown to the tokenizer" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"most often 中 \(Han\), .*; allow_unknown=True continues"):
        run(other, tmp_path / "third", replace(config, allow_unknown=False))
    assert not (tmp_path / "third" / "corpus.json").exists()
    more = write(tmp_path / "more", ["Übermut und Zweifel 中文。\n" * 3, *(text(seed) for seed in range(50, 54))])
    few = run(more, tmp_path / "fourth", replace(config, allow_unknown=False))
    assert 0.02 > few.unknown_share > 0 or any("unknown" in notice for notice in few.notices)


def test_paragraphs_as_documents(tmp_path):
    report = run(write(tmp_path / "in", [text(1, 30)]), tmp_path / "out", replace(CONFIG, documents="paragraphs"))
    assert report.documents == 30 == report.train.documents + report.valid.documents


def test_documents_stay_on_their_side_when_files_are_added(tmp_path):
    texts = {f"m{n:02}.txt": text(n) for n in range(30)}
    run(write(tmp_path / "in", texts), tmp_path / "before")
    more = {f"a{n:02}.txt": text(100 + n) for n in range(30)} | {f"z{n:02}.txt": text(200 + n) for n in range(30)}
    run(write(tmp_path / "in", more), tmp_path / "after")
    for side, other in (("train", "valid"), ("valid", "train")):
        before, after = set(decoded(tmp_path / "before", side)), set(decoded(tmp_path / "after", side))
        assert before and before <= after
        assert not before & set(decoded(tmp_path / "after", other))


def sections(text: str, validation: float = 0.3) -> list[tuple[int, str]]:
    cut = stages._Sections(validation)
    results = [s for p in text.strip().split("\n\n") for s in cut.add(split_sentences(p))]
    return [(side, " ".join(section)) for side, section in [*results, *cut.finish()]]


def test_sections_of_a_book(tmp_path):
    book = text(7, 4000)
    cut = sections(book)
    assert " ".join(section for _, section in cut) == " ".join(
        s for p in book.split("\n\n") for s in split_sentences(p)
    )
    sizes = [len(section) for _, section in cut]
    assert 5_000 < np.mean(sizes) < 11_500 and max(sizes) < 20_000 and min(sizes) > 2_000
    # A new preface moves no cut but the first ones, so the rest of the book stays where it was.
    again = sections(text(8, 30) + "\n" + book)
    assert len(set(cut) & set(again)) >= len(cut) - 2
    share = np.mean([side == stages.VALID for seed in range(3) for side, _ in sections(text(seed, 3000))])
    assert 0.1 < share < 0.5


def test_a_book_becomes_the_documents_between_its_validation_sections(tmp_path):
    book = text(7, 4000)
    cut = sections(book)
    report = run(write(tmp_path / "in", [book]), tmp_path / "out", replace(CONFIG, validation=0.3))
    runs: list[tuple[int, str]] = []
    for side, section in cut:
        runs = (
            [*runs[:-1], (side, f"{runs[-1][1]} {section}")]
            if runs and runs[-1][0] == side
            else [*runs, (side, section)]
        )
    for side, name in stages.SIDES.items():
        assert decoded(tmp_path / "out", name) == [section.lower() for s, section in runs if s == side]
    assert report.documents == 1 and report.train.documents > 1 < report.valid.documents


def test_nothing_for_validation_is_said_and_is_no_error(tmp_path):
    report = run(write(tmp_path / "in", [text(1)]), tmp_path / "out", replace(CONFIG, validation=0.001))
    assert not (tmp_path / "out" / "valid.bin").exists()
    assert any("larger validation" in notice for notice in report.notices)


def test_everything_for_validation_becomes_training(tmp_path):
    report = run(write(tmp_path / "in", [text(1)]), tmp_path / "out", replace(CONFIG, validation=0.999999))
    assert report.train.documents == 1 and report.valid.documents == 0
    assert decoded(tmp_path / "out", "train") == [expected(text(1))]
    assert any("goes to training" in notice for notice in report.notices)


def test_rows_of_a_table_without_a_text_are_counted(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"{row},{sentence(np.random.default_rng(row))}\n" for row in range(20)]
    path.write_text("".join(["id,text\n", *rows, "20,\n", "21,  \n"]))
    report = run(path, tmp_path / "out", replace(CONFIG, validation=0))
    assert report.documents == 22 and report.dropped["empty or too short"] == 2
    assert [line.documents for line in report.inventory] == [20]
    path.write_text("id,text\n1,\n2,\n")
    with pytest.raises(UserError, match="None of the 2 documents has any text left"):
        run(path, tmp_path / "none")


def test_exact_duplicates(tmp_path):
    texts = {
        "a.txt": text(1),
        "b.txt": text(2),
        "c.txt": text(1).replace(" ", "  "),
        "d.txt": text(2),
        "e.txt": "\n \n",
    }
    report = run(write(tmp_path / "in", texts), tmp_path / "out", replace(CONFIG, validation=0))
    assert decoded(tmp_path / "out", "train") == [expected(text(1)), expected(text(2))]
    assert report.dropped["exact duplicates"] == 2 and report.dropped["empty or too short"] == 1
    names = [(Path(later).name, Path(earlier).name) for later, earlier in report.duplicates]
    assert names == [("c.txt", "a.txt"), ("d.txt", "b.txt")]
    everything = run(tmp_path / "in", tmp_path / "all", replace(CONFIG, validation=0, dedup="none"))
    assert everything.train.documents == 4


def test_duplicates_are_found_however_they_are_cut(tmp_path, small_tasks):
    texts = [text(1, 40), text(2, 3), text(1, 40), text(3, 20), text(3, 20)]
    report = run(write(tmp_path / "in", texts), tmp_path / "out", replace(CONFIG, validation=0))
    assert report.dropped["exact duplicates"] == 2
    assert decoded(tmp_path / "out", "train") == [expected(text(seed, n)) for seed, n in ((1, 40), (2, 3), (3, 20))]


LICENCE, MENU, SHORT = "Licensed to everyone under these terms.", "Home and about and contact us.", "The end."


def with_lines(seed: int, *lines: str) -> str:
    return text(seed, 2) + "".join(f"\n{line}\n" for line in lines) + "\n" + text(seed + 1000, 2)


def test_lines_are_counted_and_left_by_default(tmp_path, small_tasks):
    texts = [with_lines(1, LICENCE, SHORT), with_lines(2, MENU, LICENCE, LICENCE), with_lines(3, LICENCE, MENU, SHORT),
             with_lines(1, LICENCE, SHORT)]  # fmt: skip
    report = run(write(tmp_path / "in", texts), tmp_path / "out")
    assert report.repeated_lines == ((3, LICENCE), (2, MENU))
    assert report.repeated_line_count == 2 and report.dropped_lines == 0
    assert report.train.documents + report.valid.documents == 3


def test_lines_are_dropped_but_for_the_first(tmp_path, small_tasks):
    texts = [with_lines(1, LICENCE, SHORT), with_lines(2, MENU, LICENCE, LICENCE), with_lines(3, LICENCE, MENU, SHORT),
             f"{MENU}\n\n{LICENCE}\n"]  # fmt: skip
    report = run(write(tmp_path / "in", texts), tmp_path / "out", replace(CONFIG, dedup="lines", validation=0))
    left = [with_lines(1, LICENCE, SHORT), with_lines(2, MENU), with_lines(3, SHORT)]
    assert decoded(tmp_path / "out", "train") == [expected(text) for text in left]
    assert report.repeated_lines == ((4, LICENCE), (3, MENU))
    assert report.dropped_lines == 6 and report.dropped["left empty by dropping lines"] == 1


def test_near_duplicates(tmp_path, small_tasks):
    pytest.importorskip("rensa", reason="rensa is not installed")
    first, other = text(1, 40), text(2, 10)
    texts = [
        first,
        other,
        first.replace(first.split()[3], "novelty", 1),
        text(3, 10),
        other + "\nOne more line.\n",
        other[:300],
    ]
    report = run(write(tmp_path / "in", texts), tmp_path / "out", replace(CONFIG, dedup="near", validation=0))
    assert report.dropped["near duplicates"] == 2
    names = [(Path(later).name, Path(earlier).name) for later, earlier in report.duplicates]
    assert names == [("002.txt", "000.txt"), ("004.txt", "001.txt")]
    assert report.train.documents == 4


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_hash_of_a_document_does_not_depend_on_its_cuts(tmp_path_factory, data):
    """Parts in any number of shards give the table of the whole documents."""
    root = tmp_path_factory.mktemp("shards")
    content = data.draw(st.lists(st.lists(st.integers(0, 5), max_size=5), min_size=1, max_size=5), label="documents")
    same_file = data.draw(st.lists(st.booleans(), min_size=5, max_size=5))
    whole = ShardWriter(root / "whole")
    prefixes, writer = [], None
    for number, document in enumerate(content):
        whole.begin(number, "d", False)
        first = True
        if writer is None:
            writer = ShardWriter(root / f"s{len(prefixes)}")
        # A range that continues another file than the last part begins a document all the same.
        writer.begin(number, "d", number > 0 and same_file[number])
        for token in document:
            whole.add_paragraph([f"s{token}", "t"])
            cut = data.draw(st.sampled_from(["no", "part", "shard"]))
            if cut != "no":
                writer.end()
                if cut == "shard":
                    writer.finish()
                    prefixes.append(root / f"s{len(prefixes)}")
                    writer = ShardWriter(root / f"s{len(prefixes)}")
                writer.begin(number, "d", True)
            writer.add_paragraph([f"s{token}", "t"])
            first = False
        writer.end()
        whole.end()
        assert first == (not document)
    assert writer is not None
    writer.finish()
    whole.finish()
    prefixes.append(root / f"s{len(prefixes)}")
    single, many = DocumentTable([root / "whole"]), DocumentTable(prefixes)
    for name in ("high", "low", "characters", "bytes"):
        assert getattr(single, name).tolist() == getattr(many, name).tolist()
    owners = np.concatenate([many.parts(number, Shard(prefix)) for number, prefix in enumerate(prefixes)])
    paths = np.concatenate([Shard(prefix).path for prefix in prefixes])
    assert owners.tolist() == paths.tolist()
    equal = {(tuple(a) == tuple(b)) == (single.low[i] == single.low[j] and single.high[i] == single.high[j])
             for i, a in enumerate(content) for j, b in enumerate(content)}  # fmt: skip
    assert equal == {True}


def test_flags_are_a_decision():
    from dataclasses import fields

    from blankfill.cli.prepare import Options

    assert [option.name for option in fields(Options)] == [
        "encoding", "delimiter", "sheet", "columns", "documents", "strip", "tokenizer", "vocab_size", "vocab_exact",
        "lowercase", "strip_accents", "allow_unknown", "dedup", "validation", "min_chars", "workers", "paths", "out",
        "cased", "force", "verify",
    ]  # fmt: skip


def test_the_command_prints_the_report(tmp_path, capsys):
    from blankfill.cli.main import main

    source = write(tmp_path / "in", [with_lines(seed, LICENCE) for seed in range(20)] + [text(3), text(3)])
    (source / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    code = main(
        ["prepare", str(source), "--out", str(tmp_path / "out"), "--workers", "1", "--validation", "0.2", "--cased"]
    )
    printed = capsys.readouterr()
    assert code == 0
    assert [line.split() for line in printed.out.splitlines() if "exact duplicates" in line] == [
        ["exact", "duplicates", "1"]
    ]
    assert any(line.split()[0] == "20" and line.endswith(LICENCE) for line in printed.out.splitlines() if line.strip())
    assert "picture.png" in printed.out and "Sample 3:" in printed.out and "MB/s" in printed.out
    assert "1/4 reading" in printed.err
    config = CorpusReport.read(tmp_path / "out").config
    assert config["lowercase"] is False and config["validation"] == 0.2 and config["dedup"] == "exact"
    assert any(c.isupper() for c in "".join(decoded(tmp_path / "out", "train")))
    assert main(["prepare", "--out", str(tmp_path / "none")]) == 2
    assert "at least one file" in capsys.readouterr().err


def test_standard_input_and_no_torch(tmp_path):
    """In a fresh process, so that what is imported can be seen."""
    program = (
        "import sys\nfrom blankfill.cli.prepare import main\n"
        f"main(['-', '--out', {str(tmp_path / 'out')!r}, '--workers', '1'])\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    given = text(1) + "\n" + text(2)
    subprocess.run([sys.executable, "-c", program], input=given, text=True, encoding="utf-8", check=True)
    again = subprocess.run([sys.executable, "-c", program], input=given, text=True, encoding="utf-8", check=True,
                           capture_output=True)  # fmt: skip
    assert "already holds this corpus" in again.stderr
    assert CorpusReport.read(tmp_path / "out").documents == 1


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="the real data sets are not beside the project")
def test_real_books_and_chapters(tmp_path):
    report = run(DATA / "zh_chapters", tmp_path / "zh", replace(CONFIG, validation=0.05))
    assert report.documents == 56 and report.dropped["exact duplicates"] == 0
    assert report.repeated_lines[0][0] == 12 and len(report.repeated_lines[0][1]) == 14
    book = DATA / "gutenberg_en" / "The-War-of-the-Worlds_36.txt"
    report = run(book, tmp_path / "en", replace(CONFIG, validation=0.1, strip="gutenberg"))
    assert report.documents == 1 and report.valid.documents >= 1
    assert "Gutenberg" not in " ".join(report.samples) and 4 < report.characters_per_token < 5


def test_paths_of_either_type_and_no_options_give_the_same_corpus(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("One sentence here. Another one there.\n" * 50, encoding="utf-8")
    prepare.prepare([text], str(tmp_path / "a"))
    prepare.prepare([str(text)], tmp_path / "b", PrepareConfig())
    for name in ("train.bin", "train.idx", "tokenizer.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
