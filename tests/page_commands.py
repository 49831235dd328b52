"""The `blankfill …` command lines of a page: found in its blocks and its sentences, and read by the commands' own
parsers."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from blankfill.cli.arguments import arguments_of, flags_of, needs_arguments, parsed, texts_of
from blankfill.cli.common import COMMON, split
from blankfill.cli.main import COMMANDS, command_named
from blankfill.cli.recipe_arguments import DEFAULT, RecipeArguments, value_of
from blankfill.config.recipe import SECTIONS, Recipe, load_recipe, override, recipe_names
from blankfill.errors import ConfigError, UserError
from blankfill.system.schema import fields_of

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`(?!`)([^`]+)`")
PROMPT = re.compile(r"^ *(?:\$|>) ")
PUNCTUATION = re.compile(r"[|&;<>()]+")


class Line(NamedTuple):
    """A command line of a page. number: of its first line. whole: whether it is from a block, and can be run as it is;
    those of sentences leave out what is not their subject."""

    page: str
    number: int
    words: list[str]
    whole: bool


def pages() -> list[Path]:
    """All pages for users."""
    named = [ROOT / name for name in ("README.md", "README.zh-CN.md", "CONTRIBUTING.md")]
    return [*named, *sorted((ROOT / "docs").rglob("*.md"))]


def lines_of(text: str, page: str = "") -> Iterator[Line]:
    """Each command line of a page."""
    blocks = [(match.start(), match[2], match[3]) for match in BLOCK.finditer(text)]
    for start, kind, block in blocks:
        if kind not in ("console", "sh", "bash", "shell"):
            continue
        number = text.count("\n", 0, start) + 2
        for offset, line in joined(block):
            if kind != "console" or PROMPT.match(line):
                for words in commands_of(PROMPT.sub("", line)):
                    yield Line(page, number + offset, words, True)
    prose = BLOCK.sub(lambda match: "\n" * match[0].count("\n"), text)
    for match in INLINE.finditer(prose):
        if match[1].startswith("blankfill ") or match[1].startswith("blankfill\n"):
            for words in commands_of(" ".join(match[1].split())):
                yield Line(page, prose.count("\n", 0, match.start()) + 1, words, False)


def joined(block: str) -> Iterator[tuple[int, str]]:
    """The lines of a block with those that continue them, and their offsets."""
    before, first = "", 0
    for offset, line in enumerate(block.splitlines()):
        first = first if before else offset
        line = before + (PROMPT.sub("", line) if before else line)
        before = line.removesuffix("\\") if line.endswith("\\") else ""
        if not before:
            yield first, line


def commands_of(line: str) -> Iterator[list[str]]:
    """The words of each blankfill command in a line of a shell, without `blankfill` itself."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] | None = None
    for word in [*lexer, ";"]:
        if inner := re.search(r"\$\((blankfill [^)]*)\)", word):
            yield from commands_of(inner[1])
        if PUNCTUATION.fullmatch(word):
            if words is not None:
                yield words
            words = None
        elif words is not None:
            words.append(word)
        elif word == "blankfill" or word.endswith("/blankfill"):
            words = []


def problems_of(line: Line) -> list[str]:
    """What the parser of its command says against a command line."""
    _, words = split(line.words)
    words = [word for word in words if word not in ("-h", "--help", "[OPTIONS]", "…")]
    if not words or words[0] in ("-V", "--version", "COMMAND"):
        return []
    try:
        command = command_named(words[0])
        kind = arguments_of(command)
        argv = words[1:]
        if subcommand := getattr(kind, "SUBCOMMAND", ""):
            argv = argv[1:] if argv[:1] == [subcommand] else argv
        if (
            "--help" in line.words
            or "-h" in line.words
            or not line.whole
            or any("$" in word or "…" in word for word in line.words)
        ):
            read = only_names
        else:
            read = everything
        attempts = [read(kind, command, argv, recipe) for recipe in recipes_of(kind, argv)]
    except UserError as error:
        return [error.sentence]
    return min(attempts, key=len)


def recipes_of(kind: type, argv: Sequence[str]) -> list[Recipe | None]:
    """The recipe of a command line; where it is one of the reader's own, or the one of a model, one of each
    objective."""
    if not issubclass(kind, RecipeArguments):
        return [None]
    name = value_of(argv, "--recipe") or ("" if value_of(argv, "--from") else DEFAULT)
    if name and not is_placeholder(name) and not name.endswith((".yaml", ".yml")):
        return [load_recipe(name)]
    recipes = map(load_recipe, recipe_names())
    return list({recipe.objective.name: recipe for recipe in recipes}.values())


def only_names(kind: type, command: str, argv: Sequence[str], recipe: Recipe | None) -> list[str]:
    """The problems of a command line that leaves something out: options, tasks and the like that do not exist."""
    texts, problems = texts_of(kind, argv, command, sections_of(recipe))
    problems = [problem for problem in problems if "has no value" not in problem]
    return [*problems, *unknown_values(kind, texts)]


@cache
def known_options() -> frozenset[str]:
    """Every option of every command, with its dashes, those of all recipes included."""
    options = {name for names in COMMON for name in names}
    for command in COMMANDS:
        kind = arguments_of(command)
        for recipe in recipes_of(kind, ["--from", "…"]):
            options |= {f"--{name}" for name in flags_of(kind, sections_of(recipe))}
    return frozenset(options)


def everything(kind: type, command: str, argv: Sequence[str], recipe: Recipe | None) -> list[str]:
    """The problems of a command line, those of its values included, and what is missing in it."""
    sections = sections_of(recipe)
    texts, problems = texts_of(kind, argv, command, sections)
    problems = list(unknown_values(kind, texts))
    try:
        if argv or not needs_arguments(kind):
            parsed(kind, argv, command, sections)
    except ConfigError as error:
        problems += error.problems
    if recipe is not None:
        own = value_of(argv, "--recipe") or DEFAULT
        try:
            changed = override(recipe, {path: text for path, text in texts.items() if "." in path})
            if own in recipe_names() and not value_of(argv, "--from"):
                changed.check()
        except ConfigError as error:
            problems += error.problems
    return problems


def sections_of(recipe: Recipe | None) -> Mapping[str, Any]:
    """The sections of a recipe by name."""
    return {name: getattr(recipe, name) for name in SECTIONS} if recipe is not None else {}


def unknown_values(kind: type, texts: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each task or recipe that does not exist; several tasks are joined by plus signs."""
    for field in fields_of(kind):
        text = texts.get(field.name)
        if field.option.suggestions is None or not isinstance(text, str) or not text or is_placeholder(text):
            continue
        known = field.option.suggestions()
        for name in text.split("+"):
            if name not in known and not name.endswith((".yaml", ".yml")):
                yield f"there is no {field.name} {name}"


def is_placeholder(text: str) -> bool:
    """Whether a value stands for others: NAME, [NAME], $name, NAME…, 名称."""
    return bool(re.fullmatch(r"[^a-z]*|.*[$…\[{].*|[^\x00-\x7f]+", text))
