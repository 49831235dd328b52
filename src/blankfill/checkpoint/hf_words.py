"""The tokenizer of another program's model, with the tokens and roles that its files leave unsaid."""

from __future__ import annotations

from pathlib import Path

from blankfill.checkpoint.hf_loading import Foreign
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError
from blankfill.system.console import say
from blankfill.types import Vocabulary

GLM_ROLES = ("sop", "eop", "gmask", "smask")
"""What the original GLM code adds to BERT's vocabulary, in its order; its end of text there is [PAD]."""


def read_tokenizer(found: Foreign, given: Path | None = None) -> Tokenizer:
    """The tokenizer of a model: given, or beside its weights. GLM's marks are added where a BERT vocabulary lacks them,
    as the original code does."""
    folder = found.path if found.path.is_dir() else found.path.parent
    try:
        tokenizer = Tokenizer.load(given or folder)
    except UserError as error:
        if given is not None:
            raise
        raise UserError(
            f"{error} Put the model's own beside its weights, or name it: blankfill import --tokenizer."
        ) from error
    if found.form.family.name == "glm":
        missing = tokenizer.vocabulary().missing(GLM_ROLES)
        if missing and not tokenizer.is_wordpiece:  # other vocabularies have gaps of their own
            raise UserError(
                f"{given or folder}: the tokenizer has no token for {', '.join(missing)}; give a tokenizer.json that "
                "has them where the checkpoint's own code puts them"
            )
        if missing and tokenizer.size + len(missing) <= found.form.config.vocab_size:
            say(f"the tokenizer has no token for {', '.join(missing)}; added at its end, as GLM's own code does")
            tokenizer = tokenizer.with_roles(missing)
    return tokenizer


def roles_unsaid(found: Foreign, vocabulary: Vocabulary) -> dict[str, int]:
    """Roles that tokens have in a model, and that their names do not tell: a GLM over BERT's vocabulary ends a text
    with [PAD]."""
    roles = vocabulary.roles
    if found.form.family.name == "glm" and roles.get("eos") == roles.get("sep") and "pad" in roles:
        return {"eos": roles["pad"]}
    return {}
