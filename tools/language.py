"""Checks the words of our prose: docstrings, comments, messages, help and pages, and the names of local variables.

`python tools/language.py [PATH ...]` prints `file:line: phrase → better word` and exits with 1 if there is any. What is
right and wrong about a sentence as a whole stays with its reader; only phrases that are never right here are listed.
Test data is not prose: strings in `tests/` and `bench/` are skipped unless they are docstrings, and so are code spans
and code blocks of pages. Files that are still to be rewritten are named in `language_pending.txt`, a path or folder on
each line. An entry whose files are clean is an error too, so the list can only shrink.
"""

import ast
import bisect
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PENDING = Path(__file__).with_name("language_pending.txt")
PROSE = ("README.md", "CONTRIBUTING.md", "docs", "src", "tests", "bench", "tools")
SKIPPED = ("docs/_build", "docs/log.md", "tools/language.py", "tests/test_language.py")
"""Built pages; the log, whose entries stay as they were written; and the two files that quote the phrases."""

PHRASES = {
    r"told(?! apart)": "given, said, or the name of what is passed",
    r"tell it(?! apart)": "pass it, set it",
    r"asked": "requested, predicted, queried",
    r"so many(?! \w+ that)": "the number of, N, this many",
    r"go(?:es|ing)? on|went on": "continue, resume",
    r"(?:is|are|was|were) none of": "is not one of, is not a",
    r"what stands": "the value, the text, what is",
    r"stands? there": "is there",
    r"and it is(?! not)": "a sentence of its own",
    r"parted": "split, separated",
    r"rehears(?:e|es|ed|al|als)": "timing run, timing",
    r"plainest": "baseline",
    r"where(?:from|to|of|upon)|there(?:of|upon)": "from which, to which",
}
"""What is not written here, and what is written in its place. Patterns match whole words in any case."""

LOCALS = {
    "found": "result, matches, problems: what it is",
    "one": "what it is one of",
    "kept": "what it keeps: rows, lines, documents",
    "asked": "requested, targets, queries",
    "told": "message, given, or what was passed",
}
"""Names of local variables and parameters that say nothing about what they hold."""

PATTERN = re.compile("|".join(rf"(?P<p{i}>\b(?:{p})\b)".replace(" ", r"\s+") for i, p in enumerate(PHRASES)), re.I)
SUGGESTIONS = list(PHRASES.values())
LOOSE = re.compile("|".join(rf"\b(?:{p})\b" for p in PHRASES).replace(" ", r"\W+(?:\w{1,2}['\"]\W*)?"), re.I)
"""Finds every phrase in a file as it is, also where a quote, a `#` or a line end divides its words: most files have
none and need not be taken apart."""
BOUND = re.compile(rf"\b(?:{'|'.join(LOCALS)})(?:\s+in\b|\s*(?![\w\s.(\[`'\"]))")
"""Finds every place where a listed name may get a value: no other name, call, index or attribute follows it."""


@dataclass(frozen=True, order=True)
class Finding:
    """A phrase that should not be there. path: relative to the checkout, with slashes. line: counted from 1."""

    path: str
    line: int
    phrase: str
    suggestion: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.phrase} → {self.suggestion}"


Prose = list[tuple[int, str]]
"""Lines or strings that are read as one text, each with the number of its first line."""


def search(prose: Prose) -> Iterator[tuple[int, str, str]]:
    """The line, phrase and suggestion of each listed phrase, also of those that run over a line end."""
    starts, text = [], ""
    for _, piece in prose:
        starts.append(len(text))
        text += piece
    for match in PATTERN.finditer(text):
        piece = bisect.bisect_right(starts, match.start()) - 1
        line = prose[piece][0] + text.count("\n", starts[piece], match.start())
        yield line, " ".join(match.group().split()), SUGGESTIONS[int((match.lastgroup or "p0")[1:])]


def prose_of_page(text: str) -> list[Prose]:
    """The paragraphs of a Markdown page, without code blocks and code spans."""
    paragraphs: list[Prose] = [[]]
    fence = ""
    for number, line in enumerate(text.split("\n"), 1):
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        if mark and not fence:
            fence = mark[1]
        elif fence:
            fence = "" if line.strip().startswith(fence) else fence
        elif line.strip():
            paragraphs[-1].append((number, line + "\n"))
            continue
        paragraphs.append([])
    return [without_code(paragraph) for paragraph in paragraphs if paragraph]


def without_code(paragraph: Prose) -> Prose:
    """The paragraph with `~` for each character of a code span; line ends stay."""
    text = re.sub(r"`[^`]*`", blanked, "".join(line for _, line in paragraph))
    return [(number, line) for (number, _), line in zip(paragraph, text.splitlines(keepends=True), strict=True)]


def blanked(match: re.Match[str]) -> str:
    """As many `~` as the match has characters; line ends stay."""
    return re.sub(r"[^\n]", "~", match.group())


