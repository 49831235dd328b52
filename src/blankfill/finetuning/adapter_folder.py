"""The adapter of a fine-tuning run as a folder (`adapt.folder`), and a fine-tuned model from a base and such a folder.

The folder holds what the run trained: LoRA's matrices or the prefix, the head, and the task with its options. A run
with a prefix keeps only this in its checkpoints too, and is opened beside its base (`beside_base`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.chatting.templates import FILE as TEMPLATE
from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import ConfigError, UserError, setting
from blankfill.finetuning.config import FinetuneConfig
from blankfill.system.console import amount, quoted, say
from blankfill.system.files import remove
from blankfill.system.loader import build, fitting
from blankfill.system.reading import field, read_text
from blankfill.tasks.cloze.pattern import PATTERNS
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.options import WITHOUT_ADAPTER, FinetuneOptions

if TYPE_CHECKING:
    import torch

    from blankfill.adapt.folder import AdapterFolder
    from blankfill.checkpoint.load import Loaded
    from blankfill.finetuning.model_setup import TaskSetup
    from blankfill.finetuning.tuned import TunedModel
    from blankfill.model.transformer import Transformer

STATE = ("objective", "roles", "task")
"""What the folder has of a checkpoint's state."""


def write_adapter(run: Path, setup: TaskSetup, options: FinetuneOptions, state: Mapping[str, Any]) -> Path:
    """Write the adapter of a run's model into its folder, in place of an earlier one; returns its path.

    state: of the run's checkpoints.
    """
    from blankfill.adapt import folder

    out, loaded, model = run / folder.INSIDE, setup.loaded, setup.model
    base = {name: value for name, value in setup.base.items() if name != "path"}
    note: dict[str, Any] = {"base": base, "state": {name: state[name] for name in STATE}}
    note["state"]["patterns"] = state["inputs"].get("patterns")
    if getattr(setup.adapter, "threshold", None) is not None:
        note["state"]["threshold"] = setup.adapter.threshold  # type: ignore[attr-defined]
    if options.method == "cloze":
        note["part"] = "language model"
    if options.prefix_length:
        values, tensors = prefix_in_peft(model.encoder, base["name"], setup.adapter.task.kind)
    else:
        names, values, tensors = lora_in_peft(loaded, model.encoder, base["name"])
        note["names"] = names
    head = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    files = {name: read_text(run / name) for name in (PATTERNS, TEMPLATE) if (run / name).exists()}
    if out.exists():
        remove(out)
    size = folder.write_adapter(out, values, tensors, note, head, files)
    say(f"{out}: the adapter alone, {amount(size, 'B')}; {setting('adapter', quoted(out))} loads it")
    return out


