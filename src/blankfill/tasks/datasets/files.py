"""Rows of the original files of tasks: the file of a split, its lines, literal TSV, JSON Lines, one JSON object.

TSV files of benchmarks quote no field: a quotation mark is a character of the text, and only tabs separate cells.
Faulty rows go to a `Faults`, which tolerates a few (QQP as published has some) and refuses a file that is full of them.
Not here: tables of the user, whose fields may be quoted (`tables`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from blankfill.corpus.archives import DAMAGES, check_directory
from blankfill.corpus.compression import SUFFIXES, compression_of
from blankfill.corpus.decoding import lines, read_text
from blankfill.corpus.encodings import decide_encoding
from blankfill.corpus.limits import LARGEST_DOCUMENT, too_long
from blankfill.errors import UserError
from blankfill.system import console
from blankfill.system.reading import parse_json, readable, regular_size
from blankfill.tasks.items import Item, Split, duplicate_ids, listed

T = TypeVar("T")

TOLERATED = 0.01
"""Share of a file's rows that may be faulty before the file is refused."""


def find_file(path: Path, folders: Sequence[str], names: Sequence[str], what: str) -> Path:
    """Return the file of a split: `path` itself if it is a file, else the first of `names` (patterns of pathlib's glob;
    a compression's suffix may follow) in the folder or in one of its `folders`.

    what: the split and task, for the message. Raises UserError that lists the expected names.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path} does not exist: give the folder, or the file, that holds the {what}.")
    places = [path, *(path / folder for folder in folders)]
    for name in names:
        for place in places:
            for suffix in ("", ".zip", *SUFFIXES):
                matches = sorted(place.glob(name + suffix))
                if matches:
                    return matches[0]
    where = " or ".join(str(place) for place in places)
    raise UserError(f"{where} has no {what}: looked for {listed(names, 6)}{_instead(path, names)}.")


def _instead(folder: Path, names: Sequence[str]) -> str:
    """Return what else could be meant, for a message: files of the folder that have one of the expected suffixes."""
    suffixes = {Path(name).suffix for name in names}
    files = sorted(file.name for file in folder.iterdir() if file.suffix in suffixes and file.is_file())
    if not files:
        return ""
    return f"; it holds {listed(files, 6)}: rename one, or give the file itself instead of the folder"


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file of text, compressed or not, cut at line feeds only and without a carriage return; a
    guessed encoding and damaged bytes are reported."""
    for line in lines(text_pieces(path), str(path)):
        yield line.removesuffix("\r")


def text_pieces(path: Path) -> Iterator[str]:
    """Yield the text of a file, compressed or not, in pieces; a guessed encoding and damaged bytes are reported."""
    regular_size(path)
    compression = compression_of(path)
    changed = path.stat().st_mtime_ns
    yield from read_text(str(path), compression, _encoding(str(path), compression, changed))


@lru_cache(maxsize=64)
def _encoding(path: str, compression: str, changed: int) -> str:
    """Return the encoding of a file, decided and reported once for each change of the file."""
    encoding = decide_encoding(path, compression)
    for remark in encoding.remarks(path):
        console.say(f"Note: {console.worded(remark)}")
    return encoding.name


def tab_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number from 1, cells) for the lines of a TSV file that are not empty; quotation marks are text."""
    for number, line in enumerate(text_lines(path), 1):
        if line.strip():
            yield number, line.split("\t")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) for each line that is not empty; UserError for a line that is not a JSON
    object."""
    for number, line in enumerate(text_lines(path), 1):
        if not line.strip():
            continue
        yield number, parse_json(line, f"{path}, line {number}")


def json_document(path: Path) -> Any:
    """Return the value of a JSON file; a zip archive must hold one .json file.

    Raises UserError when it cannot be read, and for one of more than LARGEST_DOCUMENT characters (or bytes in a zip).
    """
    regular_size(path)
    with readable(path):
        packed = zipfile.is_zipfile(path)
    return parse_json(unzipped(path) if packed else joined_lines(path), path, object)


def joined_lines(path: Path) -> str:
    """Return the text of a file that is read as a whole; UserError when it has more than LARGEST_DOCUMENT
    characters."""
    lines: list[str] = []
    size = 0
    for line in text_lines(path):
        lines.append(line)
        size += len(line) + 1
        if size > LARGEST_DOCUMENT:
            raise too_long(str(path), LARGEST_DOCUMENT, "split it into several files")
    return "\n".join(lines)


