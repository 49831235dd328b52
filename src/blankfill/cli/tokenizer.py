"""`blankfill tokenizer show`: how a tokenizer cuts a text, and what its special tokens are for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from blankfill.cli.arguments import parsing


@dataclass(frozen=True)
class Show:
    """Print the pieces of a text with their ids, and the roles of the special tokens."""

    text: Annotated[tuple[str, ...], tyro.conf.Positional]
    """The text; words are joined by spaces. Special tokens such as [MASK] may stand in it."""
    tokenizer: Path
    """A tokenizer.json, a vocab.txt, a SentencePiece *.model, or a folder with one, such as a run's."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises UserError."""
    with parsing(argv, "tokenizer"):
        chosen: Show = tyro.extras.subcommand_cli_from_dict(
            {"show": Show}, prog="blankfill tokenizer", description="Look at a tokenizer.", args=list(argv)
        )
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
