"""The tokenizer of another program's model, with the tokens and roles that its files leave unsaid."""

from __future__ import annotations

from pathlib import Path

from blankfill.checkpoint.hf_loading import Foreign
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError, setting
from blankfill.system.console import say
from blankfill.types import Vocabulary


def read_tokenizer(found: Foreign, given: Path | None = None) -> Tokenizer:
    """The tokenizer of a model: given, or beside its weights. Where the family's own code adds tokens to a WordPiece
    vocabulary that lacks them, they are added here."""
    folder = found.path if found.path.is_dir() else found.path.parent
    try:
        tokenizer = Tokenizer.load(given or folder)
    except UserError as error:
        if given is not None:
            raise
        raise UserError(
            f"{error.template} Put the model's own beside its weights, or name it with {setting('tokenizer')}."
        ) from error
    if added := found.form.family.added_roles:
        missing = tokenizer.vocabulary().missing(added)
        if missing and not tokenizer.is_wordpiece:  # other vocabularies have gaps of their own
            raise UserError(
                f"{given or folder}: the tokenizer has no token for {', '.join(missing)}; give a tokenizer.json that "
                "has them where the checkpoint's own code puts them"
            )
        if missing and tokenizer.size + len(missing) <= found.form.config.vocab_size:
            say(f"the tokenizer has no token for {', '.join(missing)}; added at its end, as the family's own code does")
            tokenizer = tokenizer.with_roles(missing)
    return tokenizer


def roles_unsaid(found: Foreign, vocabulary: Vocabulary) -> dict[str, int]:
    """Roles that tokens have in a model, and that their names do not tell."""
    return found.form.family.unnamed_roles(vocabulary.roles)
