"""Damage to bytes: what disks, networks, editors and hostile people do to a file, drawn from a seeded generator."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

ODD: tuple[bytes, ...] = (
    b"", b"\0", b"\xff", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\xbd", b"\\ud83d", b"\\u0000", b"\r",
    b"\r\n", b"\n\n", b"\t", b"\x1b[31m", b"\xe2\x80\xae", b"\xe2\x80\xa8", b"null", b"true", b"NaN", b"-Infinity",
    b"1e999", b"-1", b"0", b"1.5", b"9" * 5000, b"2147483648", b"18446744073709551616", b"[]", b"{}", b'""', b"[[[[",
    b"{" * 2000, b"[" * 2000, b'{"a":' * 1000, b'"', b"'", b",", b";", b"|", b"<", b">", b"<ref>", b"<nowiki>", b"{{",
    b"[[", b"'''''", b"[http://", b"&amp;", b"&#xD800;", b"<!--", b"<page>", b"</page>", b"[MASK]", b"[MASK:", b"../",
    b"/etc/passwd", b"*a", b"&a", b"!!python/name:os.system", b"{name}", b"{0.__class__}", b"||", b"%s", b"-DOCSTART-",
    b"# ", b"\xe2\x80\x8b", b"\xcc\x81" * 500, b"a" * 3000, b" " * 3000, b"\xe4\xb8\xad\xe6\x96\x87", b"PK\x03\x04",
    b"\x1f\x8b\x08", b"BZh91AY&SY", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PAR1", b"MMIDIDX\0\0",
)  # fmt: skip
"""Pieces that readers were seen to stumble over."""


def mutations(seeds: Sequence[bytes], count: int, generator: random.Random) -> Iterator[bytes]:
    """Yield `count` damaged forms of the seeds, the seeds themselves and the odd pieces alone first."""
    for index in range(count):
        if index < len(seeds):
            yield seeds[index]
            continue
        if index < len(seeds) + len(ODD) and generator.random() < 0.3:
            yield ODD[index - len(seeds)]
            continue
        data = generator.choice(seeds)
        for _ in range(generator.choice((1, 1, 1, 2, 3, 8))):
            data = damaged(data, seeds, generator)
        yield data[: 1 << 20]


def damaged(data: bytes, seeds: Sequence[bytes], generator: random.Random) -> bytes:
    """One piece of damage: a cut, a flipped bit, a piece put in, repeated, moved or taken out, or another's end."""
    kind = generator.randrange(9)
    begin = generator.randrange(len(data) + 1)
    end = min(len(data), begin + generator.choice((1, 1, 2, 4, 16, 64, 512)))
    if kind == 0:
        return data[:begin]
    if kind == 1 and data:
        place = min(begin, len(data) - 1)
        return data[:place] + bytes([data[place] ^ (1 << generator.randrange(8))]) + data[place + 1 :]
    if kind == 2:
        return data[:begin] + data[end:]
    if kind == 3:
        return data[:begin] + data[begin:end] * generator.choice((2, 3, 50, 300)) + data[end:]
    if kind == 4:
        other = generator.choice(seeds)
        return data[:begin] + other[generator.randrange(len(other) + 1) :]
    if kind == 5:
        return data[:begin] + bytes(generator.randrange(256) for _ in range(end - begin)) + data[end:]
    if kind == 6:
        return data[:begin] + bytes(end - begin) + data[end:]
    return data[:begin] + generator.choice(ODD) + data[end if kind == 7 else begin :]
