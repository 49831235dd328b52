"""The encoding of each file: by mark, by validity, by a guess that fits the whole file; and the remarks."""

import codecs
from pathlib import Path

import pytest

from blankfill.corpus import encodings
from blankfill.corpus.encodings import Encoding, EncodingError, check_encoding, decide_encoding
from blankfill.corpus.guesses import guesses
from blankfill.errors import UserError

CHINESE = "渡船靠岸的时候，灯早已灭了。这是我们在那个地方的第一个晚上，大家都不说话，因为要下雨了。" * 3
GERMAN = "Der Wärter öffnete das Tor, und die Möwen flogen über das graue Wasser. " * 3
TEXTS = [
    (CHINESE, "gb18030"),
    ("這是我們在那個地方的第一個晚上，大家都不說話，因為要下雨了。他來的時候我們都不在。" * 3, "big5"),
    ("これはわたしたちがあのばしょですごしたさいしょのよるでした。" * 3, "shift_jis"),
    ("これはわたしたちがあの場所で過ごした最初の夜でした。" * 3, "euc_jp"),
    ("우리가 그곳에서 보낸 첫날 밤이었다. 아무도 말을 하지 않았다." * 3, "euc_kr"),
    ("Паром пришёл поздно, и никто на берегу его уже не ждал. " * 3, "cp1251"),
    ("Паром пришёл поздно, и никто на берегу его уже не ждал. " * 3, "koi8-r"),
    ("Паром пришёл поздно, и никто на берегу его уже не ждал. " * 3, "cp866"),
    ("Паром пришёл поздно, и никто на берегу его уже не ждал. " * 3, "iso8859-5"),
    ("Το πλοίο έφτασε αργά και κανείς δεν το περίμενε στην προβλήτα. " * 3, "cp1253"),
    ("המעבורת הגיעה מאוחר ואיש לא חיכה לה על הרציף. " * 3, "cp1255"),
    ("وصلت العبارة متأخرة ولم يكن أحد ينتظرها على الرصيف. " * 3, "cp1256"),
    ("เรือข้ามฟากมาสายและไม่มีใครรออยู่ที่ท่าเรือ " * 3, "cp874"),
    ("Prom przypłynął późno i nikt już na niego nie czekał na nabrzeżu. Światła zgasły. " * 3, "cp1250"),
    (GERMAN, "cp1252"),
    ("Le bac est arrivé très tard ; à l’embarcadère, il n’y avait plus personne. " * 3, "cp1252"),
    ("He said “no” – and left it there, as his father would have done. " * 3, "cp1252"),
]


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(("text", "encoding"), TEXTS)
def test_old_encodings_are_guessed(tmp_path: Path, text: str, encoding: str):
    decided = decide_encoding(write(tmp_path / "old.txt", text.encode(encoding)))
    assert decided.source == "guess" and not decided.damaged
    assert text.encode(encoding).decode(decided.name) == text
    assert "old.txt was read as" in decided.remarks("old.txt")[0]


@pytest.mark.parametrize(("text", "encoding"), TEXTS)
def test_utf8_is_utf8_whatever_the_user_names(tmp_path: Path, text: str, encoding: str):
    path = write(tmp_path / "new.txt", text.encode())
    assert decide_encoding(path) == Encoding()
    decided = decide_encoding(path, wanted=encoding)
    assert decided == Encoding("utf-8", "utf-8", ignored=encoding)
    assert decided.remarks("new.txt") == [f"new.txt is UTF-8 and was read as such, not as {encoding}."]
    old = write(tmp_path / "old.txt", text.encode(encoding))
    assert decide_encoding(old, wanted=encoding) == Encoding(encoding, "user")
    with pytest.raises(
        EncodingError, match=r"old\.txt is not UTF-8 \(line 1, …\): it looks like .*, so give encoding="
    ):
        decide_encoding(old, wanted="utf-8")


def test_few_characters_are_read_as_the_user_says(tmp_path: Path):
    """Two Chinese characters may be valid UTF-8 by chance."""
    path = write(tmp_path / "a.txt", "联通\n".encode("gb18030"))
    assert decide_encoding(path, wanted="gb18030") == Encoding("gb18030", "user")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("wanted", [None, "latin-1"])
def test_marks_outrank_names(tmp_path: Path, encoding: str, wanted: str | None):
    text = "The ferry was late again.\n" * 9
    path = write(tmp_path / "a.txt", text.encode(encoding))
    decided = decide_encoding(path, wanted=wanted)
    assert Path(path).read_bytes().decode(decided.name).removeprefix("\ufeff") == text
    assert decided.ignored == (wanted or "")


def test_a_few_damaged_bytes_are_named_by_their_lines(tmp_path: Path):
    data = ("Früher “führte” eine Brücke.\n" * 6).encode().replace("ü".encode(), b"\xfc", 1)
    data += b"n\xa3 end \xff\n"
    path = write(tmp_path / "a.txt", data)
    for wanted in (None, "cp1252"):
        decided = decide_encoding(path, wanted=wanted)
        assert (decided.name, decided.source, decided.damaged) == ("utf-8-replace", "utf-8", 3)
        assert decided.damaged_lines == (1, 7, 7)
        assert "a.txt is UTF-8 with 3 damaged bytes (lines 1, 7), read as U+FFFD" in decided.remarks("a.txt")[-1]
    with pytest.raises(EncodingError, match=r"UTF-8 but for 3 bytes \(lines 1, 7\): .*give encoding=utf-8-replace"):
        decide_encoding(path, wanted="utf-8")
    assert decide_encoding(path, wanted="utf-8-replace").damaged == 3


