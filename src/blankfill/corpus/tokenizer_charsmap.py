"""SentencePiece's normalisation of characters, exactly: the compiled table of a `*.model`, and texts rewritten by it.

The table maps strings to strings; at each place of a text the longest string of the table that begins there is
replaced, and user-defined pieces stay as they are. `tokenizers.normalizers.Precompiled` reads the same table and
differs from SentencePiece where marks combine: it looks up whole graphemes and takes the shortest match, so that ộ as
three characters loses a mark. Not here: the rules around it (`tokenizer_bilingual`).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_CHARACTERS = 64
"""Characters of one string of a table; those of SentencePiece's own tables have at most four."""


class Charsmap:
    """A compiled table of SentencePiece, and the pieces that it leaves alone.

    The table is a double array (Yata's darts-clone) and the replacements, each ended by a zero byte.
    """

    def __init__(self, compiled: bytes, pieces: Iterable[str] = ()) -> None:
        """compiled: `precompiled_charsmap` of a normaliser. pieces: the user-defined ones. Raises `ValueError` when the
        bytes are something else."""
        size = struct.unpack_from("<I", compiled)[0] if len(compiled) >= 4 else 0
        if size % 4 or size > len(compiled) - 4 or (compiled and not size):
            raise ValueError("a table that is cut short")
        units = np.frombuffer(compiled, "<u4", size // 4, min(4, len(compiled)))
        self._units: list[int] = units.tolist()
        self._texts = compiled[4 + size :]
        self._runs: dict[str, list[tuple[int, str]]] = {}
        begin, go_on = _characters(units) if size else (set[str](), set[str]())
        single = {character for character in begin if self._longest(character, 0)[0]}
        self._single = {character: self._longest(character, 0)[1] for character in single}
        first = {character for character in begin if self._continues(character)}
        choices = [re.escape(piece) for piece in sorted(pieces, key=lambda piece: (-len(piece), piece))]
        # Strings of several characters lie within runs of a character that begins one and characters that continue one.
        self._pattern = re.compile(
            f"({'|'.join(choices) or NOTHING})|({_class(first)}{_class(go_on)}+)|{_class(single)}"
        )

    def normalize(self, text: str) -> str:
        """Return a text with the table applied."""
        single = self._single

        def replaced(match: re.Match[str]) -> str:
            if match.lastindex is None:
                return single[match[0]]
            return match[0] if match.lastindex == 1 else "".join([new for _, new in self._run(match[0])])

        return self._pattern.sub(replaced, text)

    def parts(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Yield the text in parts: (first character, one past the last, their replacement)."""
        at = 0
        for match in self._pattern.finditer(text):
            yield from ((place, place + 1, text[place]) for place in range(at, match.start()))
            at = match.start()
            if match.lastindex == 2:
                for length, new in self._run(match[0]):
                    yield at, at + length, new
                    at += length
            else:
                yield at, match.end(), match[0] if match.lastindex == 1 else self._single[match[0]]
                at = match.end()
        yield from ((place, place + 1, text[place]) for place in range(at, len(text)))

    def _run(self, text: str) -> list[tuple[int, str]]:
        """Return (characters, their replacement) for a run that strings of several characters may begin in."""
        known = self._runs.get(text)
        if known is not None:
            return known
        out, at = [], 0
        while at < len(text):
            length, new = self._longest(text, at)
            out.append((length, new) if length else (1, text[at]))
            at += length or 1
        if len(text) <= 8 and len(self._runs) < 100_000:
            self._runs[text] = out
        return out

    def _longest(self, text: str, at: int) -> tuple[int, str]:
        """Return (characters, replacement) of the longest string of the table that begins at a place of the text; 0
        characters where there is none."""
        units, length, start = self._units, 0, 0
        node = _offset(units[0])
        for count, character in enumerate(text[at : at + _MOST_CHARACTERS], 1):
            for byte in character.encode():
                node ^= byte
                unit = units[node] if node < len(units) else 0
                if unit & 0x800000FF != byte:
                    node = -1
                    break
                node ^= _offset(unit)
            if node < 0:
                break
            if unit >> 8 & 1 and node < len(units):
                length, start = count, units[node] & 0x7FFFFFFF
        return length, self._texts[start : self._texts.find(b"\0", start)].decode("utf-8", "replace") if length else ""

    def _continues(self, character: str) -> bool:
        """Return whether a longer string of the table begins with this character."""
        node = _offset(self._units[0])
        for byte in character.encode():
            node ^= byte
            node ^= _offset(self._units[node])
        children = [node ^ byte for byte in range(1, 256)]
        return any(c < len(self._units) and self._units[c] & 0x800000FF == node ^ c for c in children)


def _characters(units: NDArray[np.uint32]) -> tuple[set[str], set[str]]:
    """Return the characters that strings of a double array begin with, and those that follow others in them."""
    table = units.astype(np.int64)
    levels: list[set[str]] = []
    nodes = _offset(table[:1])
    while len(nodes) and len(levels) < _MOST_CHARACTERS:
        characters: set[str] = set()
        ends = []
        codes = np.zeros(len(nodes), np.int64)
        for width in range(1, 5):
            children = nodes[:, None] ^ _LABELS
            values = table[np.where(children < len(table), children, 0)]
            rows, columns = np.nonzero((children < len(table)) & ((values & 0x800000FF) == _LABELS))
            codes = codes[rows] << 8 | _LABELS[columns]
            nodes = children[rows, columns] ^ _offset(values[rows, columns])
            lead = codes >> 8 * (width - 1)
            whole = np.select([lead < 0x80, lead < 0xE0, lead < 0xF0], [1, 2, 3], 4) == width
            names = [int(code).to_bytes(width, "big") for code in np.unique(codes[whole])]
            characters.update(name.decode("utf-8") for name in names)
            ends.append(nodes[whole])
            nodes, codes = nodes[~whole], codes[~whole]
        levels.append(characters)
        nodes = np.unique(np.concatenate(ends))
    return levels[0], set[str]().union(*levels[1:])


_LABELS = np.arange(1, 256)


def _offset(unit: Any) -> Any:
    """Return the distance to the children of a unit of a double array, or of many."""
    return (unit >> 10 & 0x1FFFFF) << ((unit & 0x200) >> 6)


NOTHING = "(?!)"
"""A regular expression that matches nothing."""


def _class(characters: Iterable[str]) -> str:
    """Return a character class of a regular expression."""
    ranges: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    if not ranges:
        return NOTHING
    return "[" + "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in ranges) + "]"
