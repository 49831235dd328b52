"""What completions and chat have in common in OpenAI's API: fields, limits, identities, usage.

A field of OpenAI that has no effect here is accepted with its neutral value alone, so that no setting is ignored in
silence; `user` and `metadata` are labels of the client, and any value is neutral.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from blankfill._version import __version__
from blankfill.generation.sampling import COLDEST, Penalties
from blankfill.serving.errors import ApiError
from blankfill.serving.schemas import Body, ModelName, WholeBody
from blankfill.serving.served import ServedModel
from blankfill.serving.settings import ServeSettings
from blankfill.serving.writing import Writing

MOST_ANSWERS = 128
"""Largest number of answers to one prompt."""
MOST_STOPS = 4
LONGEST_STOP = 1000
"""Largest number of characters of a text that ends an answer."""
SEEDS = 2**32
"""Number of seeds; of a larger seed the last bits count."""


def neutral(*values: Any) -> AfterValidator:
    """Return the check of a field that has no effect here: null and `values` are accepted."""

    def check(value: Any) -> Any:
        if value is not None and not any(value == known and type(value) is type(known) for known in values):
            known = " or ".join(str(value).lower() if isinstance(value, bool) else repr(value) for value in values)
            raise ValueError(f"not supported; leave the field out{f', or give {known}' if values else ''}")
        return value

    return AfterValidator(check)


def _not_coldest(value: float | None) -> float | None:
    if value is not None and 0 < value < COLDEST:
        raise ValueError(f"should be 0, or at least {COLDEST}")
    return value


class StreamOptions(Body):
    """What a stream has beside the text."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, neutral(False)] = None


class WritingBody(WholeBody):
    """Fields of completions and chat."""

    model: ModelName = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2), AfterValidator(_not_coldest)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    user: str | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    no_repeat_ngram: Annotated[int, Field(ge=0, le=100)] | None = None
    truncate: bool = False
    allow_unknown: bool = False

    @property
    def answers(self) -> int:
        """Number of answers to each prompt."""
        return self.n or 1

    @property
    def usage_wanted(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def drawn_seed(self) -> int:
        """The seed of the request; a random one where it gives none."""
        return secrets.randbelow(SEEDS) if self.seed is None else self.seed % SEEDS

    def stops(self) -> list[str]:
        """Return the texts that end an answer. Raises ApiError (422)."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > MOST_STOPS:
            raise unsuitable("stop", f"{len(stops)} texts, and there may be {MOST_STOPS}")
        if any(not 0 < len(stop) <= LONGEST_STOP for stop in stops):
            raise unsuitable("stop", f"a text has 1 to {LONGEST_STOP:,} characters")
        return stops

    def check_stream(self) -> None:
        """Raise ApiError (422) for options of a stream without one."""
        if self.stream_options is not None and not self.stream:
            raise unsuitable("stream_options", "only for stream true")

    def penalties(self, served_tokens: int) -> Penalties | None:
        """Return what is taken from or added to scores, None for nothing. served_tokens: size of the vocabulary."""
        bias: dict[int, float] = {}
        for key, value in (self.logit_bias or {}).items():
            if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < served_tokens):
                raise unsuitable("logit_bias", f"no token {key[:40]!r}; the tokens are 0 to {served_tokens - 1:,}")
            bias[int(key)] = value
        if not (self.frequency_penalty or self.presence_penalty or bias):
            return None
        return Penalties(self.frequency_penalty or 0.0, self.presence_penalty or 0.0, bias)

    def sampling(self) -> dict[str, Any]:
        """Return the fields of `Sampling` that the request gives, with a seed."""
        names = ("temperature", "top_p", "top_k", "repetition_penalty", "no_repeat_ngram")
        given = {name: getattr(self, name) for name in names}
        return {**{name: value for name, value in given.items() if value is not None}, "seed": self.drawn_seed}


def unsuitable(param: str, message: str, code: str = "invalid_request") -> ApiError:
    """Return the error (422) of a field with a value that does not suit."""
    return ApiError(422, f"{param}: {message}", code, param)


def check_new_tokens(total: int, settings: ServeSettings, param: str) -> None:
    """Raise ApiError (422) when a request may write more tokens than the server writes for one."""
    if total > settings.max_new_tokens:
        raise unsuitable(
            param,
            f"the answers of the request may have {total:,} tokens together, and the server writes at most "
            f"{settings.max_new_tokens:,} for a request; ask for fewer or shorter answers",
        )


def check_prompt_tokens(total: int, settings: ServeSettings, param: str) -> None:
    """Raise ApiError (413) for prompts of more tokens than a request may have."""
    if total > settings.max_tokens:
        raise ApiError(
            413, f"{param}: {total:,} tokens, and a request may have {settings.max_tokens:,}; send several requests",
            "request_too_large", param,
        )  # fmt: skip


def writing_of(served: ServedModel, model: Any, pad: int) -> Writing:
    """Return what writes with a model: one for each set of weights that a served model writes with."""

    def make(served: ServedModel) -> Writing:
        writing = Writing(served.engine, model, pad)
        served.engine.steppers.append(writing)
        return writing

    return served.part(("writing", id(model)), make)


@dataclass(frozen=True)
class Identity:
    """The fields by which an answer is known."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str

    @classmethod
    def new(cls, served: ServedModel, prefix: str, kind: str, weights: Any) -> Identity:
        """Make the identity of a new answer. weights: the module that writes."""
        print_ = served.part(("fingerprint", id(weights)), lambda _: fingerprint(weights))
        return cls(f"{prefix}-{secrets.token_hex(14)}", kind, int(time.time()), served.name, print_)

    def to_json(self, **more: Any) -> dict[str, Any]:
        """Return the fields as plain values, with others."""
        return {
            "id": self.id, "object": self.object, "created": self.created, "model": self.model,
            "system_fingerprint": self.system_fingerprint, **more,
        }  # fmt: skip


def fingerprint(weights: Any) -> str:
    """Return a text that changes with the version of the program, the number type, and the weights of a model."""
    digest = hashlib.blake2b(__version__.encode(), digest_size=6)
    for name, tensor in weights.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        first = tensor.detach().flatten()[:64].cpu()
        digest.update(first.float().numpy().tobytes() if first.dtype.is_floating_point else np.asarray(first).tobytes())
    return f"fp_{digest.hexdigest()}"


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return the count of tokens."""
    return {
        "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }  # fmt: skip


def octets(text: str) -> list[int] | None:
    """Return the bytes of a token's text; None for a token that is a part of a character."""
    return None if "\ufffd" in text else list(text.encode())


def first_of(pairs: Sequence[tuple[str, float]]) -> Mapping[str, float]:
    """Return texts with their numbers, the first number of texts that are equal."""
    numbers: dict[str, float] = {}
    for text, value in pairs:
        numbers.setdefault(text, value)
    return numbers
