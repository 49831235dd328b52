"""The tokenizers of ChatGLM-6B and GLM-130B: the rules around their pieces, against the original code's outputs and
against SentencePiece itself, on the released file and on models trained here."""

from __future__ import annotations

import json
import pickle
import struct
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blankfill.corpus.balance import in_words
from blankfill.corpus.indexed import IndexedCorpus
from blankfill.corpus.options import PrepareConfig
from blankfill.corpus.prepare import prepare
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.tokenizer_bilingual import BLANKS, FIRST, KEPT, LAST, SPECIAL, restored, rewritten
from blankfill.corpus.tokenizer_charsmap import Charsmap
from blankfill.corpus.tokenizer_layout import check_layout, images_of, sentencepiece_file
from blankfill.corpus.tokenizer_sentencepiece import parse_sentencepiece
from blankfill.corpus.tokenizer_train import TokenizerConfig, train_tokenizer
from blankfill.errors import UserError

SHARED = Path(__file__).resolve().parents[3] / "shared"
MODEL, CASES = SHARED / "data" / "chatglm" / "ice_text.model", SHARED / "golden" / "chatglm" / "tokenizer_cases.json"
released = pytest.mark.skipif(not (MODEL.exists() and CASES.exists()), reason=f"no {MODEL} or no {CASES}")

TEXT = [
    "The boat left the harbour at dawn, and the 12 gulls followed it for a mile.",
    "天亮的时候，船离开了港口；海鸥跟着它飞了很远。",
    "Is the harbour open in winter? It is, unless the ice is thicker than 30 cm!",
    "冬天港口开放吗？开放，除非冰厚过３０厘米！",
    "def mile(x):\n\treturn 1.609 * x\n",
    *(
        f"The {what} of the {where} {does} the {who} in winter. {place}的{thing}在冬天{act}{whom}。"
        for what, thing in zip(("ice", "keeper", "harbour", "captain"), ("冰", "看守", "港口", "船长"), strict=True)
        for where, place in zip(("island", "lighthouse", "village"), ("岛上", "灯塔", "村子"), strict=True)
        for does, act in zip(("watches", "carries", "forgets"), ("望着", "带着", "忘记"), strict=True)
        for who, whom in zip(("boats", "birds", "children"), ("船", "鸟", "孩子"), strict=True)
    ),
] * 2
SIZE = 470


@cache
def trained() -> Tokenizer:
    pytest.importorskip("sentencepiece")
    return train_tokenizer(TEXT, TokenizerConfig("bilingual", vocab_size=SIZE))


@cache
def original(older: bool = False) -> Tokenizer:
    return Tokenizer.load(MODEL)


@cache
def cases() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(CASES.read_text("utf-8"))
    return values


def plain(tokenizer: Tokenizer, text: str, continues: bool = False) -> list[int]:
    ids: list[int] = tokenizer.encode_plain([text], [continues])[0].tolist()
    return ids


def library(tokenizer: Tokenizer) -> Any:
    spm = pytest.importorskip("sentencepiece")
    return spm.SentencePieceProcessor(model_proto=sentencepiece_file(tokenizer))


# The released file


@released
def test_ids_pieces_and_decoded_text_are_those_of_the_original_code() -> None:
    tokenizer = original()
    for case in cases()["cases"]:
        text = case["text"]
        assert rewritten(text) == case["preprocessed"]
        assert plain(tokenizer, text) == case["ids"], text
        assert [tokenizer.token(id) for id in case["ids"]] == case["pieces"]
        assert plain(tokenizer, text, continues=True) == case["ids_no_dummy_prefix"], text
        assert tokenizer.decode(case["ids"]) == case["decoded"]
    assert {name: tokenizer.id(name) for name in cases()["special_ids"]} == cases()["special_ids"]


@released
def test_rows_padding_and_dialogues_are_those_of_the_original_code() -> None:
    tokenizer = original()
    roles = tokenizer.vocabulary().roles
    end = [roles["gmask"], roles["sop"]]
    for row in cases()["rows"]:
        # transformers' wrapper does not know [gMASK] and </s>, which `encode` does.
        read = plain if "[gMASK]" in row["text"] or "</s>" in row["text"] else Tokenizer.encode
        ids = [*read(tokenizer, row["text"]), *end]
        if "text_pair" in row:
            ids += [*tokenizer.encode(row["text_pair"]), roles["eop"]]
        assert ids == row["ids"], row
    for dialogue in cases()["chat"]:
        assert plain(tokenizer, dialogue["prompt"]) + end == dialogue["input_ids"]
    padded = cases()["padded"]
    rows = [[*plain(tokenizer, text), *end] for text in padded["texts"]]
    length = max(map(len, rows))
    assert [[roles["pad"]] * (length - len(row)) + row for row in rows] == padded["input_ids"]


