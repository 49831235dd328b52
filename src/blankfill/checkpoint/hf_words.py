"""The tokenizer of another program's model, with tokens and roles that its files do not name."""

from __future__ import annotations

from pathlib import Path

from blankfill.checkpoint.hf_loading import CONFIG, ExternalCheckpoint
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.tokenizer_layout import check_layout, without_images
from blankfill.errors import UserError, setting
from blankfill.system.console import say
from blankfill.types import Vocabulary


def read_tokenizer(checkpoint: ExternalCheckpoint, given: Path | None = None) -> Tokenizer:
    """Read the tokenizer of a model: the given file, or the one beside its weights. Where the family's own code adds
    tokens to a WordPiece vocabulary that lacks them, this function adds them too."""
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    try:
        tokenizer = Tokenizer.load(given or folder)
    except UserError as error:
        if given is not None:
            raise
        raise UserError(
            f"{error.template.rstrip('.')}. Put the model's own beside its weights, or name it with "
            f"{setting('tokenizer')}."
        ) from error
    if checkpoint.dropped_rows:
        tokenizer = without_images(tokenizer)
    family, config = checkpoint.checkpoint_format.family, checkpoint.checkpoint_format.config
    if family.fixed_ids:
        keys = {role: checkpoint.values.get(key) for key, role in family.token_roles.items()}
        ids = {role: id for role, id in keys.items() if isinstance(id, int)}
        check_layout(tokenizer, config.vocab_size, ids, str(folder / CONFIG))
    if added := checkpoint.checkpoint_format.family.added_roles:
        missing = tokenizer.vocabulary().missing(added)
        if missing and not tokenizer.is_wordpiece:  # other vocabularies have gaps of their own
            raise UserError(
                f"{given or folder}: the tokenizer has no token for {', '.join(missing)}; give a tokenizer.json that "
                "has them where the checkpoint's own code puts them"
            )
        if missing and tokenizer.size + len(missing) <= checkpoint.checkpoint_format.config.vocab_size:
            say(f"the tokenizer has no token for {', '.join(missing)}; added at its end, as the family's own code does")
            tokenizer = tokenizer.with_roles(missing)
    return tokenizer


def roles_unsaid(checkpoint: ExternalCheckpoint, vocabulary: Vocabulary) -> dict[str, int]:
    """Return roles of tokens that their names do not show."""
    return checkpoint.checkpoint_format.family.unnamed_roles(vocabulary.roles)
