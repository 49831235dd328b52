"""The probability of texts."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from pydantic import Field
from starlette.responses import Response

from blankfill.corpus.unknown import counting
from blankfill.serving.abilities import Ability
from blankfill.serving.answers import rows_of
from blankfill.serving.engine import BETWEEN_STEPS
from blankfill.serving.errors import ApiError
from blankfill.serving.inputs import Texts, aside, check_count, check_tokens, no_token
from blankfill.serving.kinds.score import ScoreKind
from blankfill.serving.schemas import Body, ModelName
from blankfill.serving.state import State
from blankfill.types import Int32

router = APIRouter(prefix="/v1", tags=["probabilities"])


class ScoreRequest(Body):
    """Texts whose probability is computed."""

    model: ModelName = None
    input: Texts
    allow_unknown: Annotated[bool, Field(description="Also texts that are mostly unknown to the tokenizer.")] = False


@router.post("/score", response_model=None)
async def score(body: ScoreRequest, state: State) -> Response:
    """Compute the log-probability of each token of each text. kind says what a token is given: causal, the tokens
    before it; masked, all others (a pseudo-log-likelihood); blank, the others around a blank."""
    served = state.models.named(body.model, Ability.SCORE)
    texts = body.input
    check_count(len(texts), served.settings)
    served.engine.check_room(len(texts))
    kind = served.part("score", lambda served: ScoreKind(served.model.loaded))
    tokenizer = served.model.loaded.tokenizer

    def encoded() -> list[tuple[Int32, NDArray[np.int32]]]:
        with counting("the texts", allow=body.allow_unknown, notes=False):
            return [tokenizer.encode_places(text) for text in texts]

    read = await aside(encoded, texts)
    for number, (ids, _) in enumerate(read):
        if not len(ids):
            raise no_token(number, len(read))
    pieces = [kind.items(ids, BETWEEN_STEPS) for ids, _ in read]
    items = [item for own in pieces for item in own]
    total_columns = check_tokens(list(map(kind.size, items)), served.settings)
    if len(items) > served.settings.max_queue // 2:  # larger ones, which have room in the queue
        at_once = total_columns // max(1, served.settings.max_queue // 4)
        pieces = [kind.items(ids, at_once) for ids, _ in read]
        items = [item for own in pieces for item in own]
    scored = iter(await served.engine.compute(kind, items))
    results: list[NDArray[np.float64]] = [np.concatenate([next(scored) for _ in own]) for own in pieces]
    rows: list[dict[str, Any]] = []
    for text, (ids, places), logs in zip(texts, read, results, strict=True):
        if not np.isfinite(logs).all():
            raise ApiError(500, "the scores of the model are not finite numbers: it has diverged", "model_diverged")
        tokens = [
            {"id": id, "text": text[start:end] or tokenizer.token(id), "logprob": round(log, 6)}
            for id, (start, end), log in zip(ids.tolist(), places.tolist(), logs.tolist(), strict=True)
        ]
        total = float(logs.sum())
        perplexity = math.exp(min(-total / len(ids), 700.0))
        rows.append({"kind": kind.name, "total": round(total, 6), "perplexity": perplexity, "tokens": tokens})
    return rows_of(served, rows, sum(len(ids) for ids, _ in read))