def prose_of_code(text: str, strings: bool) -> list[Prose]:
    """The docstrings and comments of a Python file, and with `strings` its string literals of three words or more.

    Literals that Python joins, and comments on lines that follow each other, are read as one text.
    """
    docstrings = {
        (node.value.lineno, node.value.col_offset)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    middle = getattr(tokenize, "FSTRING_MIDDLE", None)  # from Python 3.12 on, f-strings come in pieces
    layout = {tokenize.NL, *(getattr(tokenize, name, -1) for name in ("FSTRING_START", "FSTRING_END"))}
    groups: list[tuple[str, Prose]] = []
    previous, depth = "", 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind, piece = "", token.string
        if token.type == tokenize.COMMENT:
            kind, piece = "comment", piece.lstrip("#") + "\n"
        elif token.type in (tokenize.STRING, middle):
            kind = "docstring" if token.start in docstrings else "string"
            prefix = re.match(r"[a-zA-Z]*", piece) if token.type == tokenize.STRING else None
            if prefix and "f" in prefix[0].lower():
                piece = re.sub(r"\{[^{}]*\}", blanked, piece)
            piece = re.sub(r"`[^`]*`", blanked, re.sub(r"(^[a-zA-Z]*['\"]+)|(['\"]+$)", "", piece))
        elif token.type in layout or depth:
            pass
        else:
            previous = ""
        if token.type == getattr(tokenize, "FSTRING_START", -1):
            depth += 1
        elif token.type == getattr(tokenize, "FSTRING_END", -1):
            depth -= 1
        if kind:
            if kind != previous:
                groups.append((kind, []))
            groups[-1][1].append((token.start[0], piece))
            previous = kind
    return [
        prose
        for kind, prose in groups
        if kind != "string" or (strings and sum(piece.count(" ") for _, piece in prose) >= 2)
    ]


def local_names(text: str) -> Iterator[tuple[int, str, str]]:
    """The listed names that a Python file gives to variables and parameters of functions."""
    waiting: list[tuple[ast.AST, bool]] = [(ast.parse(text), False)] if BOUND.search(text) else []
    while waiting:
        node, inside = waiting.pop()
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if inside and isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in LOCALS:
            yield node.lineno, node.id, LOCALS[node.id]
        elif isinstance(node, ast.arg) and node.arg in LOCALS:
            yield node.lineno, node.arg, LOCALS[node.arg]
        waiting += [(child, inside) for child in ast.iter_child_nodes(node)]


def check(path: Path, root: Path = ROOT) -> list[Finding]:
    """The findings of a file, by line."""
    name = path.relative_to(root).as_posix()
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        groups = prose_of_page(text)
    elif path.suffix == ".py":
        groups = prose_of_code(text, strings=not name.startswith(("tests/", "bench/"))) if LOOSE.search(text) else []
    else:
        groups = [[(n, line.partition("#")[2] + "\n") for n, line in enumerate(text.split("\n"), 1)]]
    results = {Finding(name, *hit) for prose in groups for hit in search(prose)}
    if path.suffix == ".py":
        results |= {Finding(name, line, f"local name {word}", better) for line, word, better in local_names(text)}
    return sorted(results)


def files(places: Sequence[Path], root: Path = ROOT) -> list[Path]:
    """The Python files, pages and YAML files at and below these places, without those that are skipped."""
    paths = [p for place in places for p in (sorted(place.rglob("*")) if place.is_dir() else [place])]
    return [
        path
        for path in paths
        if path.suffix in (".py", ".md", ".yaml") and not covers(SKIPPED, path.relative_to(root).as_posix())
    ]


def covers(entries: Sequence[str], name: str) -> bool:
    """Whether an entry is this file or a folder above it."""
    return any(name == entry or name.startswith(entry + "/") for entry in entries)


def pending(file: Path = PENDING) -> list[str]:
    """The files and folders that are still to be rewritten, relative to the checkout."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [line.partition("#")[0].strip().rstrip("/") for line in lines if line.partition("#")[0].strip()]


def report(findings: Sequence[Finding], entries: Sequence[str]) -> list[str]:
    """What to print: findings outside the pending files, then the entries whose files have no finding."""
    lines = [str(finding) for finding in findings if not covers(entries, finding.path)]
    for entry in entries:
        if not any(covers([entry], finding.path) for finding in findings):
            lines.append(f"{PENDING.name}: {entry} is clean; remove this entry")
    return lines


def main(arguments: Sequence[str]) -> int:
    """Check the named files, or everything; pending entries count only when everything is checked."""
    places = [Path(argument).resolve() for argument in arguments] or [ROOT / name for name in PROSE]
    root = ROOT if all(place.is_relative_to(ROOT) for place in places) else Path(places[0].anchor)
    findings = [finding for path in files(places, root) for finding in check(path, root)]
    lines = [str(finding) for finding in findings] if arguments else report(findings, pending())
    if lines:
        print("\n".join(lines))
    return 1 if lines else 0


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    sys.exit(main(sys.argv[1:]))
