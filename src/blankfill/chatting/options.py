"""How a model answers: lengths, sampling, template; and where its folder says so.

`generation_config.json` of a folder may name values for sampling and lengths. What neither it nor the caller says
depends on the template: models that read ChatGLM's rounds answer as ChatGLM-6B was released, others as `blankfill
generate` continues a text. A file that does not say `do_sample` leaves sampling on, unlike transformers, whose default
is greedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from blankfill.corpus.tokenizer_chat import GENERATION
from blankfill.errors import ConfigError, UserError
from blankfill.generation.sampling import Sampling
from blankfill.system.bounds import COUNT, Bound, out_of_bounds
from blankfill.system.reading import read_json


@dataclass(frozen=True)
class ChatOptions:
    """How answers are written."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"max_new_tokens": COUNT, "max_length": COUNT}

    max_new_tokens: int = 512
    """Largest number of tokens of an answer; 0: as many as there is room for."""
    max_length: int = 0
    """Largest number of tokens of a conversation and its answer, of models with an encoder of the answer alone; 0: as
    many as the model has."""
    process: bool = False
    """Write Chinese punctuation beside Chinese characters, as ChatGLM-6B's own code does with its answers."""
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.8, top_p=0.95))
    """How tokens are chosen."""

    def check(self) -> None:
        """Raise a ConfigError that names every value out of range."""
        problems = [*out_of_bounds(self), *out_of_bounds(self.sampling)]
        if problems:
            raise ConfigError(problems)


AS_RELEASED = ChatOptions(0, 2048, True, Sampling(temperature=0.95, top_k=50, top_p=0.7))
"""ChatGLM-6B's `chat`: top_p and temperature are its own, top_k is the default of transformers that is in force."""

NAMES = {
    "temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram",
}  # fmt: skip
"""Fields of `Sampling` by transformers' names."""


def options_of(template: str, folders: Iterable[Path] = (), given: Mapping[str, Any] | None = None) -> ChatOptions:
    """Return the options of a model.

    Args:
        template: Name of the built-in template that it reads, "" for one of its own.
        folders: The folders of the model; the first with a file of generation counts.
        given: Fields of `ChatOptions` and `Sampling` that the caller sets; None is not set.

    Raises:
        UserError: A file cannot be read, an option is unknown, or a value is out of range.
    """
    usual = AS_RELEASED if template == "chatglm" else ChatOptions()
    stored = _stored(folders)
    chosen = {**stored, **{name: value for name, value in (given or {}).items() if value is not None}}
    own = {name: chosen.pop(name) for name in ("max_new_tokens", "max_length", "process") if name in chosen}
    known = [field.name for field in fields(Sampling)]
    if unknown := [name for name in chosen if name not in known]:
        raise UserError(
            f"there is no option {unknown[0]} of a chat; there are max_new_tokens, max_length, process and "
            f"{', '.join(known)}"
        )
    options = replace(usual, **own, sampling=replace(usual.sampling, **chosen))
    options.check()
    return options


def end_ids_in(folders: Iterable[Path]) -> list[int]:
    """Return the ids that end an answer by the generation settings of a folder; often more than the tokenizer's end
    token alone."""
    values = _values(folders).get("eos_token_id")
    ids = values if isinstance(values, list) else [values]
    return [id for id in ids if isinstance(id, int) and not isinstance(id, bool) and id >= 0]


def _values(folders: Iterable[Path]) -> dict[str, Any]:
    for folder in folders:
        if (folder / GENERATION).is_file():
            return read_json(folder / GENERATION)
    return {}


def _stored(folders: Iterable[Path]) -> dict[str, Any]:
    """Return the fields that the file of generation sets."""
    values = _values(folders)
    stored: dict[str, Any] = {ours: values[theirs] for theirs, ours in NAMES.items() if _is_number(values.get(theirs))}
    stored |= {name: values[name] for name in ("max_new_tokens", "max_length") if _is_number(values.get(name))}
    if values.get("do_sample") is False:
        stored |= {"temperature": 0.0, "top_k": 0, "top_p": 1.0}
    return stored


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