def test_many_damaged_bytes_are_refused_but_may_be_allowed(tmp_path: Path):
    path = write(tmp_path / "a.txt", ("Früher führte über die Brücke ein Weg.\n".encode() * 9 + b"\xff x\n") * 30)
    with pytest.raises(EncodingError, match=r"UTF-8 but for 30 bytes .*give encoding=utf-8-replace"):
        decide_encoding(path)
    assert decide_encoding(path, wanted="utf-8-replace").damaged == 30


def test_files_of_two_encodings_get_no_advice_that_ruins_half_of_them(tmp_path: Path):
    path = write(tmp_path / "a.txt", CHINESE.encode() + GERMAN.encode("latin-1") * 40)
    with pytest.raises(EncodingError, match=r"not recognised .*It holds UTF-8 as well") as error:
        decide_encoding(path)
    assert "looks like" not in str(error.value)


def test_a_guess_must_fit_the_whole_file(tmp_path: Path):
    data = GERMAN.encode("cp1252") * 9
    assert decide_encoding(write(tmp_path / "a.txt", data)).name == "cp1252"
    path = write(tmp_path / "b.txt", data + b"\x81\x8d\x8f\x90\x9d" * 200)  # not a character of cp1252
    with pytest.raises(EncodingError, match="not recognised"):
        decide_encoding(path)


def test_damaged_bytes_of_a_guessed_encoding_are_counted(tmp_path: Path):
    decided = decide_encoding(
        write(tmp_path / "a.txt", CHINESE.encode("gb18030") * 20 + b"\xff" + CHINESE.encode("gbk"))
    )
    assert decided.name == "gb18030-replace" and decided.damaged == 1
    assert "1 damaged byte" in decided.remarks("a.txt")[1]


@pytest.mark.parametrize("size", [1, 7, 64])
def test_pieces_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int):
    path = write(tmp_path / "a.txt", (CHINESE + "\n").encode() * 9 + b"\xe6\xb8 \0\n" + CHINESE.encode() + b"\xe6")
    whole = decide_encoding(path)
    assert (whole.damaged, whole.damaged_lines, whole.nuls, whole.nul_lines) == (2, (10, 11), 1, (10,))
    monkeypatch.setattr(encodings, "CHUNK_BYTES", size)
    assert decide_encoding(path) == whole


def test_nul_characters_are_counted_wherever_they_are(tmp_path: Path):
    for before in (0, 100, 100_000):
        decided = decide_encoding(write(tmp_path / "a.txt", b"word \n" * before + b"a\0b\n" + b"word \n" * 300))
        assert (decided.name, decided.nuls, decided.nul_lines) == ("utf-8", 1, (before + 1,))
        assert decided.remarks("a.txt") == [f"a.txt holds 1 NUL character (line {before + 1:,}), which was left out."]


def test_only_the_requested_bytes_are_looked_at(tmp_path: Path):
    path = write(tmp_path / "a.txt", "ü".encode() * 600 + b"\xff")
    assert decide_encoding(path, most_bytes=1001) == Encoding()
    assert decide_encoding(path).damaged == 1


def test_a_text_that_is_no_text_in_any_encoding(tmp_path: Path):
    assert guesses(b"plain") == guesses(b"") == []
    with pytest.raises(EncodingError, match=r"a\.txt is in an encoding that is not recognised .*save it as UTF-8"):
        decide_encoding(write(tmp_path / "a.txt", bytes(range(128, 256)) * 9))


def test_a_few_odd_bytes_in_ascii_are_damaged_utf8(tmp_path: Path):
    decided = decide_encoding(write(tmp_path / "a.txt", b"word " * 99 + b"\x81\n"))
    assert (decided.name, decided.damaged, decided.damaged_lines) == ("utf-8-replace", 1, (1,))


def test_utf16_without_a_mark_names_the_byte_orders(tmp_path: Path):
    path = write(tmp_path / "a.txt", "渡船靠岸。\n".encode("utf-16-be"))
    with pytest.raises(UserError, match=r"no byte-order mark, without which utf-16 cannot be read: pass encoding=utf"):
        decide_encoding(path, wanted="utf-16")
    assert decide_encoding(path, wanted="utf-16-be") == Encoding("utf-16-be", "user")


def test_encoding_names_are_checked():
    assert check_encoding("UTF8") == check_encoding("utf-8-replace") == "utf-8"
    assert check_encoding(None) == ""
    for name in ("utf-9", "base64", "rot13"):
        with pytest.raises(UserError, match=f"encoding={name} is not a known text encoding"):
            check_encoding(name)


def test_a_mark_of_utf8_is_no_character(tmp_path: Path):
    assert decide_encoding(write(tmp_path / "a.txt", codecs.BOM_UTF8 + b"word\n")) == Encoding()


def test_of_many_files_the_first_few_are_named():
    files = [(f"{number}.txt", Encoding("cp1251", "guess")) for number in range(9)]
    remarks = encodings.grouped_remarks(files)
    assert [remark.partition(" ")[0] for remark in remarks] == ["0.txt", "1.txt", "2.txt", "3.txt", "4.txt", "4"]
    assert remarks[-1] == "4 more files were read as cp1251, which is a guess."
