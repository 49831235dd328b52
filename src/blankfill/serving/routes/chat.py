"""Answers to conversations, as OpenAI's chat completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from blankfill.chatting.engine import Answering, Chat, Prompt, TooLongError
from blankfill.chatting.messages import Message, messages_of
from blankfill.chatting.templates import BUILT_IN
from blankfill.errors import UserError, in_keys
from blankfill.generation.pieces import is_readable_in_pieces
from blankfill.generation.sampling import Penalties
from blankfill.serving.abilities import Ability
from blankfill.serving.errors import ApiError
from blankfill.serving.events import DONE, EventStream, event
from blankfill.serving.openai import (
    Identity,
    WritingBody,
    check_new_tokens,
    check_prompt_tokens,
    neutral,
    octets,
    unsuitable,
    usage,
    writing_of,
)
from blankfill.serving.schemas import Body
from blankfill.serving.served import ServedModel
from blankfill.serving.settings import ServeSettings
from blankfill.serving.state import State
from blankfill.serving.writing import Answer, Piece, Token, Writing, collected

router = APIRouter(prefix="/v1", tags=["writing"])

MOST_LIKELIEST = 20


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """A message. What an answer of this server has beside its text may be sent back."""

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]
    name: Annotated[Any, neutral()] = None
    refusal: Annotated[Any, neutral()] = None
    tool_calls: Annotated[Any, neutral([])] = None
    function_call: Annotated[Any, neutral()] = None
    annotations: Annotated[Any, neutral([])] = None
    audio: Annotated[Any, neutral()] = None

    @property
    def text(self) -> str:
        """The whole text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(WritingBody):
    """A conversation to answer."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LIKELIEST)] | None = None
    template: str | None = Field(None, description=f"A built-in chat template: {', '.join(BUILT_IN)}.")
    metadata: dict[str, Any] | None = None
    response_format: Annotated[Any, neutral({"type": "text"})] = None
    service_tier: Annotated[Any, neutral("auto", "default")] = None
    store: Annotated[Any, neutral(False)] = None
    tools: Annotated[Any, neutral([])] = None
    tool_choice: Annotated[Any, neutral("none", "auto")] = None
    parallel_tool_calls: Annotated[Any, neutral(True, False)] = None
    functions: Annotated[Any, neutral([])] = None
    function_call: Annotated[Any, neutral("none", "auto")] = None
    modalities: Annotated[Any, neutral(["text"])] = None
    reasoning_effort: Annotated[Any, neutral("none")] = None
    verbosity: Annotated[Any, neutral("medium")] = None
    prediction: Annotated[Any, neutral()] = None
    audio: Annotated[Any, neutral()] = None
    web_search_options: Annotated[Any, neutral()] = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def new_tokens(self) -> int | None:
        """Largest number of tokens of an answer, if the request gives it."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def check(self, settings: ServeSettings) -> None:
        """Raise ApiError (422) for fields that contradict one another or a limit."""
        self.check_stream()
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise unsuitable("max_tokens", "differs from max_completion_tokens; give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise unsuitable("top_logprobs", "only with logprobs true")
        if self.template is not None and self.template not in BUILT_IN:
            raise unsuitable("template", f"no built-in chat template of this name; there are {', '.join(BUILT_IN)}")
        check_new_tokens(self.answers * (self.new_tokens or 1), settings, "max_tokens")


@router.post("/chat/completions", response_model=None)
async def chat_completions(body: ChatRequest, state: State) -> Response:
    """Answer a conversation."""
    served = state.models.named(body.model, Ability.CHAT)
    body.check(state.settings)
    served.engine.check_room(body.answers)
    chat = await run_in_threadpool(chat_of, served, body, state.settings)
    speaker = chat.speaker
    penalties = body.penalties(speaker.vocabulary.size)
    texts = await run_in_threadpool(laid_out, chat, body, penalties, state.settings)
    served.engine.check_room(body.answers)  # others may have come meanwhile
    writing = writing_of(served, speaker.model, speaker.vocabulary.roles.get("pad", 0))
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    answers = [
        Answer(index, text, speaker.tokenizer, stream=bool(body.stream), logprobs=logprobs)
        for index, text in enumerate(texts)
    ]
    completion = ChatCompletion(served, body, texts[0].prompt, writing)
    if body.stream:
        return EventStream(completion.events(answers))
    return JSONResponse(await completion.whole(answers))


def chat_of(served: ServedModel, body: ChatRequest, settings: ServeSettings) -> Chat:
    """Return the chat of a model with the options of a request."""
    model = served.model
    chat = served.part(("chat", body.template), lambda _: model.chat_engine(body.template))
    most = settings.max_new_tokens // body.answers
    usual = chat.options.max_new_tokens
    new = min(usual, most) if usual else most
    sampling = replace(chat.options.sampling, **body.sampling())
    options = replace(chat.options, max_new_tokens=body.new_tokens or new, sampling=sampling)
    return chat.with_options(options, allow_unknown=body.allow_unknown)


def laid_out(chat: Chat, body: ChatRequest, penalties: Penalties | None, settings: ServeSettings) -> list[Answering]:
    """Lay out a conversation for its answers. Raises ApiError and UserError."""
    messages: list[Message] = messages_of([{"role": made.role, "content": made.text} for made in body.messages])
    stops = body.stops()
    try:
        prompt = chat.read(messages)
    except TooLongError as error:
        raise unsuitable("messages", in_keys(error.sentence), "context_length_exceeded") from None
    except UserError as error:
        raise ApiError(400, in_keys(error.sentence), "invalid_request", "messages") from None
    check_prompt_tokens(prompt.row.columns, settings, "messages")
    most = settings.batch_tokens
    if prompt.row.columns > most and not is_readable_in_pieces(chat.speaker.model, prompt.row):
        sentence = (
            f"the conversation has {prompt.row.columns:,} tokens, and the server reads {most:,} at once; shorten it"
        )
        raise unsuitable("messages", sentence, "context_length_exceeded")
    if prompt.dropped and not body.truncate:
        raise unsuitable("messages", _too_long(chat, messages), "context_length_exceeded")
    return [
        Answering(chat, messages, prompt, number=number, stops=stops, penalties=penalties)
        for number in range(body.answers)
    ]


def _too_long(chat: Chat, messages: Sequence[Message]) -> str:
    tokens = len(chat.template.prompt_ids(messages, chat.speaker.tokenizer))
    last = chat.prompt(messages)
    return (
        f"the conversation has {tokens:,} tokens, and the model reads at most {last.row.columns + last.row.room:,} "
        "with the answer; shorten it, or set truncate to true, which leaves the oldest rounds out"
    )


class ChatCompletion:
    """The answers to one request, as they are written."""

    def __init__(self, served: ServedModel, body: ChatRequest, prompt: Prompt, writing: Writing) -> None:
        self.served, self.body, self.prompt, self.writing = served, body, prompt, writing

    async def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return the whole body of the response."""
        identity = Identity.new(self.served, "chatcmpl", "chat.completion", self.writing.model)
        with self.writing.running(answers, self.prompt.row.columns) as inbox:
            made = await collected(inbox, len(answers))
        choices = [
            self._choice(
                index, answer.tokens, answer.finish,
                message={"role": "assistant", "content": answer.text, "refusal": None},
            )
            for index, answer in enumerate(made)
        ]  # fmt: skip
        count = sum(answer.count for answer in made)
        return identity.to_json(choices=choices, usage=usage(self.prompt.row.columns, count))

    async def events(self, answers: Sequence[Answer]) -> AsyncGenerator[bytes, None]:
        """Yield the events of a stream."""
        identity = Identity.new(self.served, "chatcmpl", "chat.completion.chunk", self.writing.model)
        more: dict[str, Any] = {"usage": None} if self.body.usage_wanted else {}
        counts = [0] * len(answers)

        def made(index: int, delta: dict[str, str], tokens: Sequence[Token] = (), finish: str | None = None) -> bytes:
            return event(identity.to_json(choices=[self._choice(index, tokens, finish, delta=delta)], **more))

        def of_piece(piece: Piece) -> bytes:
            counts[piece.index] = piece.count
            delta = {"content": piece.text} if piece.text else {}
            return made(piece.index, delta, piece.tokens, piece.finish)

        with self.writing.running(answers, self.prompt.row.columns) as inbox:
            yield b"".join(made(answer.index, {"role": "assistant", "content": ""}) for answer in answers)
            async for pieces in inbox:
                yield b"".join(map(of_piece, pieces))
        if self.body.usage_wanted:
            yield event(identity.to_json(choices=[], usage=usage(self.prompt.row.columns, sum(counts))))
        yield DONE

    def _choice(self, index: int, tokens: Sequence[Token], finish: str | None, **text: Any) -> dict[str, Any]:
        choice = {"index": index, **text, "logprobs": self._logprobs(tokens, finish), "finish_reason": finish}
        if self.prompt.dropped and (finish is not None or "message" in text):
            choice["truncated"] = True
        return choice

    def _logprobs(self, tokens: Sequence[Token], finish: str | None) -> dict[str, Any] | None:
        if not self.body.logprobs:
            return None
        return {"content": [_described(token) for token in tokens], "refusal": None}


def _described(token: Token) -> dict[str, Any]:
    likeliest = [
        {"token": text, "logprob": value, "bytes": octets(text)}
        for text, value in zip(token.likeliest, token.logprobs.values, strict=True)
    ]
    return {
        "token": token.text, "logprob": token.logprobs.chosen, "bytes": octets(token.text), "top_logprobs": likeliest,
    }  # fmt: skip