@released
def test_transformers_reads_the_written_files(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    original().save(tmp_path, post="blank")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for case in cases()["cases"]:
        if not any(name in case["text"] for name in SPECIAL):
            assert tokenizer(case["text"], add_special_tokens=False)["input_ids"] == case["ids"], case
        assert tokenizer.decode(case["ids"]) == case["decoded"]
    for row in cases()["rows"]:
        if "[gMASK]" not in row["text"] and "</s>" not in row["text"]:
            assert tokenizer(row["text"], row.get("text_pair"))["input_ids"] == row["ids"], row
    padded = cases()["padded"]
    assert tokenizer(padded["texts"], padding=True)["input_ids"] == padded["input_ids"]


@released
def test_the_older_layout_has_the_same_ids_behind_20000(tmp_path: Path) -> None:
    (tmp_path / "ice_text.model").write_bytes(older_file())
    tokenizer = Tokenizer.load(tmp_path / "ice_text.model")
    assert tokenizer.size == 150_344
    for case in cases()["cases"]:
        assert plain(tokenizer, case["text"]) == [20_000 + id for id in case["ids"]]
        if known := case.get("ids_150528_special_tokens_encoded"):
            assert tokenizer.encode(case["text"], inline=True) == known
        assert tokenizer.decode([7, *(20_000 + id for id in case["ids"]), 19_999]) == case["decoded"]
    roles = tokenizer.vocabulary().roles
    assert (roles["mask"], roles["gmask"], roles["sop"], roles["eop"], roles["eos"]) == (
        150_000, 150_001, 150_004, 150_005, 20_002,
    )  # fmt: skip
    (tmp_path / "slim").mkdir()
    (tmp_path / "slim" / "ice_text.model").write_bytes(MODEL.read_bytes())
    (tmp_path / "slim" / "tokenizer_config.json").write_text('{"num_image_tokens": 20000}')
    same = Tokenizer.load(tmp_path / "slim")
    assert same.files()["tokenizer.json"] == tokenizer.files()["tokenizer.json"]
    where = "m/config.json"
    check_layout(tokenizer, 150_528, {"gmask": 150_001}, where)
    check_layout(original(), 130_528, {"gmask": 130_001}, where)
    with pytest.raises(UserError, match=r"m/config\.json is of the layout of the first release .*slim layout"):
        check_layout(original(), 150_528, {}, where)
    with pytest.raises(UserError, match=r"m/config\.json is of the slim layout .*first release \(150,344 ids\)"):
        check_layout(tokenizer, 130_528, {}, where)


def older_file() -> bytes:
    """Return the file of the first release: that of the slim layout without the pieces that the code appends."""
    pieces, _, charsmap, _ = parse_sentencepiece(MODEL.read_bytes())
    return model_file([piece for piece in pieces if piece[0] not in LAST], charsmap)


def model_file(pieces: list[tuple[str, float, int]], charsmap: bytes) -> bytes:
    def field(number: int, data: bytes) -> bytes:
        size, rest = bytearray(), len(data)
        while rest >= 0x80:
            size.append(rest & 0x7F | 0x80)
            rest >>= 7
        return bytes((number << 3 | 2, *size, rest)) + data

    out = b"".join(
        field(1, field(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + bytes((3 << 3, kind)))
        for piece, score, kind in pieces
    )
    return out + field(3, field(2, charsmap))


@released
def test_the_file_is_written_as_it_was_read() -> None:
    data = sentencepiece_file(original())
    assert data is not None
    assert parse_sentencepiece(data) == parse_sentencepiece(MODEL.read_bytes())


# Models trained here


def test_ids_have_the_order_of_the_released_file() -> None:
    tokenizer = trained()
    tokens = [tokenizer.token(id) for id in range(tokenizer.size)]
    assert len(tokens) == SIZE
    assert tuple(tokens[: len(FIRST)]) == FIRST
    assert tuple(tokens[-len(LAST) :]) == LAST
    learned = tokens[len(FIRST) : -len(LAST)]
    assert not [piece for piece in learned if len(piece.strip("▁")) > 1 and any(c.isdigit() for c in piece)]
    assert {"的", "▁winter"} <= set(learned)


def test_training_gives_the_same_vocabulary_again() -> None:
    again = train_tokenizer(TEXT, TokenizerConfig("bilingual", vocab_size=SIZE))
    assert again.fingerprint == trained().fingerprint
    assert again.files() == trained().files()


def test_a_vocabulary_that_the_text_cannot_fill_or_that_is_too_small_names_the_number() -> None:
    pytest.importorskip("sentencepiece")
    with pytest.raises(UserError, match=r"supports a vocabulary of \d+ tokens, not 9000"):
        train_tokenizer(TEXT, TokenizerConfig("bilingual", vocab_size=9000))
    with pytest.raises(UserError, match="A vocabulary of 349 tokens is too small"):
        train_tokenizer(TEXT, TokenizerConfig("bilingual", vocab_size=349))
    with pytest.raises(UserError, match="A vocabulary of 360 tokens is too small"):
        train_tokenizer(TEXT, TokenizerConfig("bilingual", vocab_size=360))
    small = train_tokenizer(TEXT, TokenizerConfig("bilingual", vocab_size=360, exact=False))
    assert small.size > 360


ODD = st.lists(
    st.one_of(
        st.sampled_from([
            *KEPT[:4], BLANKS[-1], *SPECIAL, "<0x41>", "<|blank_81|>", "<n", "\n", "\t", " ", "   ", " " * 81,
            " " * 163, "\r\n", "▁", "\u0301", "\u0338", "o\u0323\u0302", "ｶﾞ", "각", "ﷺ", "１２", "，", "the", "海鸥",
            "🧬", "❤️", "\0", "\u200b", "\ud800", "<unk>", "</s>", "image 3",
        ]),
        st.text(max_size=6),
    ),
    max_size=12,
).map("".join)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(ODD)
def test_any_text_is_read_as_sentencepiece_reads_it(text: str) -> None:
    tokenizer, sp = trained(), _library()
    whole = text.replace("\ud800", "\ufffd")
    ids = plain(tokenizer, text)
    assert sp.encode(rewritten(whole)) == ids
    assert tokenizer.decode(ids) == restored(sp.decode(ids))
    places = tokenizer.encode_places(text)
    assert places[0].tolist() == ids
    assert all(0 <= first <= last <= len(text) for first, last in places[1].tolist())


@cache
def _library() -> Any:
    return library(trained())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(3, SIZE - 1), max_size=12))
