"""The models of the server, and what each can do."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from blankfill.finetuning.rows import FIELDS
from blankfill.inference import Model
from blankfill.serving.served import ServedModel
from blankfill.serving.state import State
from blankfill.tasks.datasets.row_formats import NEEDED

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/models", summary="The models of the server, and what each can do")
async def models(state: State) -> dict[str, Any]:
    """List the models."""
    return {"object": "list", "data": [described(model) for model in state.models]}


def described(model: ServedModel) -> dict[str, Any]:
    """Return a model as OpenAI lists it, with what it can do beside."""
    return {
        "id": model.name, "object": "model", "created": model.created, "owned_by": "blankfill",
        "abilities": sorted(ability.value for ability in model.abilities), **_task(model.model),
    }  # fmt: skip


def _task(model: Model) -> dict[str, Any]:
    """Return the task of a fine-tuned model, with the fields of its rows and its labels; nothing for another model."""
    if not model.is_fine_tuned:
        return {}
    task = model.task
    fields = NEEDED.get(task.name, FIELDS.get(task.kind, ()))
    return {"task": {"name": task.name, "kind": task.kind, "fields": list(fields), "labels": list(model.labels)}}