def prefix_in_peft(model: Transformer, base: str, kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the values of adapter_config.json and the tensors of a prefix. kind: of the task."""
    from blankfill.adapt.peft import PROMPT

    prefix, config = model.prefix_encoder, model.config
    assert prefix is not None
    values = {
        "peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM" if kind in ("generate", "chat") else None,
        "base_model_name_or_path": base, "inference_mode": True, "num_virtual_tokens": prefix.shape.length,
        "token_dim": config.kv_width, "num_transformer_submodules": 1, "num_attention_heads": config.kv_heads,
        "num_layers": prefix.layers, "encoder_hidden_size": config.hidden_size, "prefix_projection": False,
    }  # fmt: skip
    return values, {PROMPT: prefix.table.detach()}


def lora_in_peft(
    loaded: Loaded, model: Transformer, base: str
) -> tuple[dict[str, Any] | None, dict[str, Any], dict[str, torch.Tensor]]:
    """Return how the names of weights are noted (None: our own), the values of adapter_config.json, and the matrices of
    LoRA."""
    from blankfill.adapt.lora import ALPHA, LoraLinear
    from blankfill.adapt.peft import DOWN, PREFIX, peft_matrices, same_name
    from blankfill.families.checkpoint_format import checkpoint_format_of
    from blankfill.families.weight_names import Rule, Transposed

    modules = {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    products = {f"{name}.weight": (part.down.detach(), part.up.detach()) for name, part in modules.items()}
    form = checkpoint_format_of(model.config, loaded.objective, loaded.vocabulary)
    names, rules = None, [Rule(name, (name,)) for name in products]
    matrices = None
    if not isinstance(form, str):
        try:
            matrices = dict(peft_matrices(form.table.rules, products, same_name))
            names = form.state()
        except UserError:  # transformers has these weights in another shape
            matrices = None
    if matrices is None:
        matrices = dict(peft_matrices(rules, products, same_name))
    rank = next(iter(modules.values())).down.shape[0]
    theirs = [] if names is None or isinstance(form, str) else form.table.rules
    transposed = any(isinstance(rule, Transposed) for rule in theirs)
    values = {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": base, "r": rank, "lora_alpha": ALPHA * rank,
        "lora_dropout": model.config.dropout, "bias": "none", "fan_in_fan_out": transposed, "inference_mode": True,
        "target_modules": sorted({name.removesuffix(DOWN) for name in matrices if name.endswith(DOWN)}),
    }  # fmt: skip
    return names, values, {f"{PREFIX}{name}": tensor for name, tensor in matrices.items()}


def tuned_from_adapter(loaded: Loaded, adapter: AdapterFolder) -> TunedModel:
    """Return the fine-tuned model of a base and the adapter of a run.

    loaded: the base in float32, with the adapter already (`adapt.loading.load_adapter`). Raises UserError for an
    adapter without a task, such as those of peft.
    """
    from blankfill.adapt.folder import NOTE
    from blankfill.checkpoint.load import with_roles_of
    from blankfill.finetuning.tuned import TunedModel
    from blankfill.objectives import objective_from_values

    if not adapter.has_task:
        raise UserError(
            f"{adapter.path} is an adapter without a task; use it with `blankfill generate`, `fill` or `embed`, or "
            "give one that `blankfill finetune` wrote"
        )
    where = adapter.path / NOTE
    state = field(adapter.note, "state", dict, where)
    noted = field(state, "task", dict, where)
    options = build(FinetuneOptions, field(noted, "options", dict, where), f"{where}: `options`")
    if problems := options.problems():
        raise ConfigError([f"{where}: {problem}" for problem in problems])
    labels = fitting(field(noted, "labels", list, where), tuple[str, ...], f"{where}: `labels`")
    tables = build(TableOptions, noted["tables"], f"{where}: `tables`") if "tables" in noted else TableOptions()
    roles = fitting(state.get("roles", {}), dict[str, int], f"{where}: `roles`")
    encoder = loaded.language_model if options.method == "cloze" else loaded.encoder
    return TunedModel(
        adapter.path, adapter.path, encoder.config,
        objective_from_values(field(state, "objective", dict, where), where), loaded.tokenizer,
        with_roles_of(loaded.vocabulary, roles), task_named(field(noted, "name", str, where)),
        dataclasses.replace(options, **WITHOUT_ADAPTER), labels, dict(adapter.head), state.get("patterns"),
        field(state, "threshold", float, where, None), tables, encoder=encoder,
    )  # fmt: skip


def beside_base(read: TunedModel, base: Mapping[str, Any]) -> TunedModel:
    """Return the model of a checkpoint that has only a prefix and a head, with the base that the run began from.

    base: the identity of that model, with its path. Raises UserError when it is not there, or is another one.
    """
    from blankfill.adapt.folder import INSIDE, AdapterFolder
    from blankfill.adapt.identity import check_identity
    from blankfill.adapt.loading import put_adapter
    from blankfill.checkpoint.store import STATE as FILE
    from blankfill.finetuning.model_setup import load_pretrained

    where = read.path / FILE
    path = Path(field(base, "path", str, where))
    if not path.exists():
        raise UserError(
            f"{read.path} has a prefix, and the model that it belongs to is not at {path} any more; put it back, or "
            f"give its new place with the adapter alone: {setting('model')} and {setting('adapter', INSIDE)}"
        )
    loaded, _ = load_pretrained(FinetuneConfig(read.task.name, path, path, read.options))
    check_identity(loaded.model, path, base, where)
    beginning = "encoder.prefix_encoder."
    prefix = {name.removeprefix(beginning): tensor for name, tensor in read.weights.items()
              if name.startswith(beginning)}  # fmt: skip
    put_adapter(loaded, AdapterFolder(read.path, "prefix", {}, prefix))
    rest = {name: tensor for name, tensor in read.weights.items() if not name.startswith(beginning)}
    return dataclasses.replace(read, weights=rest, encoder=loaded.model)
