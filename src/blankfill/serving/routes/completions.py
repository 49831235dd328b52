"""Continuing texts, as OpenAI's completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter
from pydantic import BeforeValidator, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from blankfill.corpus.unknown import counting
from blankfill.errors import UserError, in_keys
from blankfill.generation.continuation import Continuation, Prompt, PromptReader, shortened
from blankfill.generation.logprobs import Logprobs
from blankfill.generation.pieces import is_readable_in_pieces
from blankfill.generation.sampling import Penalties, SampledRow, Sampling
from blankfill.generation.text_stream import token_text
from blankfill.serving.abilities import Ability
from blankfill.serving.errors import too_large
from blankfill.serving.events import DONE, EventStream, event
from blankfill.serving.openai import (
    MOST_ANSWERS,
    Identity,
    WritingBody,
    check_new_tokens,
    check_prompt_tokens,
    first_of,
    neutral,
    unsuitable,
    usage,
    writing_of,
)
from blankfill.serving.settings import ServeSettings
from blankfill.serving.state import State
from blankfill.serving.writing import Answer, Piece, Token, Whole, Writing, collected
from blankfill.types import DecoderInput

if TYPE_CHECKING:
    from blankfill.corpus.tokenizer import Tokenizer

router = APIRouter(prefix="/v1", tags=["writing"])

PREFIX, OBJECT = "cmpl", "text_completion"
NEW_TOKENS = 16
"""Largest number of new tokens of a request that does not give it, as OpenAI has it."""
MOST_LIKELIEST = 20
"""Largest number of likeliest tokens with log-probabilities."""


def _of_a_known_form(prompt: Any) -> Any:
    """Raise ValueError for a prompt of another form, in one sentence."""
    parts = prompt if isinstance(prompt, list) else []
    kinds = {type(part) for part in parts}
    ids = kinds == {list} and all(type(id) is int for part in parts for id in part)
    if not (isinstance(prompt, str) or (isinstance(prompt, list) and (kinds <= {str} or kinds == {int} or ids))):
        raise ValueError("should be a text, a list of texts, a list of token ids, or a list of such lists")
    return prompt


class CompletionRequest(WritingBody):
    """A prompt to continue, or several."""

    prompt: Annotated[
        str | list[str] | list[int] | list[list[int]],
        BeforeValidator(_of_a_known_form),
        Field(description="A text, its token ids, or a list of either. GLM and T5 fill the one blank of a text."),
    ]
    suffix: str | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LIKELIEST)] | None = None
    metadata: dict[str, Any] | None = None
    service_tier: Annotated[Any, neutral("auto", "default")] = None

    @property
    def new_tokens(self) -> int:
        """Largest number of new tokens of an answer."""
        return NEW_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def scores_prompt(self) -> bool:
        """Whether the log-probabilities of the prompt are wanted."""
        return bool(self.echo) and self.logprobs is not None

    @property
    def written(self) -> int:
        """Number of answers that are written to each prompt, of which the best n are returned."""
        return self.best_of or self.answers

    def prompts(self, settings: ServeSettings) -> Sequence[str | list[int]]:
        """Return the prompts. Raises ApiError: 413 for too many, 422 for none."""
        single = isinstance(self.prompt, str) or (self.prompt and isinstance(self.prompt[0], int))
        prompts: list[Any] = [self.prompt] if single else [*self.prompt]
        if not prompts:
            raise unsuitable("prompt", "the list is empty; give at least one text")
        if [] in prompts:
            raise unsuitable("prompt", f"text {prompts.index([]) + 1} has no tokens; give at least one")
        if len(prompts) > settings.max_texts:
            raise too_large(
                f"prompt: {len(prompts):,} texts, and a request may have {settings.max_texts:,}; send several requests",
                "prompt",
            )
        return prompts

    def check(self, prompts: int, settings: ServeSettings) -> None:
        """Raise ApiError (422) for fields that contradict one another or a limit."""
        self.check_stream()
        if self.written < self.answers:
            raise unsuitable("best_of", f"{self.written}, and n is {self.answers}; give at least n")
        if self.stream and self.written > self.answers:
            raise unsuitable("best_of", "the best answers are known at the end, so leave it out with stream true")
        if not self.new_tokens and not self.echo:
            raise unsuitable("max_tokens", "0 is only for echo true; give at least 1")
        check_new_tokens(prompts * self.written * self.new_tokens, settings, "max_tokens")


Scored = tuple[str, int, Logprobs | None, Sequence[str]]
"""The text of a token, the characters before it, its log-probabilities if any, and the texts of the likeliest ones."""


@dataclass(frozen=True)
class Plan:
    """A prompt that has been laid out. number: of the prompt. texts: one for each answer."""

    prompt: Prompt
    texts: Sequence[Continuation]


@router.post("/completions", response_model=None)
async def completions(body: CompletionRequest, state: State) -> Response:
    """Continue a text, or fill its blank with a long text (GLM, T5)."""
    served = state.models.named(body.model, Ability.COMPLETE)
    settings = state.settings
    prompts = body.prompts(settings)
    body.check(len(prompts), settings)
    served.engine.check_room(len(prompts) * body.written)
    loaded = served.model.loaded
    reader = served.part("prompts", lambda _: PromptReader(loaded))
    penalties = body.penalties(loaded.vocabulary.size)
    plans = await run_in_threadpool(laid_out, reader, body, prompts, penalties, settings)
    served.engine.check_room(len(prompts) * body.written)  # others may have come meanwhile
    writing = writing_of(served, loaded.model, loaded.vocabulary.roles.get("pad", 0))
    best = body.written > body.answers
    logprobs = 0 if best and body.logprobs is None else body.logprobs
    texts = [text for plan in plans for text in plan.texts]
    answers = [
        Answer(
            index, text, loaded.tokenizer, stream=bool(body.stream), logprobs=logprobs,
            prompt_logprobs=body.scores_prompt,
        )
        for index, text in enumerate(texts)
    ]  # fmt: skip
    completion = Completion(loaded.tokenizer, body, plans, writing, Identity.new(served, PREFIX, OBJECT, loaded.model))
    if body.stream:
        return EventStream(completion.events(answers))
    return JSONResponse(await completion.whole(answers))


def laid_out(
    reader: PromptReader,
    body: CompletionRequest,
    prompts: Sequence[str | list[int]],
    penalties: Penalties | None,
    settings: ServeSettings,
) -> list[Plan]:
    """Lay out prompts for their answers. Raises ApiError and UserError."""
    sampling, stops = Sampling(**body.sampling()), body.stops()
    with counting("the prompt" if len(prompts) == 1 else "the prompts", allow=body.allow_unknown, notes=False):
        read = [read_prompt(reader, body, prompt) for prompt in prompts]
    total = sum(len(prompt.ids) + len(prompt.behind) for prompt in read)
    if body.scores_prompt:  # each token of each answer has its likeliest tokens in memory
        total *= body.written * (1 + (body.logprobs or 0))
    check_prompt_tokens(total, settings, "prompt")
    plans = []
    for number, prompt in enumerate(read):
        fitted, row = in_context(reader, prompt, number, body, settings.batch_tokens)
        if body.scores_prompt and not is_readable_in_pieces(reader.loaded.model, row):
            raise unsuitable(
                "logprobs", f"a {reader.loaded.objective.name} model does not read prompts from left to right, so it "
                "has none of the prompt; leave echo out, or use /v1/score",
            )  # fmt: skip
        first = number * body.written
        sampled = [SampledRow(sampling, fitted.ids, reader.banned_V, first + k, penalties) for k in range(body.written)]
        most = max(1, body.new_tokens)
        plans.append(Plan(fitted, [Continuation(reader, fitted, row, each, most, stops) for each in sampled]))
    return plans


def read_prompt(reader: PromptReader, body: CompletionRequest, prompt: str | list[int]) -> Prompt:
    """Return a prompt as tokens. Raises ApiError and UserError."""
    if body.suffix is not None:
        objective = reader.loaded.objective
        if not objective.writes_into_blanks:
            raise unsuitable("suffix", f"a {objective.name} model continues texts and cannot write before another text")
        if not isinstance(prompt, str):
            raise unsuitable("suffix", "only for prompts that are texts")
        return reader.between(prompt, body.suffix)
    return reader.read(prompt) if isinstance(prompt, str) else reader.of_ids(prompt)


def in_context(
    reader: PromptReader, prompt: Prompt, number: int, body: CompletionRequest, at_once: int
) -> tuple[Prompt, DecoderInput]:
    """Return a prompt that fits into the model's context, with its row. at_once: largest number of columns of a row
    that cannot be read in pieces.

    Raises ApiError (422) for one that does not, unless it may be cut: then its first tokens are left out, so that the
    new tokens have room, or half of the context where they are more.
    """
    model, sentence = reader.loaded.model, ""
    most = 0
    try:
        row = reader.row(prompt)
        if row.columns > at_once and not is_readable_in_pieces(model, row):
            most = at_once
            sentence = f"the text has {row.columns:,} tokens, and the server reads {most:,} at once; shorten it"
        elif not body.truncate:
            return prompt, row
    except UserError as error:
        sentence = in_keys(error.sentence)
        if shortened(reader, prompt, 1) is None:
            raise
    if not body.truncate:
        message = f"text {number + 1}: {sentence}, or set truncate to true"
        raise unsuitable("prompt", message, "context_length_exceeded")
    least = shortened(reader, prompt, 1, most)
    if least is None:
        raise unsuitable("prompt", f"text {number + 1}: {sentence}", "context_length_exceeded")
    half = max(1, (least[1].columns + least[1].room) // 2)
    return shortened(reader, prompt, min(max(1, body.new_tokens), half), most) or least


class Completion:
    """The answers to one request, as they are written."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        body: CompletionRequest,
        plans: Sequence[Plan],
        writing: Writing,
        identity: Identity,
    ) -> None:
        self.tokenizer, self.body, self.plans = tokenizer, body, plans
        self.writing, self.identity = writing, identity
        self.prompt_tokens = sum(plan.texts[0].row.columns for plan in plans)

    async def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return the whole body of the response."""
        with self.writing.running(answers, self.prompt_tokens) as inbox:
            made = await collected(inbox, len(answers))
        written, choices = self.body.written, []
        for number, plan in enumerate(self.plans):
            own = made[number * written : (number + 1) * written]
            if written > self.body.answers:
                own = sorted(own, key=_mean_logprob, reverse=True)[: self.body.answers]
            choices += [await run_in_threadpool(self._choice, plan, answer) for answer in own]
        for index, choice in enumerate(choices):
            choice["index"] = index
        count = sum(answer.count for answer in made) if self.body.new_tokens else 0
        return self.identity.to_json(choices=choices, usage=usage(self.prompt_tokens, count))

    async def events(self, answers: Sequence[Answer]) -> AsyncGenerator[bytes, None]:
        """Yield the events of a stream."""
        body = self.body
        counts, begun = [0] * len(answers), set[int]()
        with self.writing.running(answers, self.prompt_tokens) as inbox:
            if not body.scores_prompt:
                yield b"".join(self._first(answer.index) for answer in answers)
            async for pieces in inbox:
                parts = []
                for piece in pieces:
                    counts[piece.index] = piece.count
                    if body.scores_prompt and piece.index not in begun:
                        begun.add(piece.index)
                        parts.append(await run_in_threadpool(self._first, piece.index, piece.prompt))
                    parts.append(self._next(piece))
                yield b"".join(parts)
        if body.usage_wanted:
            total = usage(self.prompt_tokens, sum(counts) if body.new_tokens else 0)
            yield event(self.identity.to_json(choices=[], usage=total))
        yield DONE

    def _plan(self, index: int) -> Plan:
        return self.plans[index // self.body.written]

    def _first(self, index: int, scores: Sequence[Logprobs] = ()) -> bytes:
        """Return the event that comes before the new text: the prompt where it is repeated, and that it was cut."""
        plan = self._plan(index)
        if not self.body.echo and not plan.prompt.cut:
            return b""
        logprobs = self._shaped(self._prompt_tokens(plan, scores)) if self.body.scores_prompt else None
        text = plan.prompt.before if self.body.echo else ""
        return self._event(index, text, logprobs, cut=bool(plan.prompt.cut))

    def _next(self, piece: Piece) -> bytes:
        """Return the event of a piece."""
        body, plan = self.body, self._plan(piece.index)
        text, tokens = (piece.text, piece.tokens) if body.new_tokens else ("", ())
        if piece.finish is not None:
            text += self._behind(plan)
        before = self._before(plan)
        logprobs = None if body.logprobs is None else self._shaped([_with_offset(token, before) for token in tokens])
        return self._event(piece.index, text, logprobs, self._reason(piece.finish))

    def _event(
        self, index: int, text: str, logprobs: dict[str, Any] | None = None, finish: str | None = None,
        cut: bool = False,
    ) -> bytes:  # fmt: skip
        choice: dict[str, Any] = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        if cut:
            choice["truncated"] = True
        more = {"usage": None} if self.body.usage_wanted else {}
        return event(self.identity.to_json(choices=[choice], **more))

    def _choice(self, plan: Plan, answer: Whole) -> dict[str, Any]:
        body = self.body
        text, tokens = (answer.text, answer.tokens) if body.new_tokens else ("", ())
        scored = self._prompt_tokens(plan, answer.prompt) if body.scores_prompt else []
        before = self._before(plan)
        scored += [_with_offset(token, before) for token in tokens]
        choice: dict[str, Any] = {
            "index": 0, "text": (plan.prompt.before if body.echo else "") + text + self._behind(plan),
            "logprobs": self._shaped(scored) if body.logprobs is not None else None,
            "finish_reason": self._reason(answer.finish),
        }  # fmt: skip
        if plan.prompt.cut:
            choice["truncated"] = True
        return choice

    def _reason(self, finish: str | None) -> str | None:
        return finish if finish is None or self.body.new_tokens else "length"

    def _before(self, plan: Plan) -> int:
        """Return the number of characters before the new text."""
        return len(plan.prompt.before) if self.body.echo else 0

    def _behind(self, plan: Plan) -> str:
        """Return the text behind the blank of a prompt that is repeated."""
        return plan.prompt.after if self.body.echo and self.body.suffix is None else ""

    def _prompt_tokens(self, plan: Plan, scores: Sequence[Logprobs]) -> list[Scored]:
        """Return the tokens of a prompt. scores: of the last ones; the first has none where nothing is before it."""
        ids, offset = plan.prompt.ids, 0
        scored: list[Scored] = []
        for place, id in enumerate(ids):
            at = place - (len(ids) - len(scores))
            before = ids[max(0, place - 8) : place]
            text = token_text(self.tokenizer, before, id)
            made = scores[at] if at >= 0 else None
            likeliest = [] if made is None else [token_text(self.tokenizer, before, other) for other in made.ids]
            scored.append((text, offset, made, likeliest))
            offset += len(text)
        return scored

    def _shaped(self, tokens: Sequence[Scored]) -> dict[str, Any]:
        """Return log-probabilities as completions have them."""
        best = [
            None if made is None else dict(first_of([*zip(likeliest, made.values, strict=True)]))
            for _, _, made, likeliest in tokens
        ]
        return {
            "tokens": [text for text, _, _, _ in tokens],
            "token_logprobs": [None if made is None else made.chosen for _, _, made, _ in tokens],
            "top_logprobs": best if self.body.logprobs else None,
            "text_offset": [offset for _, offset, _, _ in tokens],
        }


def _with_offset(token: Token, before: int) -> Scored:
    """Return a token of an answer. before: characters before the answer."""
    return token.text, before + token.offset, token.logprobs, token.likeliest


def _mean_logprob(answer: Whole) -> float:
    """Return the mean log-probability of the tokens of an answer."""
    return sum(token.logprobs.chosen for token in answer.tokens) / max(1, len(answer.tokens))
