"""The Tokenizer: roles, forging, the fast path against the library, reading foreign formats, and saving for others."""

import io
import itertools
import json
import pickle
import random
import time
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blankfill.corpus import tokenizer_plain
from blankfill.corpus.sentences import split_sentences
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.tokenizer_formats import byte_bpe, wordpiece
from blankfill.corpus.tokenizer_sentencepiece import unigram
from blankfill.corpus.tokenizer_train import SPECIAL_TOKENS, TokenizerConfig, train_tokenizer
from blankfill.corpus.tokenizer_words import join_words
from blankfill.errors import UserError
from blankfill.types import ROLES

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
KINDS = ("wordpiece", "bpe", "unigram")
SIZES = {"wordpiece": 139, "bpe": 0, "unigram": 0}

ENGLISH = [
    f"The {what} {who} {did} the {thing}, didn't it? It's {number}."
    for what, who, did, thing, number in itertools.product(
        ("quiet", "brave", "naïve"), ("Sailor", "teacher", "robot"), ("painted", "carried", "loved"),
        ("wooden door", "letter", "café table"), ("3.14", "1990"),
    )
]  # fmt: skip
CHINESE = [
    f"{who}在{where}{did}了{thing}。"
    for who, where, did, thing in itertools.product(
        ("老师", "我们", "小猫"), ("北京", "河边", "学校"), ("看见", "忘记", "画"), ("一本书", "月亮", "三只鸟")
    )
]
TEXT = ENGLISH + CHINESE


def trained(kind: str) -> Tokenizer:
    if kind == "unigram":
        pytest.importorskip("sentencepiece")
    return train_tokenizer(TEXT, TokenizerConfig(kind=kind, vocab_size=SIZES[kind]))


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return trained(request.param)


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    return trained("wordpiece")


def plain(tokenizer: Tokenizer, sentences: list[str]) -> list[list[int]]:
    """`encode_plain`, cut back into sentences."""
    ids, lengths = tokenizer.encode_plain(sentences)
    assert ids.dtype == lengths.dtype == np.int32
    assert lengths.sum() == len(ids)
    ends = np.cumsum(lengths)
    return [part.tolist() for part in np.split(ids, ends[:-1])] if sentences else []


