"""How a given model chats: its template, its options, and the text of its answers, from its folder and the caller."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.chatting.options import end_ids_in, options_of
from blankfill.chatting.responses import process_response
from blankfill.chatting.templates import ChatTemplate, built_in, template_in, template_named, token_names

if TYPE_CHECKING:
    from blankfill.chatting.engine import Chat, Speaker


def folders_of(path: Path) -> list[Path]:
    """Return the folders in which the files of a model lie: its own, and that of its run."""
    from blankfill.checkpoint.load import tokenizer_folder

    return list(dict.fromkeys([path, tokenizer_folder(path)]))


def template_of(path: Path, template: str | Path | ChatTemplate | None, default: str) -> ChatTemplate:
    """Return the template of a model.

    Args:
        path: The folder of the model.
        template: What the caller gives: a template, the name of a built-in one, or a file; None for that of the folder.
        default: Name of the built-in template of a model whose folder has none.

    Raises:
        UserError: There is no such template, or it cannot be read.
    """
    if isinstance(template, ChatTemplate):
        return template
    folders = folders_of(path)
    tokens = token_names(folders)
    if template is not None:
        return template_named(str(template), tokens)
    return template_in(folders, tokens) or built_in(default)


def chat_with(
    speaker: Speaker,
    template: str | Path | ChatTemplate | None = None,
    default: str = "plain",
    options: Mapping[str, Any] | None = None,
    allow_unknown: bool = False,
) -> Chat:
    """Return the chat of a model. See `template_of` and `options.options_of` for the parameters and the errors."""
    from blankfill.chatting.engine import Chat

    folders = folders_of(speaker.path)
    chosen = template_of(speaker.path, template, default)
    settings = options_of(chosen.name, folders, options)
    process = process_response if settings.process else None
    return Chat(
        speaker, chosen, settings, ends=end_ids_in(folders), process=process, allow_unknown=allow_unknown
    )  # fmt: skip
