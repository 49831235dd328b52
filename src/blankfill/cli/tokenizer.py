"""`blankfill tokenizer show`: the tokens of a text, and the roles of special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from blankfill.cli.arguments import parsed, wants_help
from blankfill.cli.result import Result
from blankfill.errors import UserError
from blankfill.system.schema import Option

if TYPE_CHECKING:
    from blankfill.corpus.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print the tokens of a text with their ids, and the roles of the special tokens."""

    SUBCOMMAND: ClassVar[str] = "show"
    EXAMPLES: ClassVar[tuple[str, ...]] = ('blankfill tokenizer show --tokenizer runs/bert "a [MASK] in the house"',)

    text: Annotated[tuple[str, ...], Option(positional=True)]
    """The text; words are joined by spaces. It may contain special tokens such as [MASK]."""
    tokenizer: Path
    """A tokenizer.json, a vocab.txt, a SentencePiece *.model, or a folder with one, such as a run's."""


def main(argv: Sequence[str]) -> Result:
    """Run the command. Raises UserError."""
    if argv and argv[0] != "show" and not wants_help(argv) and not argv[0].startswith("-"):
        raise UserError("`blankfill tokenizer` has one subcommand: blankfill tokenizer show --tokenizer PATH TEXT")
    chosen = parsed(Show, argv[1:] if argv[:1] == ["show"] else argv, "tokenizer show")
    from blankfill.corpus.tokenizer import Tokenizer
    from blankfill.types import ROLES

    text = " ".join(chosen.text)
    tokenizer = Tokenizer.load(chosen.tokenizer)
    ids = tokenizer.encode(text)
    vocabulary = tokenizer.vocabulary()
    values = {
        "tokens": [tokenizer.token(number) for number in ids],
        "ids": ids,
        "characters": len(text),
        "decoded": tokenizer.decode(ids, skip_special=False),
        "vocabulary": tokenizer.size,
        "roles": {role: vocabulary[role] for role in ROLES if role in vocabulary.roles},
        "sentinels": sorted(vocabulary.sentinels),
    }
    return Result(values=values, show=lambda: show_tokens(tokenizer, text, ids), is_output=True)


def show_tokens(tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> None:
    """Print the tokens of a text and their ids, then the roles of the special tokens."""
    from blankfill.system.console import show, table
    from blankfill.types import ROLES

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