def test_any_ids_are_written_as_sentencepiece_writes_them(ids: list[int]) -> None:
    tokenizer = trained()
    special = tokenizer.vocabulary().special
    ordinary = [id for id in ids if id not in special]
    assert tokenizer.decode(ids) == tokenizer.decode(ordinary) == restored(_library().decode(ordinary))


@settings(max_examples=100, deadline=None)
@given(st.text("abc 的了\n\t，。１é", max_size=40))
def test_text_returns_but_for_full_width_marks_and_outer_blanks(text: str) -> None:
    tokenizer = trained()
    assert tokenizer.decode(plain(tokenizer, text)).strip(" ") == unicodedata.normalize("NFKC", text).strip(" ")


def test_what_a_user_types_is_no_special_token_unless_it_is_asked_for() -> None:
    tokenizer = trained()
    special = tokenizer.vocabulary().special
    for name in (*SPECIAL, "<unk>", "<s>", "</s>", "<pad>"):
        text = f"the {name} of"
        assert not special & set(plain(tokenizer, text))
        assert tokenizer.decode(plain(tokenizer, text)) == text
        marked = tokenizer.encode(text)
        assert [*plain(tokenizer, "the"), tokenizer.id(name), *plain(tokenizer, "of")] == marked
        assert tokenizer.encode_batch([text, text]) == [marked, marked]
    # Full-width brackets are normalised behind the search for special tokens.
    assert not special & set(tokenizer.encode("［MASK］"))
    # Pieces for new lines and blanks do come out of text, as in the original.
    assert tokenizer.decode(plain(tokenizer, "a<n>b<|blank_3|>c")) == "a\nb   c"


def test_special_tokens_inside_a_text_leave_its_other_ids_alone() -> None:
    tokenizer = trained()
    sp = pytest.importorskip("sentencepiece")
    data = sentencepiece_file(tokenizer)
    assert data is not None
    # GLM-130B's second SentencePiece: the special tokens are user-defined.
    for name in SPECIAL:
        score = name.encode() + b"\x15\0\0\0\0\x18"
        assert score + b"\x03" in data
        data = data.replace(score + b"\x03", score + b"\x04")
    second = sp.SentencePieceProcessor(model_proto=data)
    for text in ("[MASK]", "船[MASK]港口", "the [MASK] of\n[gMASK]", " [sMASK]  <sop>３[MASK]\u0338 <eop> "):
        assert tokenizer.encode(text, inline=True) == second.encode(rewritten(text)), text


