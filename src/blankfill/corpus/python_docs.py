"""The built-in corpus: the documentation of Python itself and of the installed packages.

With this corpus every command can be tried without data: the topics of `pydoc_data`, then the docstrings of the
standard library and of site-packages, read from source with `ast` and never imported. One document is one module. The
corpus is cut into shares that different processes can read: two of the standard library, two of the packages, each with
a budget of characters, so that the whole stays within `CAP_CHARS` and takes seconds. The result depends on the
installed packages, not on the time or the number of processes.

Docstrings are reduced to prose: doctests, literal blocks, tables, headings and code directives are dropped; field lists
and NumPy's and Google's parameter lists become "name (type): description."; inline markup loses its marks. A docstring
or long paragraph that repeats an earlier one of the same share is left out.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from blankfill.corpus.clean import characters

CAP_CHARS = 12_000_000
SHARES = 4
SHARE_SOURCE_BYTES = 16 << 20
"""Bytes of source that a share parses at most; parsing takes most of the time, at about 4 MB a second."""

_LARGEST_MODULE = 2 << 20
_LONG_PARAGRAPH = 60

_FIRST_PACKAGES = (
    "numpy", "scipy", "sklearn", "networkx", "matplotlib", "pandas", "statsmodels", "sympy", "skimage", "mpmath",
    "docutils", "sphinx", "jinja2", "attr", "hypothesis", "rich", "omegaconf", "psutil", "safetensors",
)  # fmt: skip
"""Packages with the most prose per parsed byte, read first; others follow by name, and `_LAST_PACKAGES` last."""

_LAST_PACKAGES = ("torch", "transformers", "torchgen", "caffe2", "triton")

_SKIPPED = frozenset(
    ("test", "tests", "testing", "_tests", "__pycache__", "_vendor", "vendored", "site-packages", "dist-packages",
     "idlelib", "lib2to3", "turtledemo", "ensurepip", "pydoc_data", "encodings", "blankfill", "pip", "setuptools")
)  # fmt: skip

_PROMPT = re.compile(r"\s*(?:>>>|\.\.\. |In \[\d+\]:|Out\[\d+\]:|\$ )")
_RULE = re.compile(r"\s*([=\-~^\"'*#+.:_`])\1{2,}\s*$")
_TABLE_RULE = re.compile(r"\s*(?:[=\-]{2,}(?:[ \t]+[=\-]{2,})+|\+[=\-+]{3,})\s*$")
_GRID_ROW = re.compile(r"\s*[|+].*[|+]\s*$")
_DIRECTIVE = re.compile(r"\s*\.\.\s+(?:([\w-]+(?::[\w-]+)?)::\s*(.*)|.*)$")
_TEXT_DIRECTIVES = frozenset(
    ("note", "warning", "versionadded", "versionchanged", "versionremoved", "deprecated", "seealso", "tip", "hint",
     "important", "caution", "attention", "danger", "error", "admonition", "topic", "sidebar")
)  # fmt: skip
_FIELD = re.compile(
    r":(param|parameter|arg|type|rtype|returns?|raises?|yields?|ivar|cvar|var|keyword|kwarg)\s*([^:]*):\s*(.*)"
)
_NUMPY_ITEM = re.compile(r"(\*{0,2}\w[\w.]*(?:, ?(?:\*{0,2}\w[\w.]*|\.\.\.))*) : (\S.*)$")
_SIGNATURE = re.compile(r"[\w.\[\], ]*\w\(.*\)(?:\s*->.*)?$")
_LETTERS = re.compile(r"[^\W\d_]+| ")
_NOT_PROSE = re.compile(r"::=|^[\w.*, ]+ : [\w.\[\], ]+$")
_BULLET = re.compile(r"(?:[-*•+]|\(?(?:\d{1,2}|[a-z#])[.)])\s+(?=\S)")
_ROLE = re.compile(r":(?:\w+:)?[\w-]+:`(~?)([^`<]*+)(<[^`>]*+>)?+`")
_LINK = re.compile(r"`([^`<>]++)<[^`>]++>`_{1,2}")
_LITERAL = re.compile(r"``([^`]+)``")
_TICKS = re.compile(r"`([^`\n]+)`_{0,2}")
_CITATION = re.compile(r"\s?\[[\w#*]+\]_")
_EMPHASIS = re.compile(r"(?<![\w*\\])(\*{1,2})(?=\S)([^*\n]+?)(?<=\S)\1(?![\w*])")


def budget(share: int) -> int:
    """Return the number of characters that a share may give."""
    return CAP_CHARS // 5 if share < 2 else CAP_CHARS * 3 // 10


def read_share(share: int, cap: int | None = None) -> Iterator[tuple[str, list[str]]]:
    """Yield (module's name, paragraphs) of share 0 … SHARES-1, up to `cap` characters (its `budget` by default)."""
    left = budget(share) if cap is None else cap
    bytes_left = SHARE_SOURCE_BYTES
    seen: set[bytes] = set()
    for name, size, texts in _texts(share):
        bytes_left -= size
        prose: list[str] = []
        for text in texts:
            if _is_new(text, seen):
                prose += [
                    paragraph
                    for paragraph in docstring_paragraphs(text)
                    if len(paragraph) < _LONG_PARAGRAPH or _is_new(paragraph, seen)
                ]
        left -= sum(map(len, prose))
        if prose:
            yield name, prose
        if left <= 0 or bytes_left <= 0:
            return


def _is_new(text: str, seen: set[bytes]) -> bool:
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    if digest in seen:
        return False
    seen.add(digest)
    return True


def _texts(share: int) -> Iterator[tuple[str, int, list[str]]]:
    """Yield (name, bytes of source, docstrings) of each module of a share."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    if share < 2:
        if share == 0:
            for topic, text in _topics(stdlib / "pydoc_data" / "topics.py"):
                yield f"python.topics.{topic}", len(text), [text]
        yield from _modules(stdlib, _units(stdlib)[share::2])
        return
    roots = dict.fromkeys(Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))
    units = {unit.stem: (root, unit) for root in reversed(roots) for unit in _units(root)}
    order = [name for name in _FIRST_PACKAGES if name in units]
    order += sorted(units.keys() - {*order, *_LAST_PACKAGES})
    order += [name for name in _LAST_PACKAGES if name in units]
    for name in order[share - 2 :: 2]:
        root, unit = units[name]
        yield from _modules(root, [unit])


def _topics(path: Path) -> Iterator[tuple[str, str]]:
    tree = _parsed(path)
    for statement in tree.body if tree else []:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            yield from sorted(ast.literal_eval(statement.value).items())


def _units(root: Path) -> list[Path]:
    """Return the modules and packages directly under a folder, sorted by name."""
    if not root.is_dir():
        return []
    return [
        path
        for path in sorted(root.iterdir(), key=lambda path: path.name)
        if path.stem not in _SKIPPED and path.stem.isidentifier() and (path.suffix == ".py" or path.is_dir())
    ]


def _modules(root: Path, units: list[Path]) -> Iterator[tuple[str, int, list[str]]]:
    for unit in units:
        for file in [unit] if unit.suffix == ".py" else _python_files(unit):
            parts = file.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield name, file.stat().st_size, docstrings(file)


def _python_files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("."))
        for name in sorted(files):
            if name.endswith(".py") and not name.startswith("test_") and name != "conftest.py":
                yield Path(parent) / name


def docstrings(path: Path) -> list[str]:
    """Return the docstrings of a Python file in the order of its lines; an empty list when this Python cannot parse
    it."""
    tree = _parsed(path)
    texts: list[str] = []
    pending: list[ast.AST] = [tree] if tree else []
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text:
                texts.append(text)
        # Only these fields hold statements, and only statements hold definitions.
        for field in ("finalbody", "orelse", "handlers", "body"):
            inner = getattr(node, field, None)
            if isinstance(inner, list):
                pending.extend(reversed(inner))
    return texts


def _parsed(path: Path) -> ast.Module | None:
    try:
        if path.stat().st_size > _LARGEST_MODULE:
            return None
        source = path.read_bytes()
        if b'"""' not in source and b"'''" not in source and path.name != "topics.py":
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def docstring_paragraphs(text: str) -> list[str]:
    """Return the prose of one docstring as clean paragraphs."""
    rows = inspect.cleandoc(characters(text)).expandtabs(4).split("\n")
    paragraphs: list[str] = []
    # The indentation of the last paragraph that ended in a colon: text indented under it is probably code.
    introduced: int | None = None
    for block in _prose_blocks(rows):
        paragraph = _inline(" ".join(row.strip() for row in block))
        indent = len(block[0]) - len(block[0].lstrip())
        if introduced is not None and indent > introduced and not _is_sentence(paragraph):
            continue
        introduced = indent if block[-1].rstrip().endswith(":") else None
        words = paragraph.count(" ")
        if words and len(_LETTERS.sub("", paragraph)) < 0.3 * len(paragraph) and not _NOT_PROSE.search(paragraph):
            paragraphs.append(paragraph)
    return paragraphs


def _prose_blocks(rows: list[str]) -> Iterator[list[str]]:
    """Group the lines of a docstring into paragraphs, leaving out all but prose."""
    block: list[str] = []
    # Lines indented deeper than this belong to a literal block or a directive that is left out.
    hidden: int | None = None
    after_blank = True
    table = False
    for index, row in enumerate(rows):
        plain = row.strip()
        indent = len(row) - len(row.lstrip())
        if not plain:
            if block:
                yield block
                if block[-1].rstrip().endswith("::"):
                    hidden = len(block[-1]) - len(block[-1].lstrip())
                block = []
            after_blank, table = True, table and index + 1 < len(rows) and bool(_TABLE_RULE.match(rows[index + 1]))
            continue
        if hidden is not None:
            if indent > hidden:
                continue
            hidden = None
        follower = rows[index + 1] if index + 1 < len(rows) else ""
        directive = _DIRECTIVE.match(row)
        starts_item = _BULLET.match(plain) or _FIELD.match(plain) or _NUMPY_ITEM.match(plain)
        if block and (starts_item or directive or _PROMPT.match(row) or _RULE.match(row) or _TABLE_RULE.match(row)):
            if not _RULE.match(row):
                yield block
            block = []
        if _PROMPT.match(row):
            # The output of the prompt ends at the next blank line.
            table = True
        elif _TABLE_RULE.match(row) or _GRID_ROW.match(row):
            table = True
        elif directive:
            name, argument = directive.group(1), directive.group(2)
            if name not in _TEXT_DIRECTIVES:
                hidden = indent
            elif argument and not re.fullmatch(r"[\d.v]+", argument):
                block = [argument]
        elif table or _is_heading(row, follower, after_blank, index == 0):
            pass
        else:
            item = _NUMPY_ITEM.match(plain)
            if item and follower[: indent + 1].isspace() and follower.strip():
                row = f"{item.group(1)} ({item.group(2).rstrip('.')}):"
            elif block and _is_google_item(plain, follower, indent, block):
                yield block
                block = []
            block.append(row)
        after_blank = False
    if block:
        yield block


def _is_heading(row: str, follower: str, after_blank: bool, first: bool) -> bool:
    """Return whether a line is an underline, an underlined title, a call signature by itself, or a title such as
    "Args:"."""
    plain, indent = row.strip(), len(row) - len(row.lstrip())
    if _RULE.match(row) or (_RULE.match(follower) and len(plain) < 80):
        return True
    if _SIGNATURE.match(plain):
        return after_blank and (first or not follower.strip())
    introduces = follower.strip() and follower[: indent + 1].isspace()
    return bool(introduces and re.fullmatch(r"[A-Z][A-Za-z ]{2,20}:", plain))


def _is_google_item(plain: str, follower: str, indent: int, block: list[str]) -> bool:
    """Return whether a line such as "size (int): how many" begins a new item of a parameter list."""
    first = len(block[0]) - len(block[0].lstrip())
    return first == indent and bool(re.match(r"\*{0,2}\w+(?: ?\([^)]*\))?: \S", plain))


def _is_sentence(paragraph: str) -> bool:
    """Return whether a paragraph of single spaces has five words or more and ends like a sentence."""
    return paragraph.endswith((".", "!", "?")) and paragraph.count(" ") > 3


def _inline(text: str) -> str:
    field = _FIELD.match(text.strip())
    if field:
        kind, name, rest = field.groups()
        if kind in ("type", "rtype"):
            return ""
        lead = {"return": "Returns", "returns": "Returns", "yield": "Yields", "yields": "Yields"}.get(kind, "")
        lead = f"Raises {name}".strip() if kind.startswith("raise") else lead or name.split(" ")[-1]
        text = f"{lead}: {rest}"
    text = _BULLET.sub("", text.strip(), count=1) if _BULLET.match(text.strip()) else text
    text = _ROLE.sub(_role_text, text)
    text = _LINK.sub(lambda match: match.group(1).rstrip() or " ", text)
    text = _TICKS.sub(r"\1", _LITERAL.sub(r"\1", text))
    text = _EMPHASIS.sub(r"\2", _CITATION.sub("", text))
    text = " ".join(text.split())
    return text[:-1] if text.endswith("::") else text


def _role_text(match: re.Match[str]) -> str:
    """Return what a role such as :meth:`~list.append` or :ref:`a title <target>` shows."""
    short, text, target = match.groups()
    text = text.rstrip() if target else text
    return text.rpartition(".")[2] if short else text
