"""What the folder of a model says about conversations, in the files of transformers: the chat template, the names of
special tokens for it, and the settings of generation. Not here: what they mean (`chatting`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from blankfill.system.reading import read_json, read_text

TEMPLATE = "chat_template.jinja"
"""File with the template."""
GENERATION = "generation_config.json"
"""File with the settings of generation."""
CONFIG, NAMES = "tokenizer_config.json", "special_tokens_map.json"
LONGEST = 1 << 20
"""Largest size in bytes of a template."""


class TemplateSource(NamedTuple):
    """A chat template as it is read. text: in Jinja. where: its place, for sentences."""

    text: str
    where: str


def template_source(folder: Path) -> TemplateSource | None:
    """Return the template of `chat_template.jinja`, or of `tokenizer_config.json` as older versions of transformers
    have it: of several by name the default one. None without any. Raises UserError for a file that cannot be read."""
    if (folder / TEMPLATE).is_file():
        return TemplateSource(read_text(folder / TEMPLATE, LONGEST), str(folder / TEMPLATE))
    config = folder / CONFIG
    text = read_json(config).get("chat_template") if config.is_file() else None
    if isinstance(text, list):
        named = {entry.get("name"): entry.get("template") for entry in text if isinstance(entry, dict)}
        text = named.get("default", next(iter(named.values()), None))
    return TemplateSource(text, f"chat_template of {config}") if isinstance(text, str) else None


def token_names(folder: Path) -> dict[str, str]:
    """Return the special tokens that the files of a tokenizer name, such as {"bos_token": "<s>"}."""
    said: dict[str, str] = {}
    for name in (NAMES, CONFIG):  # the second file overrides the first
        values = read_json(folder / name) if (folder / name).is_file() else {}
        for key, token in values.items():
            token = token.get("content") if isinstance(token, dict) else token
            if key.endswith("_token") and isinstance(token, str):
                said[key] = token
    return said


def chat_files(folder: Path) -> dict[str, str]:
    """Return the files that an imported model takes over, by name: the template with the names of tokens that it may
    use, and the settings of generation."""
    files: dict[str, str] = {}
    if source := template_source(folder):
        files[TEMPLATE] = source.text
        if names := token_names(folder):
            files[NAMES] = json.dumps(names, ensure_ascii=False, indent=2) + "\n"
    if (folder / GENERATION).is_file():
        files[GENERATION] = json.dumps(read_json(folder / GENERATION), ensure_ascii=False, indent=2) + "\n"
    return files
