"""The three stages of `prepare` that run in worker processes: extract, sketch (near duplicates only), encode.

Each stage is a function of one picklable task, touches only files under its own prefix, and writes its marker last, so
a stage is resumed by running the tasks that have no marker. Not here: the order of the stages (`prepare`), and the
decisions between them (`decide`).

How a corpus is split. A document goes to validation when the hash of its text falls below the requested share, so it
stays in its split when files are added, renamed or reordered. A long document (a book) is cut into sections and each
section is assigned by its own hash. The cuts are chosen by content, as in backup programs (Muthitacharoen et al. 2001):
a section ends at a paragraph whose checksum is small, so two editions of a book that differ in the preface are cut at
the same places from there on, and equal sections are in the same split. Consecutive sections of one split stay one
document.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from blankfill.corpus.indexed import IndexedWriter, path_of, token_dtype
from blankfill.corpus.markers import write_marker
from blankfill.corpus.shards import FILES, SHARD_BYTES, Shard, ShardWriter, starts_of
from blankfill.errors import template_of

if TYPE_CHECKING:
    from blankfill.corpus.sources import Source, SourceOptions
    from blankfill.corpus.tokenizer import Tokenizer

DROP, TRAIN, VALID, SECTIONS = 0, 1, 2, 3
SIDES = {TRAIN: "train", VALID: "valid"}
LONG_BYTES = 32_768
SECTION_MIN, SECTION_MAX = 4_096, 16_384
BATCH_CHARACTERS = 1 << 19
CHUNK_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class ExtractTask:
    """Sources to clean into the shards `prefix-000`, `prefix-001`, …; `paths[i]` numbers the file of `sources[i]`."""

    prefix: Path
    sources: tuple[Source, ...]
    paths: tuple[int, ...]
    options: SourceOptions
    size: int


def extract(task: ExtractTask) -> dict[str, Any]:
    """Clean the sources of a task into text shards. Returns and writes to `prefix.json`: bytes of text in each, what
    was read, notes about tables, and a line about each file of a folder that could not be read."""
    from blankfill.corpus.inventory import Tally
    from blankfill.corpus.sentences import split_sentences
    from blankfill.corpus.sources import read_if_possible

    shards: list[int] = []
    skipped: list[str] = []
    notes: list[str] = []
    tallies: list[dict[str, Any]] = []
    writer: ShardWriter | None = None
    try:
        for source, path in zip(task.sources, task.paths, strict=True):
            continues, document = source.continues, None
            tally = Tally(source)
            for document in read_if_possible(source, task.options, skipped):
                writer = writer or ShardWriter(path_of(task.prefix, f"-{len(shards):04}"))
                writer.begin(path, document.name, continues)
                characters = 0
                for paragraph in document.paragraphs:
                    if sentences := [sentence for sentence in split_sentences(paragraph) if sentence]:
                        writer.add_paragraph(sentences)
                        characters += sum(map(len, sentences))
                    if writer.bytes >= SHARD_BYTES:
                        writer.end()
                        writer.finish()
                        shards.append(writer.bytes)
                        writer = ShardWriter(path_of(task.prefix, f"-{len(shards):04}"))
                        writer.begin(path, document.name, True)
                writer.end()
                tally.add(document, characters, continues)
                continues = False
            tallies.append(tally.values())
            notes += document.notes if document is not None else ()
        if writer is not None:
            writer.finish()
            shards.append(writer.bytes)
    except BaseException:
        if writer is not None:
            writer.close()
        raise
    made = [path_of(path_of(task.prefix, f"-{number:04}"), name) for number in range(len(shards)) for name in FILES]
    values = {
        "shards": shards,
        "read": tallies,
        "skipped": list(map(template_of, skipped)),
        "notes": list(map(template_of, notes)),
    }
    return write_marker(task.prefix, values, made)


@dataclass(frozen=True)
class SketchTask:
    """A shard in which to search for near duplicates. With `wanted` None, the signatures of its parts are written to
    `prefix.npy`. Otherwise, for each (part, modulus), the shingles that the modulus divides are written to `prefix.npz`
    under the number of the part: a sample for very long texts.
    """

    shard: Path
    prefix: Path
    wanted: tuple[tuple[int, int], ...] | None
    size: int


def sketch(task: SketchTask) -> dict[str, int]:
    """Write the signatures or the shingles of the parts of one shard."""
    from blankfill.corpus.dedup import BANDS, ROWS, shingles, signatures

    shard = Shard(task.shard)
    if task.wanted is not None:
        moduli = dict(task.wanted)
        chosen: dict[str, Any] = {}
        for part, text in _part_texts(shard, moduli.keys()):
            hashes = shingles(text)
            hashes = hashes[hashes % np.uint64(moduli[part]) == 0]
            chosen[str(part)] = np.union1d(chosen[str(part)], hashes) if str(part) in chosen else hashes
        made = path_of(task.prefix, ".npz")
        with open(made, "wb") as file:
            np.savez(file, **chosen)
        return write_marker(task.prefix, {"parts": len(chosen)}, [made])
    rows = np.full((len(shard), BANDS * ROWS), np.iinfo(np.uint32).max, np.uint32)
    sets, parts = [], []
    for part, text in _part_texts(shard, range(len(shard))):
        sets.append(shingles(text))
        parts.append(part)
        if len(sets) == 256:
            np.minimum.at(rows, parts, signatures(sets))
            sets, parts = [], []
    np.minimum.at(rows, parts, signatures(sets))
    made = path_of(task.prefix, ".npy")
    np.save(made, rows)
    return write_marker(task.prefix, {"parts": len(shard)}, [made])


def _part_texts(shard: Shard, chosen: Container[int]) -> Iterator[tuple[int, str]]:
    """Yield the text of each chosen part, about a megabyte at a time."""
    paragraphs = shard.text()
    for part, count in enumerate(shard.paragraphs.tolist()):
        pieces: list[str] = []
        size = 0
        for _ in range(count):
            sentences = next(paragraphs)[1]
            if part in chosen:
                pieces.extend(sentences)
                size += sum(map(len, sentences))
                if size >= CHUNK_CHARACTERS:
                    yield part, " ".join(pieces)
                    pieces, size = [], 0
        if pieces:
            yield part, " ".join(pieces)


@dataclass(frozen=True)
class EncodeTask:
    """A text shard to turn into token shards `prefix.train` and `prefix.valid` (`.bin` + `.idx`).

    actions: file with the action for each part, uint8[P]. skip: file with the paragraphs to leave out (int64, sorted),
    or None. validation: share of the sections that goes to validation.
    """

    shard: Path
    prefix: Path
    actions: Path
    skip: Path | None
    tokenizer: Path
    validation: float
    size: int


def encode(task: EncodeTask) -> dict[str, Any]:
    """Tokenise one shard. Returns and writes: counts by split, and what joining it with its neighbours needs.

    first: the split (1 train, 2 validation) of the first piece of a document that may have begun in the previous shard.
    last: the split of the last piece of the shard's last document. Both are 0 when there is no such piece; `last` is -1
    when the whole shard is one document that began earlier and left no piece.
    """
    shard, (tokenizer, fuses) = Shard(task.shard), _tokenizer(task.tokenizer)
    skipped = frozenset(np.load(task.skip).tolist()) if task.skip else frozenset()
    out = _Encoder(task, tokenizer)
    try:
        counts = _encode_parts(task, shard, skipped, fuses, out)
        out.finish()
    except BaseException:
        out.abandon()
        raise
    made = [path_of(task.prefix, f".{name}{suffix}") for name in SIDES.values() for suffix in (".bin", ".idx")]
    return write_marker(task.prefix, {
        "first": out.first,
        "last": -1 if out.leading and counts["seen"] == 1 and not out.last else out.last,
        "documents": {name: out.writers[side].documents for side, name in SIDES.items()},
        "characters": {name: out.characters[side] for side, name in SIDES.items()},
        "dropped_paragraphs": counts["dropped_paragraphs"], "emptied": counts["emptied"],
    }, made)  # fmt: skip


def _encode_parts(
    task: EncodeTask, shard: Shard, skipped: frozenset[int], fuses: bool, out: _Encoder
) -> dict[str, int]:
    """Pass all kept text of a shard to `out`; return the number of documents and counts of what was left out."""
    sections = _Sections(task.validation)
    dropped_paragraphs = emptied = kept_count = seen = 0
    paragraphs = shard.text()
    fresh = starts_of(shard, None).tolist()
    actions = np.load(task.actions).tolist()
    for part, (count, action) in enumerate(zip(shard.paragraphs.tolist(), actions, strict=True)):
        if fresh[part]:
            kept_count, seen = 0, seen + 1
            out.begin(leading=part == 0 and bool(shard.continues[0]))
        for _ in range(count):
            number, sentences = next(paragraphs)
            if action == DROP:
                continue
            if number in skipped:
                dropped_paragraphs += 1
                continue
            kept_count += 1
            if fuses:
                sentences = _spaced(sentences)
            if action == SECTIONS:
                for side, section in sections.add(sentences):
                    out.add(side, section)
            else:
                out.add(action, sentences)
        ends = part + 1 == len(fresh) or fresh[part + 1]
        if ends and action == SECTIONS:
            for side, section in sections.finish():
                out.add(side, section)
        emptied += ends and action != DROP and not kept_count and not (seen == 1 and out.leading)
    return {"seen": seen, "dropped_paragraphs": dropped_paragraphs, "emptied": emptied}


class _Sections:
    """Cuts one long document into sections and assigns each to a split; buffers at most two sections."""

    def __init__(self, validation: float) -> None:
        self.validation = validation
        self.held: list[str] = []
        self.open: list[str] = []
        self.size = 0

    def add(self, sentences: list[str]) -> Iterator[tuple[int, list[str]]]:
        """Add a paragraph; return the section that this paragraph completes, if any."""
        data = "\n".join(map(str.strip, sentences)).encode("utf-8", "replace")
        self.open.extend(sentences)
        self.size += len(data)
        # The probability of a cut is proportional to the paragraph's length: sections average about 8 kB of any prose.
        anchor = crc32(data) * SECTION_MIN < len(data) << 32
        if self.size >= SECTION_MAX or (self.size >= SECTION_MIN and anchor):
            if self.held:
                yield self._assigned(self.held)
            self.held, self.open, self.size = self.open, [], 0

    def finish(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the remaining sections (a short tail joins the section before it) and reset for the next document."""
        if self.held and self.size < SECTION_MIN // 2:
            self.held.extend(self.open)
            self.open = []
        for section in (self.held, self.open):
            if section:
                yield self._assigned(section)
        self.held, self.open, self.size = [], [], 0

    def _assigned(self, section: list[str]) -> tuple[int, list[str]]:
        # White space that a tokenizer needs must not move a section to the other split.
        text = "\n".join(map(str.strip, section))
        digest = blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
        return (VALID if int.from_bytes(digest, "little") < self.validation * 2.0**64 else TRAIN), section


