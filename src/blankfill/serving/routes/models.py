"""The models of the server, and what each can do."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from blankfill.serving.served import ServedModel
from blankfill.serving.state import State

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/models", summary="The models of the server, and what each can do")
async def models(state: State) -> dict[str, Any]:
    """List the models."""
    return {"object": "list", "data": [described(model) for model in state.models]}


def described(model: ServedModel) -> dict[str, Any]:
    """Return a model as OpenAI lists it, with what it can do beside."""
    return {
        "id": model.name, "object": "model", "created": model.created, "owned_by": "blankfill",
        "abilities": sorted(ability.value for ability in model.abilities),
    }  # fmt: skip