ODD = (
    " \t\n\r\x00\x0b\x0c\x1c\x1f\x85\xa0\xad\u0300\u0301\u0308\u1680\u2000\u200b\u200d\u2028\u2029\u202f\u3000\ufeff"
    "\ufffd'\"“”‘’—–…-_.,!?()[]aAbBzZ09ßİıſΣσςéÉñÅ½²ⅷ①ﬁ중あア々〇中文書￥。，！豈𠀀🙂👩\U000e0041"
)
TEXTS = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(ODD)), max_size=40)
WORDS = st.lists(
    st.one_of(st.sampled_from(["the", "didn't", "It's", "robot,", "“brave”", "老师", "", "1990", "x" * 101]), TEXTS)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(words=WORDS, joiner=st.sampled_from([" ", "", "  ", "\n"]))
def test_the_fast_path_equals_the_library(tokenizer: Tokenizer, words: list[str], joiner: str) -> None:
    text = joiner.join(words)
    if any(special in text for special in SPECIAL_TOKENS):
        return
    expected = tokenizer._full.encode(text, add_special_tokens=False).ids
    assert plain(tokenizer, [text]) == [expected]  # perhaps cached
    tokenizer._plain_encoder._cache.clear()
    assert plain(tokenizer, ["the", text, text]) == [tokenizer.encode("the"), expected, expected]


@pytest.mark.parametrize("lowercase", [True, False])
@settings(max_examples=100, deadline=None)
@given(words=WORDS)
@example(words=["\n0"])
@example(words=["", "the", "i0"])
def test_the_fast_path_equals_the_library_in_other_settings(lowercase: bool, words: list[str]) -> None:
    vocab = {
        token: id for id, token in enumerate(["[UNK]", "the", "i", "##o", "r", "##b", "##t", "é", "I", "T", "##h"])
    }
    bytes_ = {c: id for id, c in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    text = " ".join(words)
    for made in (
        wordpiece(vocab, lowercase=lowercase, strip_accents=not lowercase),
        wordpiece(vocab, lowercase=lowercase, split_chinese=False),
        byte_bpe(bytes_ | {"th": 256, "Ġr": 257}, [("t", "h"), ("Ġ", "r")], lowercase=lowercase),
        byte_bpe(bytes_ | {"th": 256}, [("t", "h")], lowercase=lowercase, add_prefix_space=True),
    ):
        if "[UNK]" in text:
            return
        expected = made.encode(text, add_special_tokens=False).ids
        assert plain(Tokenizer(made), [text, text]) == [expected, expected]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(parts=st.lists(st.one_of(st.sampled_from(SPECIAL_TOKENS), st.sampled_from([" ", "a", "中", "<", "["]), TEXTS)))
def test_no_text_forges_a_special_token(tokenizer: Tokenizer, parts: list[str]) -> None:
    (ids,) = plain(tokenizer, ["".join(parts)])
    assert not tokenizer.vocabulary().special.intersection(ids)


def test_places_are_those_of_the_text(tokenizer: Tokenizer) -> None:
    """The same ids as elsewhere; places in order, which cover all of the text but its white space."""
    for text in (ENGLISH[0], CHINESE[0], "  The [MASK]  café\n“naïve” 三只鸟 3.14 "):
        ids, places = tokenizer.encode_places(text)
        assert ids.tolist() == plain(tokenizer, [text])[0]
        covered = {k for start, end in places.tolist() for k in range(start, end)}
        assert {k for k, character in enumerate(text) if not character.isspace()} <= covered
        assert (np.diff(places, axis=0) >= 0).all()
        assert all(text[start:end] == text[start:end].strip() for start, end in places.tolist() if end - start > 1)
    assert [part.shape for part in tokenizer.encode_places("")] == [(0,), (0, 2)]


def test_prompts_may_contain_special_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("The [MASK] painted [gMASK]<|startofpiece|>")
    roles = tokenizer.vocabulary().roles
    assert [id for id in ids if id in roles.values()] == [roles["mask"], roles["gmask"], roles["sop"]]
    the = tokenizer.encode("The")
    assert ids[: len(the) + 1] == [*the, roles["mask"]]  # no stray token for the space before it


def test_a_small_cache_changes_nothing(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    expected = plain(tokenizer, TEXT)
    monkeypatch.setattr(tokenizer_plain, "CACHE_LIMIT", 5)
    tokenizer._plain_encoder._cache.clear()
    assert [plain(tokenizer, [sentence])[0] for sentence in TEXT] == expected
    assert len(tokenizer._plain_encoder._cache) <= 5


def test_long_chunks_are_not_kept(pieces: Tokenizer) -> None:
    text = "the " + "ab" * 40
    assert plain(pieces, [text, text]) == [pieces.encode(text)] * 2
    assert max(map(len, pieces._plain_encoder._cache)) <= 64


def test_nothing_to_encode(tokenizer: Tokenizer) -> None:
    ids, lengths = tokenizer.encode_plain([])
    assert len(ids) == len(lengths) == 0
    assert plain(tokenizer, ["", "the", ""]) == [[], tokenizer.encode("the"), []]


def test_ordinary_added_tokens_keep_their_ids_in_plain_text() -> None:
    made = wordpiece({"[UNK]": 0, "[MASK]": 1, "a": 2, "b": 3}, lowercase=True)
    made.add_special_tokens(["[X]"])
    made.add_tokens(["a b"])
    tokenizer = Tokenizer(made)
    assert tokenizer.id("a b") == 5
    assert plain(tokenizer, ["b a b [X] a"]) == [[3, 5, 0, 0, 0, 2]]  # [X] is "[", "x", "]", all unknown
    assert tokenizer.vocabulary().special == {1, 4}


def test_roles_of_a_trained_tokenizer(tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.vocabulary()
    assert vocabulary.size == tokenizer.size == len(vocabulary.word_start)
    assert list(vocabulary.roles.values()) == list(range(11))
    assert set(vocabulary.roles) == set(ROLES) - {"pseudo"}  # added only where it is needed
    unknown_can_occur = tokenizer._kind == "wordpiece"
    assert vocabulary.special == frozenset(range(11)) - ({1} if unknown_can_occur else set())


def words_only(*tokens: str) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel({token: i for i, token in enumerate(tokens)})))


def test_roles_of_foreign_vocabularies() -> None:
    bert = words_only("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]").vocabulary()
    assert bert.roles == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "eos": 3}  # GLM ends a text with [SEP]
    roberta = words_only("<s>", "<pad>", "</s>", "<unk>", "<mask>").vocabulary()
    assert roberta.roles == {"cls": 0, "pad": 1, "sep": 2, "unk": 3, "mask": 4, "eos": 2}
    xlnet = words_only("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>").vocabulary()
    assert xlnet.roles == {"unk": 0, "cls": 3, "sep": 4, "pad": 5, "mask": 6, "eos": 7, "eop": 8}
    assert words_only("[PAD]", "x").vocabulary().roles == {"pad": 0, "eos": 0}
    assert words_only("x", "y").vocabulary().roles == {}
    assert words_only("[PAD]", "x").vocabulary().word_start.tolist() == [True, True]


def test_with_roles_appends_what_is_missing() -> None:
    made = wordpiece({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "cat": 5}, lowercase=True)
    old = Tokenizer(made)
    new = old.with_roles(["mask", "sop", "eop", "gmask"])
    assert (old.size, new.size) == (6, 9)
    assert new.vocabulary().roles == old.vocabulary().roles | {"sop": 6, "eop": 7, "gmask": 8}
    assert [new.token(id) for id in range(6)] == [old.token(id) for id in range(6)]
    assert new.encode("cat [gMASK]<|startofpiece|>") == [5, 8, 6]
    assert new.with_roles(["sop", "pad", "eos"]) is new
    assert "sop" not in old.vocabulary().roles


def test_sentinels_are_appended_from_the_last_to_the_first() -> None:
    """As in T5's vocabulary: `<extra_id_0>` has the highest id."""
    made = wordpiece({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "cat": 5}, lowercase=True)
    old = Tokenizer(made)
    assert old.vocabulary().sentinels == ()
    assert old.vocabulary().missing(["mask", "sop"], 3) == ["sop", "3 sentinels"]
    new = old.with_roles(["mask", "sop"], 3)
    vocabulary = new.vocabulary()
    assert (new.size, vocabulary["sop"], vocabulary.sentinels) == (10, 6, (9, 8, 7))
    assert new.token(9) == "<extra_id_0>"
    assert vocabulary.special >= {7, 8, 9}
    assert new.encode("cat <extra_id_1>cat") == [5, 8, 5]
    assert new.encode_plain(["cat <extra_id_1>"])[0].max() < 7
    assert new.decode([5, 9, 5]) == "cat cat"
    assert new.with_roles(["mask"], 2) is new
    assert vocabulary.missing(["mask"], 3) == []
    grown = new.with_roles([], 5)
    assert grown.vocabulary().sentinels == (9, 8, 7, 11, 10)
    assert [grown.token(id) for id in range(10)] == [new.token(id) for id in range(10)]


def test_sentinels_of_a_vocabulary_file_are_special(tmp_path: Path) -> None:
    """Up to the first number that is not there; in a folder that was saved they are what they were."""
    names = ["[PAD]", "[UNK]", "cat", "<extra_id_1>", "<extra_id_0>", "<extra_id_3>"]
    (tmp_path / "vocab.txt").write_text("\n".join(names), encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path / "vocab.txt")
    assert tokenizer.vocabulary().sentinels == (4, 3)
    assert tokenizer.vocabulary().special == {0, 3, 4}
    assert tokenizer.encode("<extra_id_0> cat") == [4, 2]
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    assert again.vocabulary().sentinels == (4, 3)
    assert again.fingerprint == tokenizer.fingerprint


def test_sentinels_of_a_unigram_tokenizer_are_those_of_t5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ids as transformers' own class gives with T5's vocabulary; a space before a sentinel is no token."""
    transformers = pytest.importorskip("transformers")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), ("▁a", -1.0), ("b", -2.0)]
    tokenizer = Tokenizer(unigram(pieces, unk_id=2, byte_fallback=False, charsmap=b"")).with_roles(["pad", "eos"], 100)
    assert tokenizer.size == 106
    assert tokenizer.vocabulary().roles == {"pad": 0, "eos": 1, "unk": 2, "sep": 1}
    theirs = transformers.T5Tokenizer(vocab=[*pieces, *((f"<extra_id_{k}>", 0.0) for k in reversed(range(100)))])
    text = "a <extra_id_0> ab <extra_id_99>"
    wanted = theirs(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.encode(text) == wanted == [4, 105, 4, 5, 6]
    tokenizer.save(tmp_path)
    assert auto_tokenizer(tmp_path, monkeypatch)(text, add_special_tokens=False)["input_ids"] == wanted


def test_with_roles_refuses_gaps() -> None:
    gap = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 7}))
    with pytest.raises(UserError, match=r"gaps.*\[MASK\]"):
        Tokenizer(gap).with_roles(["mask"])


def test_decoding_leaves_out_gaps() -> None:
    ids = {"[UNK]": 0, "a": 1, "##b": 4, "[MASK]": 5}
    tokenizer = Tokenizer(wordpiece(ids, lowercase=True))
    assert tokenizer.size == 6
    assert tokenizer.decode([1, 2, 4, 3, 1]) == "ab a"
    with pytest.raises(IndexError, match="token id 6 is not in a vocabulary of 6"):
        tokenizer.decode([1, 6])


def test_word_starts_of_wordpiece() -> None:
    tokens = ["[UNK]", "[MASK]", "cat", "##s", "中", ".", "##"]
    made = wordpiece({token: id for id, token in enumerate(tokens)}, lowercase=True)
    assert Tokenizer(made).vocabulary().word_start.tolist() == [True, True, True, False, True, True, False]


def test_word_starts_of_byte_bpe() -> None:
    as_bytes = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    texts = [" cat", "cat", ".", "\n", "中", "é", "—", " ", "'s", "9"]
    tokens = ["".join(part for part, _ in as_bytes.pre_tokenize_str(text)) for text in texts]
    # Parts of 中 (E4 B8 AD): its first byte begins a word, the others do not.
    tokens += [tokens[4][:1], tokens[4][1:], "<|endoftext|>"]
    made = byte_bpe({token: id for id, token in enumerate(tokens)}, [], lowercase=False)
    expected = [True, False, True, True, True, False, True, True, True, False, True, False, True]
    assert Tokenizer(made).vocabulary().word_start.tolist() == expected


def test_word_starts_of_unigram() -> None:
    tokens = ["<unk>", "▁cat", "s", "▁", "中", "，", "<0x41>", "<0xE4>", "<0xB8>", "."]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram([(token, -1.0) for token in tokens], 0, True))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    expected = [True, True, False, True, True, True, False, True, False, True]
    assert Tokenizer(made).vocabulary().word_start.tolist() == expected


def test_word_starts_are_unknown_for_other_kinds() -> None:
    made = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b</w>": 1}, [], end_of_word_suffix="</w>"))
    vocabulary = Tokenizer(made).vocabulary()
    assert vocabulary.word_start is None


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("he said , \" it ' s 3 . 14 , isn ' t it ? \" ( yes ) .", "he said, \"it's 3.14, isn't it?\" (yes)."),
        ("a well - known man paid $ 1 , 000 / day . . . or 50 % !", "a well-known man paid $1,000/day... or 50%!"),
        ("我 用 python 写 了 代 码 ， 很 好 。 it ' s 好", "我用python写了代码，很好。it's好"),
        ("“ so ” - - he left", "“so” -- he left"),
        ("", ""),
    ],
)
def test_words_are_joined_as_people_write(words: str, text: str) -> None:
    assert join_words(words.split()) == text


def test_decode(tokenizer: Tokenizer) -> None:
    english, chinese = "the quiet teacher carried the letter, didn't it? it's 3.14.", "老师在北京看见了月亮。"
    for text in (english, chinese):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    marked = [2, *tokenizer.encode("the robot"), 3]
    assert tokenizer.decode(marked) == "the robot"
    assert tokenizer.decode(marked, skip_special=False).replace(" ", "") == "[CLS]therobot[SEP]"
    assert "[UNK]" in tokenizer.decode([1, *tokenizer.encode("the")])
    with pytest.raises(IndexError, match="999999"):
        tokenizer.token(999_999)


def test_token_and_id(pieces: Tokenizer) -> None:
    assert pieces.token(4) == "[MASK]"
    assert pieces.id("[MASK]") == 4
    assert pieces.id("no such token") is None


def test_fingerprint(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).fingerprint == tokenizer.fingerprint
    assert pickle.loads(pickle.dumps(tokenizer)).fingerprint == tokenizer.fingerprint
    vocab = {"[UNK]": 0, "[MASK]": 1, "a": 2}
    prints = {
        Tokenizer(wordpiece(vocab, lowercase=True)).fingerprint,
        Tokenizer(wordpiece(vocab, lowercase=False)).fingerprint,
        Tokenizer(wordpiece(vocab | {"b": 3}, lowercase=True)).fingerprint,
        Tokenizer(wordpiece(vocab, lowercase=True)).with_roles(["sop"]).fingerprint,
    }
    assert len(prints) == 4


def test_saving_is_deterministic(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "a")
    Tokenizer.load(tmp_path / "a").save(tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        first, second = ((tmp_path / folder / name).read_bytes() for folder in "ab")
        assert first == second
        assert b"\r" not in first


def auto_tokenizer(folder: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_transformers_opens_what_is_saved(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.save(tmp_path)
    other = auto_tokenizer(tmp_path, monkeypatch)
    texts = [*TEXT, "The [MASK] sat. [gMASK]<|startofpiece|> it's 中[sMASK]文 x<|endoftext|>"]
    assert other(texts, add_special_tokens=False)["input_ids"] == [tokenizer.encode(text) for text in texts]
    assert len(other) == tokenizer.size
    roles = tokenizer.vocabulary().roles
    for role in ("pad", "unk", "cls", "sep", "mask", "eos"):
        assert getattr(other, f"{role}_token_id") == roles[role]
    assert set(other.all_special_ids) == set(roles.values())


@pytest.mark.parametrize(("post", "around"), [("none", ([], [])), ("pair", ([2], [3]))])
def test_what_transformers_puts_around_a_text(
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    post: str,
    around: tuple[list[int], list[int]],
) -> None:
    tokenizer.save(tmp_path, post=post)
    other = auto_tokenizer(tmp_path, monkeypatch)
    ids = tokenizer.encode("the robot")
    assert other("the robot")["input_ids"] == around[0] + ids + around[1]
    pair = around[0] + ids + around[1] + ids + around[1]
    assert other("the robot", "the robot")["input_ids"] == pair
    assert Tokenizer.load(tmp_path).fingerprint == tokenizer.fingerprint


def test_a_pair_needs_its_tokens(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no cls and no sep"):
        words_only("a", "b").save(tmp_path, post="pair")


def test_reads_a_vocab_txt(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes("\ufeff[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\ncafe\r\n中\r\ncafe\r\n".encode())
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.size == 7
    assert tokenizer.encode("Café中 [SEP]") == [6, 5, 3]  # of a repeated line the last counts, as in BERT
    assert tokenizer.with_roles(["mask"]).id("[MASK]") == 7
    assert Tokenizer.load(tmp_path / "vocab.txt").fingerprint == tokenizer.fingerprint
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8")
    assert Tokenizer.load(tmp_path).encode("Cafe cafe") == [1, 6]


def test_reads_gpt2_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained("bpe").save(tmp_path / "json")
    model = json.loads((tmp_path / "json" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""]
    (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.fingerprint == trained("bpe").fingerprint
    assert Tokenizer.load(tmp_path / "vocab.json").fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("case_fold", [False, True])
def test_reads_a_sentencepiece_model(tmp_path: Path, case_fold: bool) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=model, vocab_size=355, byte_fallback=True, minloglevel=2,
        normalization_rule_name="nmt_nfkc_cf" if case_fold else "nmt_nfkc", user_defined_symbols=["<sep>"],
    )  # fmt: skip
    (tmp_path / "spiece.model").write_bytes(model.getvalue())
    oracle = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    tokenizer = Tokenizer.load(tmp_path)
    assert Tokenizer.load(tmp_path / "spiece.model").size == tokenizer.size == 355
    texts = [*TEXT, "  Two  spaces ", "ﬁne ½ １２ ＡＢ", "Привет 🙂", "naïve CAFÉ", ""]
    assert plain(tokenizer, texts) == oracle.encode(texts)
    assert tokenizer.vocabulary().roles["unk"] == oracle.unk_id()


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    files: dict[str, bytes] = {
        "empty/x": b"",
        "two/a.model": b"",
        "two/b.model": b"",
        "list.json": b"[1]",
        "model.json": b"{}",
        "wrong.json": b'{"model": {"type": "NoSuch"}}',
        "cut.json": b'{"model":\n {',
        "latin.txt": b"[UNK]\n\xe9\n",
        "words.txt": b"a\nb\n",
        "alone/vocab.json": b"{}",
        "nobytes/vocab.json": b'{"a": 0}',
        "nobytes/merges.txt": b"",
        "merges/vocab.json": '{"Ġ": 0, "a": 1}'.encode(),
        "merges/merges.txt": b"#version: 0.2\na b\n",
        "cut.model": b"\x0a\x10abc",
        "text.model": b"hello world, this is text",
        "nothing.model": b"",
        "bpe.model": b"\x0a\x03\x0a\x01a\x12\x02\x18\x02",
        "nounk.model": b"\x0a\x03\x0a\x01a",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "no tokenizer at"),
        ("empty", "holds no tokenizer"),
        ("two", "2 SentencePiece models"),
        ("list.json", "a list where an object is expected"),
        ("model.json", "no `model`"),
        ("wrong.json", "cannot be read as a tokenizer"),
        ("cut.json", "line 2: not JSON"),
        ("latin.txt", r"not UTF-8 \(byte 6\)"),
        ("words.txt", r"no line \[UNK\]"),
        ("alone", "merges.txt is missing"),
        ("nobytes", "not byte-level"),
        ("merges", "line 2, does not merge"),
        ("cut.model", "cut short"),
        ("text.model", "not a SentencePiece model"),
        ("nothing.model", "not a SentencePiece model"),
        ("bpe.model", "SentencePiece BPE model and only Unigram"),
        ("nounk.model", "no unknown piece"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_sentence(bad: Path, path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Tokenizer.load(bad / path)


def test_truncation_padding_and_dropout_are_switched_off(tmp_path: Path) -> None:
    bytes_ = {c: id for id, c in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    made = byte_bpe(bytes_ | {"ab": 256}, [("a", "b")], lowercase=False)
    made.enable_truncation(2)
    made.enable_padding(length=9)
    made.model.dropout = 0.9
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("ab" * 50) == [256] * 50


def test_the_command_shows_pieces_ids_and_roles(
    pieces: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from blankfill.cli.main import main

    pieces.save(tmp_path)
    assert main(["tokenizer", "show", "--tokenizer", str(tmp_path), "the [MASK]", "robot"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "the [MASK] robot"
    assert lines[1] == " ".join(str(pieces.id(token)) for token in ("the", "[MASK]", "robot"))
    assert lines[2].startswith("3 tokens for 16 characters")
    assert any(line.split() == ["gmask", "[gMASK]", "5"] for line in lines)


def test_the_command_tells_which_roles_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from blankfill.cli.main import main

    Tokenizer(wordpiece({"[UNK]": 0, "a": 1}, lowercase=True)).save(tmp_path)
    assert main(["tokenizer", "show", "a", "--tokenizer", str(tmp_path)]) == 0
    assert "No token for: pad, cls, sep, mask" in capsys.readouterr().out


def test_decoding_shows_the_unknown_token_and_hides_other_special_ones(tokenizer: Tokenizer) -> None:
    """One rule for all kinds (docs/import-export.md); transformers leaves the unknown token out."""
    roles = tokenizer.vocabulary().roles
    ids = [roles["cls"], *tokenizer.encode("the robot"), roles["unk"], roles["mask"], roles["pad"], roles["sep"]]
    shown = tokenizer.decode(ids)
    assert shown.replace(" ", "") == f"therobot{tokenizer.token(roles['unk'])}"


def real_sentences() -> dict[str, list[str]]:
    books, wiki = DATA / "gutenberg_en", DATA / "wiki_zh" / "AA" / "wiki_00"
    if not books.is_dir() or not wiki.is_file():
        pytest.skip("the Gutenberg books and wiki_zh are not beside this checkout")
    english = (books / "Dracula_345.txt").read_text(encoding="utf-8-sig").split("\n\n")
    chinese = [json.loads(line)["text"] for line in wiki.read_text(encoding="utf-8").splitlines()]
    paragraphs = {"en": [" ".join(block.split()) for block in english], "zh": "\n".join(chinese).split("\n")}
    return {name: [s for block in blocks for s in split_sentences(block)] for name, blocks in paragraphs.items()}


@pytest.mark.data
@pytest.mark.parametrize("kind", KINDS)
def test_real_sentences_get_the_same_ids_from_transformers(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "unigram":
        pytest.importorskip("sentencepiece")
    draw = random.Random(2)
    sample = [sentence for real_sentence in real_sentences().values() for sentence in draw.sample(real_sentence, 2000)]
    tokenizer = train_tokenizer(sample, TokenizerConfig(kind=kind, vocab_size=3000))
    tokenizer.save(tmp_path)
    other = auto_tokenizer(tmp_path, monkeypatch)
    assert plain(tokenizer, sample) == other(sample, add_special_tokens=False)["input_ids"]


@pytest.mark.data
def test_the_fast_path_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    for sentences in real_sentences().values():
        tokenizer = train_tokenizer(sentences, TokenizerConfig(vocab_size=3000))
        start = time.process_time()
        expected = [encoding.ids for encoding in tokenizer._plain_encoder.plain[0].encode_batch_fast(sentences)]
        library = time.process_time() - start
        assert plain(tokenizer, sentences) == expected
        start = time.process_time()
        tokenizer.encode_plain(sentences)
        # Measured: eight times in English, seven in Chinese, once the words are known.
        assert time.process_time() - start < library / 2
