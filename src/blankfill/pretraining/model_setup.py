"""The model of a pretraining run: its size, whether it fits on this machine, and its first or restored weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from blankfill.errors import ConfigError, UserError
from blankfill.pretraining.data_setup import Rows
from blankfill.pretraining.inputs import Inputs, begin
from blankfill.system.console import say

if TYPE_CHECKING:
    import torch

    from blankfill.model.config import TransformerConfig
    from blankfill.model.transformer import Transformer
    from blankfill.runs.context import RunContext
    from blankfill.runs.start import Start
    from blankfill.training.progress import Progress


def build_model(inputs: Inputs, rows: Sequence[Rows], context: RunContext, start: Start) -> Transformer:
    """Make the model of a run with its first weights: drawn from the seed, from another model, or from a teacher's
    layers.

    Raises ConfigError when the run cannot work on this machine.
    """
    from blankfill.model.transformer import build

    recipe, warm_start, teacher = inputs.recipe, inputs.warm_start, inputs.teacher
    config = warm_start.config if warm_start else recipe.model_config(inputs.corpus.vocabulary.size)
    if teacher is not None:
        teacher.loaded.model.use_kernel(context.machine.attention)
        config = config if warm_start else teacher.student_config(config, recipe)
    check_it_fits(config, rows, inputs, context, start)
    seed, device = recipe.seed, context.device
    model = warm_start.build(seed, device) if warm_start else build(config, seed, device)
    model.use_kernel(context.machine.attention)
    model.recompute = recipe.train.gradient_checkpointing
    model.token_embeddings.gradient_shrink = recipe.train.embedding_gradient_shrink
    if teacher is not None and start.kind == "fresh" and recipe.distil.start == "teacher":
        layers = teacher.start(model, recipe)
        say(f"the student starts with layers {', '.join(map(str, layers))} of {teacher.path}, counted from 0")
    return model


def restore_or_begin(
    inputs: Inputs, model: Transformer, optimizer: torch.optim.Optimizer, context: RunContext, start: Start
) -> tuple[Progress, Inputs]:
    """Restore a resumed run from its checkpoint, or write the inputs of a new run to its folder.

    Returns the progress, and the inputs with their complete note. Raises UserError when the checkpoint is of another
    model, or when a run that started from another model ended before its first checkpoint.
    """
    from blankfill.checkpoint import store
    from blankfill.training.progress import Progress

    if not start.resumed:
        return Progress(), begin(inputs, context.folder)
    checkpoint = start.checkpoint
    if checkpoint is None and inputs.warm_start is not None:
        raise UserError(
            f"{context.folder} ended before its first checkpoint; remove it and begin again from "
            f"{inputs.warm_start.path}"
        )
    if checkpoint is not None and store.model_of(checkpoint.state, checkpoint.path) != model.config:
        raise UserError(f"{checkpoint.path}: the checkpoint is of another model than that of the recipe")
    return start.restore(model, optimizer), inputs


def check_it_fits(
    config: TransformerConfig, rows: Sequence[Rows], inputs: Inputs, context: RunContext, start: Start
) -> None:
    """Raise ConfigError before the start when the run cannot work on this machine; see `planning.fit_check`."""
    from blankfill.planning import estimate, fit_check

    recipe, corpus, device = inputs.recipe, inputs.corpus, context.device
    options, pad = recipe.train, corpus.vocabulary["pad"]
    shapes = [estimate.row_shape(estimate.sampled_rows(part.new), pad, corpus.unigram) for part in rows]
    planned = estimate.planned_phases(options, shapes, [part.new.objective.length for part in rows])
    space = fit_check.available_space(str(device), context.folder)
    main_memory = max(space.main_memory, start.free_memory)
    written = sum(
        path.lstat().st_size for path in context.folder.glob("checkpoints/*/*")
    )  # a resumed run replaces these
    space = fit_check.AvailableSpace(
        space.memory if device.type == "cuda" else main_memory, main_memory, space.disk + written
    )
    teacher = inputs.teacher
    teacher_bytes = estimate.distil_bytes(teacher.config, config, recipe.distil) if teacher else 0
    computing = estimate.Computing.of(context.dtype, context.machine.attention, device.type)
    vocabulary = corpus.vocabulary.size
    if problems := fit_check.fit_problems(config, planned, options, computing, space, vocabulary, teacher_bytes):
        raise ConfigError(problems)
