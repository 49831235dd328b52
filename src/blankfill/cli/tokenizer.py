"""`blankfill tokenizer show`: the tokens of a text, and the roles of special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from blankfill.cli.arguments import parsed, wants_help
from blankfill.errors import UserError
from blankfill.system.schema import Option


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print the tokens of a text with their ids, and the roles of the special tokens."""

    EXAMPLES: ClassVar[tuple[str, ...]] = ('blankfill tokenizer show --tokenizer runs/bert "a [MASK] in the house"',)

    text: Annotated[tuple[str, ...], Option(positional=True)]
    """The text; words are joined by spaces. It may contain special tokens such as [MASK]."""
    tokenizer: Path
    """A tokenizer.json, a vocab.txt, a SentencePiece *.model, or a folder with one, such as a run's."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises UserError."""
    if not argv or (argv[0] != "show" and not wants_help(argv)):
        raise UserError("`blankfill tokenizer` has one subcommand: blankfill tokenizer show --tokenizer PATH TEXT")
    chosen = parsed(Show, argv[1:] if argv[0] == "show" else argv, "tokenizer show")
    _show(chosen.tokenizer, " ".join(chosen.text))
    return 0


def _show(path: Path, text: str) -> None:
    from blankfill.corpus.tokenizer import Tokenizer
    from blankfill.system.console import show, table
    from blankfill.types import ROLES

    tokenizer = Tokenizer.load(path)
    ids = tokenizer.encode(text)
    show(" ".join(map(tokenizer.token, ids)))
    show(" ".join(map(str, ids)))
    show(f"{len(ids)} tokens for {len(text)} characters; read back: {tokenizer.decode(ids, skip_special=False)}")
    vocabulary = tokenizer.vocabulary()
    roles = [(role, tokenizer.token(vocabulary[role]), vocabulary[role]) for role in ROLES if role in vocabulary.roles]
    table(f"Roles in a vocabulary of {tokenizer.size:,}", roles, ("role", "token", "id"))
    if names := [tokenizer.token(number) for number in vocabulary.sentinels]:
        ids = sorted(vocabulary.sentinels)
        show(f"{len(names)} sentinels for T5's blanks: {names[0]} to {names[-1]}, ids {ids[0]} to {ids[-1]}")
    if missing := vocabulary.missing(ROLES):
        show(f"No token for: {', '.join(missing)}")
