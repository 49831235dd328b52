"""Documents sorted by how well they suit a query, in Cohere's shape.

A model that was fine-tuned on pairs scores each document with the query; a pretrained model compares their vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from blankfill.embedding.embed import Float32
from blankfill.serving.abilities import Ability
from blankfill.serving.answers import answer, usage
from blankfill.serving.inputs import TEXT, check_text
from blankfill.serving.inputs import kind_of as described
from blankfill.serving.kinds import embedding, predictions
from blankfill.serving.schemas import Body, ModelName
from blankfill.serving.served import ServedModel
from blankfill.serving.state import State
from blankfill.tasks.adapter import Prediction
from blankfill.tasks.items import Item, TextItem

router = APIRouter(tags=["vectors"])


def _documents(value: Any) -> list[str]:
    if type(value) is not list:
        raise PydanticCustomError("documents", "{kind} in place of a list; give a list of texts",
                                  {"kind": described(value)})  # fmt: skip
    if not value:
        raise PydanticCustomError("documents", "the list is empty; give at least one document")
    texts = []
    for number, document in enumerate(value):
        if type(document) is dict:
            if list(document) != ["text"]:
                raise PydanticCustomError(
                    "documents", "value {number} has other fields than text; give a text, or an object with text",
                    {"number": number},
                )  # fmt: skip
            document = document["text"]
        texts.append(check_text(document, f"value {number}"))
    return texts


_DOCUMENT = {
    "anyOf": [
        TEXT,
        {"type": "object", "properties": {"text": TEXT}, "required": ["text"], "additionalProperties": False},
    ]
}
Documents = Annotated[
    list[str],
    PlainValidator(_documents),
    WithJsonSchema(
        {"type": "array", "items": _DOCUMENT, "minItems": 1, "description": "Texts, or objects with a text."}
    ),
]
Query = Annotated[
    str,
    PlainValidator(lambda value: check_text(value, "the value")),
    WithJsonSchema({**TEXT, "description": "A text."}),
]


class RerankRequest(Body):
    """A query and the documents to sort."""

    model: ModelName = None
    query: Query
    documents: Documents
    top_n: Annotated[int | None, Field(ge=1, description="Number of documents to return; all, if left out.")] = None
    return_documents: Annotated[bool, Field(description="Also return the texts of the documents.")] = False
    truncate: Annotated[bool, Field(description="Leave out the end of texts that are too long.")] = False
    allow_unknown: Annotated[bool, Field(description="Also texts that are mostly unknown to the tokenizer.")] = False


@router.post("/rerank", response_model=None)
@router.post("/v1/rerank", response_model=None)
@router.post("/v2/rerank", response_model=None)
async def rerank(body: RerankRequest, state: State) -> Response:
    """Sort documents by how well they suit a query, the best first. relevance_score is between 0 and 1."""
    served = state.models.named(body.model, Ability.RERANK)
    if served.model.is_fine_tuned:
        scores, tokens, cut = await _by_pairs(served, body)
    else:
        scores, tokens, cut = await _by_vectors(served, body)
    order = sorted(range(len(scores)), key=lambda k: -scores[k])[: body.top_n]
    results: list[dict[str, Any]] = []
    for k in order:
        results.append({"index": k, "relevance_score": scores[k]})
        if body.return_documents:
            results[-1]["document"] = {"text": body.documents[k]}
        if cut[k]:
            results[-1]["truncated"] = True
    return answer({"model": served.name, "results": results, "usage": usage(tokens)})


async def _by_vectors(served: ServedModel, body: RerankRequest) -> tuple[list[float], int, Sequence[bool]]:
    """Return the cosine of each document with the query, 0 where it is below."""
    kind = embedding.kind_of(served, "mean", True)
    queried = await embedding.read_texts(
        served, kind.embedder, [body.query], body.truncate, body.allow_unknown, "query"
    )
    given = await embedding.read_texts(
        served, kind.embedder, body.documents, body.truncate, body.allow_unknown, "documents"
    )
    vectors: list[Float32] = await served.engine.compute(kind, [*queried.rows, *given.rows])
    cosines = [float(vectors[0] @ vector) for vector in vectors[1:]]
    return [min(1.0, max(0.0, cosine)) for cosine in cosines], queried.tokens + given.tokens, given.cut


async def _by_pairs(served: ServedModel, body: RerankRequest) -> tuple[list[float], int, Sequence[bool]]:
    """Return the score of each pair of query and document."""
    kind = predictions.kind_of(served)
    items: list[Item] = [TextItem(str(k), body.query, document) for k, document in enumerate(body.documents)]
    pairs, tokens = await predictions.read_items(
        served, items, lambda: items, body.truncate, body.allow_unknown, "documents"
    )
    made: list[Prediction] = await served.engine.compute(kind, pairs)
    return [relevance(prediction.record, served.model.labels) for prediction in made], tokens, [p.cut for p in pairs]


def relevance(record: dict[str, Any], labels: Sequence[str]) -> float:
    """Return the relevance of a prediction, between 0 and 1: the probability of the second class, or the number passed
    through the logistic function."""
    if "score" in record:
        score = float(record["score"])
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, score))))
    return float(record["probabilities"][labels[1]])
