"""The tokenizers of ChatGLM-6B and GLM-130B: a SentencePiece Unigram model with rules of its own around it.

Before the model, a new line is written `<n>`, a tab `<|tab|>`, and a run of k blanks `<|blank_k|>`, so that code and
tables keep their form; SentencePiece then normalises characters (NFKC) and puts ▁ before the text. After decoding, the
same in reverse. Characters without a piece are spelt as bytes, and digits stand alone.

The file that is written, a tokenizer.json, holds all of these rules, so that other programs read it. Texts are encoded
here by `Rules`, which normalises characters as SentencePiece does (`tokenizer_charsmap`); `tokenizers` differs from it
where several marks combine. Not here: reading `*.model` files (`tokenizer_sentencepiece`), training
(`tokenizer_train`).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from blankfill.corpus.tokenizer_charsmap import NOTHING, Charsmap

if TYPE_CHECKING:
    import tokenizers

NEWLINE, TAB, LONGEST_BLANK = "<n>", "<|tab|>", 80
BLANKS = tuple(f"<|blank_{count}|>" for count in range(2, LONGEST_BLANK + 1))
"""The pieces of 2, 3, … blanks."""
KEPT = (NEWLINE, TAB, *BLANKS)
"""Pieces that a text may hold as they are."""
FIRST = ("<unk>", "<s>", "</s>", "<pad>", NEWLINE)
"""The first pieces, by id."""
SPECIAL = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
LAST = (*SPECIAL, TAB, *BLANKS, *BYTES)
"""The last pieces, in order of their ids."""
OLDER_IMAGES = 20_000
"""Ids before those of the text in the first release of ChatGLM-6B and in GLM-130B."""

_BLANKS = re.compile(" {2,}")
_TYPED_BYTE = re.compile("(?<=<)(?=0x[0-9A-F]{2}>)")
IMAGE = re.compile(r"image \d+")
"""Names of the ids before those of the text in the older layout. No text gives them: a piece has ▁ where a text has a
blank."""
_BYTE = re.compile("<0x([0-9A-F]{2})>")


def rewritten(text: str) -> str:
    """Return a text as SentencePiece is given it: `<n>` for a new line, `<|tab|>` for a tab, `<|blank_k|>` for k blanks
    from 2 to 80, longer runs as several of these."""
    text = text.replace("\n", NEWLINE).replace("\t", TAB)
    return _BLANKS.sub(lambda run: "".join(_blanks(len(run[0]))), text) if "  " in text else text


def restored(text: str) -> str:
    """Return the text that `rewritten` was given; a `<n>` typed in it becomes a new line."""
    if "<" not in text:
        return text
    text = text.replace(NEWLINE, "\n").replace(TAB, "\t")
    for count, piece in enumerate(BLANKS, 2):
        text = text.replace(piece, " " * count)
    return text


def _blanks(count: int) -> list[str]:
    whole, rest = divmod(count, LONGEST_BLANK)
    return [BLANKS[-1]] * whole + ([BLANKS[rest - 2]] if rest > 1 else [" "] * rest)


def is_bilingual(user_defined: Sequence[str]) -> bool:
    """Return whether a SentencePiece model with these user-defined pieces is of this kind: with all of `KEPT`, or, as
    in the file of the first release, with `<n>` alone."""
    return set(user_defined) in (set(KEPT), {NEWLINE})


def bilingual(
    pieces: Sequence[tuple[str, float]], *, charsmap: bytes, special: Sequence[str], images: int = 0
) -> tokenizers.Tokenizer:
    """Make the tokenizer of a SentencePiece Unigram model with byte fallback and the rules of this module.

    pieces: (text, score), by id; `<unk>`, `KEPT` and `BYTES` are among them. special: the control pieces. images:
    number of ids of the older layout before the pieces.

    Raises `ValueError` for a charsmap that is cut short.
    """
    import tokenizers

    Charsmap(charsmap)
    aside = {*KEPT, *special, *BYTES, "<unk>"}
    scores = [score for piece, score in pieces if piece not in aside] or [0.0]
    best, least = max(scores), min(scores)
    # SentencePiece prefers a user-defined piece to any other spelling by this score. Below the least score of a piece
    # it would change how `tokenizers` weighs unknown characters.
    rated = {piece: max(len(piece.encode()) * best - 0.1, least) for piece in KEPT}
    vocab = [[f"image {number}", 0.0] for number in range(images)]
    vocab += [[piece, round(rated.get(piece, score), 7)] for piece, score in pieces]
    ids = {piece: id for id, (piece, _) in enumerate(vocab)}
    names = sorted(("<unk>", *special), key=ids.__getitem__)
    return tokenizers.Tokenizer.from_str(json.dumps({
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": ids[name], "content": name, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for name in names
        ],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(charsmap)},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"String": "▁"}, "behavior": "MergedWithNext", "invert": False},
            {"type": "Split", "pattern": {"Regex": "<(?=0x[0-9A-F]{2}>)"}, "behavior": "MergedWithPrevious",
             "invert": False},
        ]},
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": _decoders(images)},
        "model": {"type": "Unigram", "unk_id": ids["<unk>"], "vocab": vocab, "byte_fallback": True},
    }))  # fmt: skip


def with_pieces(tokenizer: tokenizers.Tokenizer, pieces: Sequence[str]) -> tokenizers.Tokenizer:
    """Return a tokenizer of this kind with more pieces behind its vocabulary. Each has a score just above that of its
    present spelling, so that it is preferred where it stands alone, and longer words keep theirs."""
    import tokenizers

    spec = json.loads(tokenizer.to_str())
    vocab = spec["model"]["vocab"]
    vocab += [[token["content"], 0.0] for token in spec["added_tokens"] if token["id"] >= len(vocab)]
    scores = [score for piece, score in vocab if score]
    for piece in pieces:
        spelling = [vocab[token.id][1] or min(scores) for token in tokenizer.model.tokenize(piece)]
        vocab.append([piece, round(min(sum(spelling) + 0.1, max(scores)), 7)])
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def _replace(old: str, new: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: old}, "content": new}


def _normalizers(charsmap: bytes) -> list[dict[str, Any]]:
    return [
        _replace("\n", NEWLINE),
        _replace("\t", TAB),
        *(_replace(" " * count, piece) for count, piece in reversed(list(enumerate(BLANKS, 2)))),
        {"type": "NFC"},  # as SentencePiece, but `Precompiled` alone does not, joins marks to letters
        {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()},
        _replace(" {2,}", " ", "Regex"),
        _replace(r"\A ", "", "Regex"),
        {"type": "Prepend", "prepend": "▁"},
        _replace(" ", "▁"),
        _replace(r"(?<!▁)▁+\z", "", "Regex"),
    ]


def _decoders(images: int) -> list[dict[str, Any]]:
    return [
        *([_replace(r"\Aimage \d+\z", "", "Regex")] if images else []),
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        _replace(r"\A▁+", "", "Regex"),
        _replace("▁", " "),
        _replace(NEWLINE, "\n"),
        _replace(TAB, "\t"),
        *(_replace(piece, " " * count) for count, piece in enumerate(BLANKS, 2)),
    ]


class Rules:
    """The rules around the pieces of such a tokenizer, as its tokenizer.json gives them."""

    def __init__(self, charsmap: bytes) -> None:
        """charsmap: the compiled table of its normaliser."""
        self.charsmap = charsmap
        self._names: tuple[str, ...] = ()
        self._marks = re.compile(f"({NOTHING})")
        self._marked_table: Charsmap | None = None

    @classmethod
    def of(cls, spec: dict[str, Any]) -> Rules | None:
        """Return the rules of a tokenizer.json, None where it is of another kind. The vocabulary may be left out."""
        steps = (spec["normalizer"] or {}).get("normalizers") or []
        if steps[:1] != [_replace("\n", NEWLINE)] or spec["model"]["type"] != "Unigram":
            return None
        tables = [step["precompiled_charsmap"] for step in steps if step["type"] == "Precompiled"]
        compiled = base64.b64decode(tables[0]) if len(tables) == 1 else b""
        return cls(compiled) if steps == _normalizers(compiled) else None

    @cached_property
    def _table(self) -> Charsmap:
        return Charsmap(self.charsmap, KEPT)

    def spelled(self, text: str, prefix: bool = True, table: Charsmap | None = None) -> str:
        """Return a text as the model reads it, ▁ before each word. prefix: whether a text begins here; otherwise it
        continues another, and only a blank at its beginning becomes ▁. table: keeps more pieces than `KEPT`."""
        text = _BLANKS.sub(" ", (table or self._table).normalize(rewritten(text)))
        if prefix:
            text = text.removeprefix(" ")
            text = "▁" + text if text else ""
        return text.replace(" ", "▁").rstrip("▁")

    def chunks(self, text: str, prefix: bool = True) -> list[str]:
        """Return the parts of a spelled text that the model may read separately: no piece reaches across a ▁, and a
        byte such as <0x41> that is written out must not meet the piece of that byte."""
        return _chunks(self.spelled(text, prefix))

    def marked_chunks(self, text: str, names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
        """Return the special tokens that are written out in a text, and the chunks before, between and behind them. As
        in GLM-130B, whose code knows them as pieces of the text, they change nothing around them."""
        if names != self._names:
            self._names = tuple(names)
            choices = "|".join(re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name)))
            self._marks, self._marked_table = re.compile(f"({choices})"), Charsmap(self.charsmap, (*KEPT, *names))
        parts = self._marks.split(self.spelled(text, table=self._marked_table))
        return parts[1::2], list(map(_chunks, parts[::2]))

    def places(
        self, text: str, tokenize: Callable[[str], Sequence[tuple[int, tuple[int, int]]]]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the ids of a text and the place of each in it. tokenize: a chunk → (id, place in its bytes)."""
        where = self._places(text)
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        at = 0
        for chunk in self.chunks(text):
            character_of = [number for number, character in enumerate(chunk, at) for _ in character.encode()]
            tokens = tokenize(chunk)
            before = 0  # bytes of one unknown run before a token, which all have the place of the run
            for number, (id, (start, stop)) in enumerate(tokens):
                before = before + 1 if number and tokens[number - 1][1] == (start, stop) else 0
                if before or (number + 1 < len(tokens) and tokens[number + 1][1] == (start, stop)):
                    start, stop = start + before, start + before + 1
                inside = [where[character] for character in character_of[start:stop]]
                inside = [place for place in inside if place[1] > place[0]] or inside
                ids.append(id)
                places.append((min(first for first, _ in inside), max(last for _, last in inside)))
            at += len(chunk)
        return ids, places

    def _places(self, text: str) -> list[tuple[int, int]]:
        """Return the place in a text of each character of `spelled(text)`."""
        places: list[tuple[int, int]] = []
        written: list[str] = []
        for match in re.finditer(r"\n|\t| {2,}|[^\n\t ]+| ", text):
            start, stop = match.span()
            if match[0][0] in "\n\t":
                written.append(rewritten(match[0]))
                places += [(start, stop)] * len(written[-1])
            elif stop - start > 1 and match[0][0] == " ":
                for piece in _blanks(stop - start):
                    count = 1 if piece == " " else BLANKS.index(piece) + 2
                    written.append(piece)
                    places += [(start, start + count)] * len(piece)
                    start += count
            else:
                written.append(match[0])
                places += [(place, place + 1) for place in range(start, stop)]
        out = [(0, 0)]
        blank = True
        for start, stop, new in self._table.parts("".join(written)):
            for character in new:
                if character != " " or not blank:
                    out.append((places[start][0], places[stop - 1][1]))
                blank = character == " "
        return out

    def joined(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens: bytes joined to characters, blanks and new lines in place of their pieces."""
        parts: list[str] = []
        pending = bytearray()
        for token in tokens:
            if byte := _BYTE.fullmatch(token):
                pending.append(int(byte[1], 16))
                continue
            if pending:
                parts.append(_characters_of(pending))
                pending.clear()
            if not IMAGE.fullmatch(token):
                parts.append(token if parts else token.lstrip("▁"))
                if not parts[-1]:
                    parts.pop()
        if pending:
            parts.append(_characters_of(pending))
        return restored("".join(parts).replace("▁", " "))


def _chunks(spelled: str) -> list[str]:
    first, *others = spelled.split("▁")
    chunks = ["▁" + chunk for chunk in others]
    if first:
        chunks.insert(0, first)
    if "<0x" in spelled:
        chunks = [part for chunk in chunks for part in _TYPED_BYTE.split(chunk)]
    return chunks


def _characters_of(data: bytes | bytearray) -> str:
    """Return bytes as text, U+FFFD for each byte that belongs to no character."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return re.sub("[\udc80-\udcff]", "\ufffd", data.decode("utf-8", "surrogateescape"))