def unzipped(path: Path) -> str:
    """Return the text of the one .json file in a zip archive, unpacked step by step, whatever size the archive claims.
    Raises UserError when the archive is damaged, encrypted or too large."""
    try:
        check_directory(path)
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".json") and "__MACOSX" not in name]
            if len(names) != 1:
                raise UserError(f"{path} holds {len(names)} .json files where one is wanted: unpack it, name the file.")
            if archive.getinfo(names[0]).flag_bits & 1:
                raise UserError(f"{path} is encrypted: unpack it with its password, and name the .json file.")
            with archive.open(names[0]) as member:
                data = member.read(LARGEST_DOCUMENT + 1)
    except DAMAGES as error:
        raise UserError(f"{path} is not a readable zip archive ({error}): copy or download it again.") from error
    if len(data) > LARGEST_DOCUMENT:
        raise too_long(f"{names[0]} in {path}", LARGEST_DOCUMENT, "unpack it and split it into several files", "bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{names[0]} in {path} is not UTF-8 (byte {error.start:,}): save it as UTF-8.") from error


class Faults:
    """Collects the faulty rows of one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: list[str] = []

    def add(self, line: int, what: str) -> None:
        """Record that a row is left out. what: such as "has 3 columns where 6 are wanted"."""
        self._found.append(f"line {line} {what}")

    def sentences(self, rows: int) -> list[str]:
        """Return one sentence about the rows that were left out, or none. Raises UserError when they are many of the
        file's `rows`, or when no row is left."""
        if not self._found:
            return []
        shown = "; ".join(self._found[:3])
        if len(self._found) > max(1, TOLERATED * rows) or len(self._found) >= rows:
            raise UserError(
                f"{self._path}: {len(self._found)} of {rows} rows cannot be used ({shown}): is this the right file?"
            )
        return [f"{self._path}: {len(self._found)} of {rows} rows left out: {shown}."]


def label_place(labels: Sequence[str], value: object) -> int | None:
    """Return the index of a label in the list of names, or None; JSON's true and false match "true" and "false"."""
    name = str(value).lower() if isinstance(value, bool) else str(value).strip()
    return labels.index(name) if name in labels else None


def wants(labels: Sequence[str]) -> str:
    """Return the known labels for a message."""
    return f"the labels are {listed(labels, 20)}"


class UnusableError(Exception):
    """A row cannot be used; the text says why, as in "has no 'premise'"."""


def read_objects(path: Path, labels: tuple[str, ...], build: Callable[[dict[str, Any]], Iterable[Item]]) -> Split:
    """Return a split from JSON Lines. build: an object → its items, or UnusableError. Raises UserError when many
    objects are unusable, or there are none.
    """
    items: list[Item] = []
    faults, count = Faults(path), 0
    for line, row in json_lines(path):
        count += 1
        try:
            items += build(row)
        except UnusableError as error:
            faults.add(line, str(error))
    if not count:
        raise UserError(f"{path} has no rows: copy or download it again.")
    return Split(items, labels, faults.sentences(count) + duplicate_ids(items, str(path)))


def text_of(row: Mapping[str, Any], key: str) -> str:
    """Return a field that must be a text. Raises UnusableError otherwise."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UnusableError(f"has no text {key!r}")
    return value.strip()


def part_of(row: Any, key: str, kind: type[T]) -> T:
    """Return a field that must be of a kind. Raises UnusableError otherwise."""
    value = row.get(key) if isinstance(row, Mapping) else None
    if not isinstance(value, kind):
        raise UnusableError(f"has no {key!r}")
    return value


def label_of(row: Mapping[str, Any], labels: Sequence[str], key: str = "label") -> int | None:
    """Return the index of a row's label, None for a row without one (a test set). Raises UnusableError for an unknown
    label."""
    value = row.get(key)
    if value is None or value == "":
        return None
    place = label_place(labels, value)
    if place is None:
        raise UnusableError(f"has the label {value!r} ({wants(labels)})")
    return place


def id_of(row: Mapping[str, Any], *keys: str) -> str:
    """Return the id of a row: the first of these fields that exists. Raises UnusableError when none does."""
    for key in keys:
        if row.get(key) is not None:
            return str(row[key])
    raise UnusableError(f"has no {keys[0]!r}")