@dataclass
class _Encoder:
    """Collects pieces of documents into batches for the tokenizer and routes their tokens to the two writers."""

    task: EncodeTask
    tokenizer: Tokenizer
    writers: dict[int, IndexedWriter] = field(init=False)
    characters: dict[int, int] = field(default_factory=lambda: {TRAIN: 0, VALID: 0})
    first: int = 0
    last: int = 0
    leading: bool = False

    def __post_init__(self) -> None:
        dtype = token_dtype(self.tokenizer.size)
        self.writers = {side: IndexedWriter(path_of(self.task.prefix, f".{name}"), dtype, synced=False)
                        for side, name in SIDES.items()}  # fmt: skip
        self._sentences: list[str] = []
        self._pieces: list[tuple[int, int, bool]] = []
        self._size = 0
        self._at_first = False

    def begin(self, leading: bool) -> None:
        """Begin a document. leading: it is the first of the shard and may have begun in another."""
        self.last = 0
        self.leading = self.leading or leading
        self._at_first = leading

    def add(self, side: int, sentences: list[str]) -> None:
        """Add sentences of the open part to one split; they continue its last piece, if that was in the same split."""
        if self._at_first:
            self.first = side
        if side != self.last and sentences[0][:1].isspace() and not self._at_first:
            sentences = [sentences[0].lstrip(), *sentences[1:]]
        self._pieces.append((side, len(sentences), side == self.last))
        self.last = side
        self._sentences.extend(sentences)
        self._at_first = False
        size = sum(map(len, sentences))
        self.characters[side] += size
        self._size += size
        if self._size >= BATCH_CHARACTERS:
            self._flush()

    def finish(self) -> None:
        """Encode the rest and close both token files."""
        self._flush()
        for writer in self.writers.values():
            writer.finish()

    def abandon(self) -> None:
        """Abandon both token files after an exception."""
        for writer in self.writers.values():
            writer.abandon()

    def _flush(self) -> None:
        if not self._sentences:
            return
        counts = np.array([count for _, count, _ in self._pieces])
        begins = np.zeros(len(self._sentences), np.bool_)
        begins[np.cumsum(counts) - counts] = [not joins for _, _, joins in self._pieces]
        # Only a sentence that continues a text begins with white space, which the first of a shard may do as well.
        continues = [not start or text[:1].isspace() for start, text in zip(begins, self._sentences, strict=True)]
        ids, lengths = self.tokenizer.encode_plain(self._sentences, continues)
        sides = np.array([side for side, _, _ in self._pieces])
        sentence_side = np.repeat(sides, counts)
        token_side = np.repeat(sentence_side, lengths)
        for side, writer in self.writers.items():
            documents: list[int] = []
            joined = False
            for piece_side, count, joins in self._pieces:
                if piece_side != side:
                    continue
                if joins and documents:
                    documents[-1] += count
                else:
                    joined = joined or (joins and not documents)
                    documents.append(count)
            if documents:
                writer.add_documents(ids[token_side == side], lengths[sentence_side == side], documents, join=joined)
        self._sentences, self._pieces, self._size = [], [], 0


@lru_cache(maxsize=1)
def _tokenizer(path: Path) -> tuple[Tokenizer, bool]:
    """Return the tokenizer, and whether separately encoded sentences need the white space between them, as with GPT-2's
    and ChatGLM's."""
    from blankfill.corpus.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(path)
    continues = (False, True)
    fused = tokenizer.decode(tokenizer.encode_plain(["a", "b"], continues)[0].tolist())
    spaced = tokenizer.decode(tokenizer.encode_plain(["a", " b"], continues)[0].tolist())
    return tokenizer, fused.strip() == "ab" and spaced.strip() == "a b"


def _spaced(sentences: Sequence[str]) -> list[str]:
    """Return a paragraph's sentences with the white space before each: a new line, a space, or, beside a Chinese or
    Japanese character or mark, nothing."""
    out = ["\n" + sentences[0]]
    for before, sentence in pairwise(sentences):
        out.append(sentence if before[-1] >= "\u2e80" or sentence[0] >= "\u2e80" else " " + sentence)
    return out
