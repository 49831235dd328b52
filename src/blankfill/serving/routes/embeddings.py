"""Vectors of texts, as OpenAI's clients ask for them."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from blankfill.embedding.embed import Float32
from blankfill.serving.abilities import Ability
from blankfill.serving.answers import usage
from blankfill.serving.errors import ApiError
from blankfill.serving.inputs import TextsOrIds, aside
from blankfill.serving.kinds.embedding import kind_of, read_texts
from blankfill.serving.schemas import Body, ModelName
from blankfill.serving.state import State

router = APIRouter(prefix="/v1", tags=["vectors"])


class EmbeddingRequest(Body):
    """Texts whose vectors are computed."""

    model: ModelName = None
    input: TextsOrIds
    encoding_format: Annotated[
        Literal["float", "base64"], Field(description="base64: little-endian float32, a quarter of the size.")
    ] = "float"
    dimensions: Annotated[
        int | None, Field(ge=1, description="Keep only the first numbers of each vector, at length 1 again.")
    ] = None
    user: Annotated[str | None, Field(description="Not used.")] = None
    pooling: Annotated[
        Literal["mean", "cls"], Field(description="mean over the tokens of a text, or the state of its [CLS].")
    ] = "mean"
    normalize: Annotated[bool, Field(description="Scale each vector to length 1.")] = True
    truncate: Annotated[bool, Field(description="Leave out the end of texts that are too long.")] = False
    allow_unknown: Annotated[bool, Field(description="Also texts that are mostly unknown to the tokenizer.")] = False


@router.post("/embeddings", response_model=None)
async def embeddings(body: EmbeddingRequest, state: State) -> Response:
    """Compute a vector for each text."""
    served = state.models.named(body.model, Ability.EMBED)
    kind = kind_of(served, body.pooling, body.normalize)
    width = kind.embedder.width
    if body.dimensions is not None and body.dimensions > width:
        raise ApiError(
            422, f"dimensions: {body.dimensions:,}, and the vectors of the model have {width:,}; give at most these",
            "invalid_request", "dimensions",
        )  # fmt: skip
    read = await read_texts(served, kind.embedder, body.input, body.truncate, body.allow_unknown)
    vectors: Sequence[Float32] = await served.engine.compute(kind, read.rows)
    if body.dimensions is not None and body.dimensions < width:
        vectors = [_shortened(vector, body.dimensions, body.normalize) for vector in vectors]
    form = _base64 if body.encoding_format == "base64" else _floats
    written = await aside(lambda: form(vectors), vectors)
    # The rows are joined as texts: json.dumps would escape each base64 text, character by character.
    data = ",".join(
        f'{{"object":"embedding","index":{index},"embedding":{vector}{truncated}}}'
        for index, (vector, truncated) in enumerate(
            zip(written, (',"truncated":true' if cut else "" for cut in read.cut), strict=True)
        )
    )
    end = json.dumps({"model": served.name, "usage": usage(read.tokens)}, separators=(",", ":"))
    return Response(f'{{"object":"list","data":[{data}],{end[1:]}'.encode(), media_type="application/json")


def _shortened(vector: Float32, dimensions: int, normalize: bool) -> Float32:
    """Return the first numbers of a vector, at length 1 again where it had this length."""
    short = vector[:dimensions]
    length = float(np.linalg.norm(short)) if normalize else 1.0
    return short if length == 0 else (short / length).astype(np.float32)


def _base64(vectors: Sequence[Float32]) -> list[str]:
    return [f'"{base64.b64encode(np.ascontiguousarray(vector, "<f4").data).decode("ascii")}"' for vector in vectors]


def _floats(vectors: Sequence[Float32]) -> list[str]:
    return [json.dumps(vector.tolist(), separators=(",", ":")) for vector in vectors]