def test_sentences_that_go_on_have_no_mark_of_a_beginning() -> None:
    tokenizer = trained()
    ids, lengths = tokenizer.encode_plain(["the boat", " the ice", "孩子", "\n港口"], [False, True, True, True])
    assert tokenizer.decode(ids.tolist()) == "the boat the ice孩子\n港口"
    assert int(lengths.sum()) == len(ids)
    assert tokenizer.token(ids[lengths[0] + lengths[1]]).startswith("孩")


def test_places_of_a_long_run_of_unknown_characters_are_found_in_one_pass() -> None:
    class Counted(list[tuple[int, tuple[int, int]]]):
        read = 0

        def __getitem__(self, key: Any) -> Any:
            self.read += 1
            return super().__getitem__(key)

    text = "\u5929" * 500
    tokens = Counted([(9, (0, 1500 + len("▁".encode())))] * (1500 + len("▁".encode())))
    rules = trained()._plain_encoder._chunking.rules
    assert rules is not None
    ids, places = rules.places(text, lambda chunk: tokens)
    assert len(ids) == len(tokens) and places[-3:] == [(499, 500)] * 3
    assert tokens.read <= 2 * len(tokens)


def test_places_are_those_of_the_given_text() -> None:
    tokenizer = trained()
    text = "  the\t，各 <0x41>🧬\n" + " " * 83 + "x\u0301"
    ids, places = tokenizer.encode_places(text)
    parts = [(tokenizer.token(id), text[first:last]) for id, (first, last) in zip(ids.tolist(), places, strict=True)]
    assert ("<|blank_2|>", "  ") in parts
    assert ("<|tab|>", "\t") in parts
    assert ("<n>", "\n") in parts
    assert ("<|blank_80|>", " " * 80) in parts
    assert ("<|blank_3|>", "   ") in parts
    assert [part for token, part in parts if token.startswith("<0xF0")] == ["🧬"]
    assert [part for token, part in parts if token.strip("▁") == ","] == ["，"]


def test_it_survives_saving_and_copying(tmp_path: Path) -> None:
    tokenizer = trained()
    tokenizer.save(tmp_path / "saved")
    text = "The ice\n  of ３ [MASK] ộ 🧬"
    for copy in (Tokenizer.load(tmp_path / "saved"), pickle.loads(pickle.dumps(tokenizer))):
        assert plain(copy, text) == plain(tokenizer, text)
        assert copy.decode(plain(copy, text)) == tokenizer.decode(plain(tokenizer, text))
        assert copy.fingerprint == tokenizer.fingerprint
    data = sentencepiece_file(tokenizer)
    assert data is not None
    (tmp_path / "own.model").write_bytes(data)
    assert Tokenizer.load(tmp_path / "own.model").fingerprint == tokenizer.fingerprint
    assert images_of(tokenizer) == 0


def test_transformers_reads_a_trained_tokenizer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    own = trained()
    own.save(tmp_path, post="blank")
    other = transformers.AutoTokenizer.from_pretrained(tmp_path)
    gmask, sop, eop, pad = (own.vocabulary().roles[role] for role in ("gmask", "sop", "eop", "pad"))
    texts = ["the harbour", "冬天\n\t  ，１２ 🧬 <0x41> e\u0301 Vie\u0323\u0302t", "   ", ""]
    rows = [[*plain(own, text), gmask, sop] for text in texts]
    assert other(texts)["input_ids"] == rows
    assert other("the", "冬天")["input_ids"] == [*plain(own, "the"), gmask, sop, *plain(own, "冬天"), eop]
    length = max(map(len, rows))
    assert other(texts, padding=True)["input_ids"] == [[pad] * (length - len(row)) + row for row in rows]
    assert [other.decode(row[:-2]) for row in rows] == [own.decode(row) for row in rows]


def test_it_has_no_unknown_token_and_knows_where_words_begin() -> None:
    vocabulary = trained().vocabulary()
    assert trained().unknown is None
    assert vocabulary.word_start is not None
    starts = dict(zip(map(trained().token, range(SIZE)), vocabulary.word_start.tolist(), strict=True))
    assert [starts[name] for name in ("▁winter", "<n>", "e", "的", "<0x41>")] == [True, True, False, True, False]
    assert {"pad", "unk", "mask", "gmask", "smask", "sop", "eop", "eos", "dblock"} <= set(vocabulary.roles)


