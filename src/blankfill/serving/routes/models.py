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


@router.get("/models/{name:path}", summary="One model, and what it can do")
async def model(name: str, state: State) -> dict[str, Any]:
    """Describe a model."""
    return described(state.models.by_name(name))


def described(model: ServedModel) -> dict[str, Any]:
    """Return a model as OpenAI lists it, with what it can do beside."""
    return {
        "id": model.name, "object": "model", "created": model.created, "owned_by": "blankfill",
        "abilities": sorted(ability.value for ability in model.abilities), **_about(model.model),
    }  # fmt: skip


def _about(model: Model) -> dict[str, Any]:
    """Return the objective of a pretrained model, and the task of a fine-tuned one, with the fields of its rows and its
    labels."""
    about: dict[str, Any] = {}
    if model.is_pretrained:
        about["objective"] = model.loaded.objective.name
    if model.is_fine_tuned:
        task = model.task
        fields = NEEDED.get(task.name, FIELDS.get(task.kind, ()))
        about["task"] = {
            "name": task.name, "kind": task.kind, "fields": list(fields), "labels": list(model.labels),
        }  # fmt: skip
    return about