def test_new_words_and_roles_are_appended() -> None:
    tokenizer = trained()
    grown = tokenizer.with_roles(["pseudo"]).with_words(["harbours", "海港", "winter"])
    assert [grown.token(id) for id in range(SIZE, grown.size)] == ["[PSEUDO]", "▁harbours", "海港"]
    assert plain(grown, "the harbours 海港") == [
        *plain(tokenizer, "the"), grown.id("▁harbours"), tokenizer.id("▁"), grown.id("海港"),
    ]  # fmt: skip
    assert grown.decode(plain(grown, "the harbours 海港")) == "the harbours 海港"
    assert plain(grown, "天亮的时候") == plain(tokenizer, "天亮的时候")


def test_a_tokenizer_and_a_model_of_different_sizes_are_refused() -> None:
    tokenizer = trained()
    check_layout(tokenizer, SIZE + 100, {"gmask": tokenizer.vocabulary().roles["gmask"]}, "config.json")
    with pytest.raises(UserError, match=r"config\.json: vocab_size is 300, and the tokenizer beside it has 470 ids"):
        check_layout(tokenizer, 300, {}, "config.json")
    with pytest.raises(UserError, match=r"config\.json gives \[gMASK\] the id 7, and the tokenizer beside it"):
        check_layout(tokenizer, SIZE, {"gmask": 7}, "config.json")


def test_a_corpus_is_encoded_as_its_texts_are_and_the_report_tells_the_balance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sentencepiece")
    (tmp_path / "in").mkdir()
    for number in range(4):
        text = "\n".join(TEXT[number * 29 : number * 29 + 29]) + f"\nNumber {number}. Again! 又来了。第{number}次。\n"
        (tmp_path / "in" / f"{number}.txt").write_text(text, "utf-8")
    config = PrepareConfig(tokenizer="bilingual", vocab_exact=False, workers=1, validation=0, dedup="none")
    report = prepare([tmp_path / "in"], tmp_path / "out", config)
    tokenizer = Tokenizer.load(tmp_path / "out")
    corpus = IndexedCorpus(tmp_path / "out" / "train.idx")
    texts = [tokenizer.decode(ids.tolist()) for ids in np.split(corpus.tokens, corpus.document_tokens[1:-1])]
    assert len(texts) == 4
    for text in texts:
        # Sentences follow each other as in the text, and paragraphs on new lines.
        assert any(f"Number {n}. Again!又来了。第{n}次。" in text.split("\n") for n in range(4))
        assert "  " not in text
    scripts = report.normalization["balance"]["scripts"]
    assert set(scripts) == {"Latin", "Han"}
    assert sum(of["letters"] for of in scripts.values()) == pytest.approx(1, abs=1e-3)
    assert sum(of["pieces"] for of in scripts.values()) == pytest.approx(1, abs=1e-3)
    assert all(of["letters_per_token"] >= 1 for of in scripts.values())
    assert report.unknown == 0
    report.show()
    shown = " ".join(capsys.readouterr().out.split())
    assert f"balance {in_words(report.normalization['balance'])[0]}" in shown
    assert "of the tokens are single bytes" in shown


# Files that are not whole


def test_broken_files_get_a_sentence(tmp_path: Path) -> None:
    data = sentencepiece_file(trained())
    assert data is not None
    pieces, _, charsmap, _ = parse_sentencepiece(data)
    path = tmp_path / "ice_text.model"
    path.write_bytes(model_file([*pieces[:-300], pieces[10], *pieces[-300:]], charsmap))
    with pytest.raises(UserError, match=r"has the piece .* twice"):
        Tokenizer.load(path)
    path.write_bytes(model_file(pieces, charsmap[:100]))
    with pytest.raises(UserError, match="has a table of characters that is cut short"):
        Tokenizer.load(path)
    path.write_bytes(data)
    (tmp_path / "tokenizer_config.json").write_text('{"num_image_tokens": -1}')
    with pytest.raises(UserError, match="`num_image_tokens` is -1"):
        Tokenizer.load(path)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 200))
def test_any_bytes_are_a_table_or_an_error(noise: bytes, cut: int) -> None:
    table = struct.pack("<I", len(noise) // 4 * 4) + noise
    for data in (noise, table, table[:cut]):
        try:
            made = Charsmap(data)
        except ValueError:
            continue
        made.normalize("aé\u0301中")


def test_reading_is_linear_in_the_text() -> None:
    tokenizer = trained()
    for unit in ("海", "a", " ", "\n", "▁", "🧬", "\u0301", "<", "<0x41>", "é ", "x\u0301"):
        ids, _ = tokenizer.encode_plain([unit * 20_000])
        assert np.array_equal(ids[100:120], tokenizer.encode_plain([unit * 20_000])[0][100:120])
