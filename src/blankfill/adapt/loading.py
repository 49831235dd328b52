"""A model with an adapter: one function for every command and for Python (`load_adapter`).

A prefix becomes a part of the model; LoRA's products are added to the weights, or stay beside quantised ones. A prefix
that peft wrote counts in the positions of a model with a table of positions (GPT-2 in transformers): the model then
reads that table from the row behind the prefix on, which is the same.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from blankfill.adapt.folder import AdapterFolder, read_adapter
from blankfill.adapt.identity import check_identity
from blankfill.adapt.lora import ALPHA, LoraLinear
from blankfill.adapt.peft import FILE, lora_changes
from blankfill.adapt.prefix import add_prefix, compute_prefix
from blankfill.checkpoint.load import Loaded
from blankfill.errors import UserError
from blankfill.families.checkpoint_format import checkpoint_format_from_state, checkpoint_format_of
from blankfill.families.weight_names import Table
from blankfill.model.dense import Dense
from blankfill.model.prefix import PrefixShape
from blankfill.model.quantized import QuantizedDense
from blankfill.model.transformer import Transformer
from blankfill.system.console import say
from blankfill.system.reading import field


def load_adapter(loaded: Loaded, folder: str | Path | AdapterFolder) -> Loaded:
    """Give a model an adapter, in place; it is ready for inference then.

    Args:
        loaded: The model that the adapter was trained with, as `checkpoint.load.load_model` opens it.
        folder: The adapter: a folder that fine-tuning wrote with LoRA or a prefix, the run itself, a folder of peft
            with one of the two, or a checkpoint of ChatGLM-6B's P-tuning v2; or one that has been read.

    Returns:
        The model.

    Raises:
        UserError: The folder holds no adapter or a damaged one, or it belongs to another model.
    """
    adapter = folder if isinstance(folder, AdapterFolder) else read_adapter(Path(folder))
    model = loaded.language_model if adapter.note.get("part") == "language model" else loaded.encoder
    put_adapter(dataclasses.replace(loaded, model=model), adapter)
    return loaded


def put_adapter(loaded: Loaded, adapter: AdapterFolder) -> None:
    """Give `loaded.model` itself an adapter, in place. Raises UserError as `load_adapter` does."""
    model = loaded.model
    if adapter.note:
        where = adapter.path / "blankfill.json"
        check_identity(model, loaded.path, field(adapter.note, "base", dict, where), where)
    if adapter.kind == "prefix":
        _put_prefix(loaded, adapter)
    else:
        _put_lora(loaded, adapter)
    model.requires_grad_(False)


def _put_prefix(loaded: Loaded, adapter: AdapterFolder) -> None:
    model, tensors = loaded.model, {name: tensor.float() for name, tensor in adapter.tensors.items()}
    config, table_PC = model.config, tensors["embedding.weight"]
    columns = 2 * (config.encoder_layers + config.num_layers) * config.kv_width
    inner = tensors["projection.0.weight"].shape[0] if "projection.0.weight" in tensors else 0
    with torch.device("meta"):
        add_prefix(model, PrefixShape(max(1, table_PC.shape[0]), inner))
    prefix = model.prefix_encoder
    assert prefix is not None
    own = {name: tensor.shape for name, tensor in prefix.state_dict().items()}
    if own != {name: tensor.shape for name, tensor in tensors.items()}:
        model.prefix_encoder = None
        has = tensors["projection.2.weight"].shape[0] if "projection.2.weight" in tensors else table_PC.shape[-1]
        raise UserError(
            f"{adapter.path} is an adapter of another model: its prefix has {has} numbers for a column, and that of "
            f"{loaded.path} would have {columns}; give the model that it was trained with"
        )
    device = model.device
    prefix.load_state_dict({name: tensor.to(device) for name, tensor in tensors.items()}, assign=True)
    compute_prefix(model)
    if adapter.values and not adapter.note and len(model.positions):
        _count_in_positions(model, len(table_PC), adapter.path)


def _count_in_positions(model: Transformer, columns: int, path: Path) -> None:
    """Let position 0 be the row behind a prefix of the first table of positions."""
    table = model.positions[0]
    assert isinstance(table, nn.Embedding)
    rows = len(table.weight) - columns
    if rows < 1:
        raise UserError(f"{path}: its prefix of {columns} columns takes all {len(table.weight)} positions of the model")
    table.weight = nn.Parameter(table.weight[columns:].clone(), requires_grad=False)
    table.num_embeddings = rows
    model.config = dataclasses.replace(model.config, position_sizes=(rows, *model.config.position_sizes[1:]))
    say(f"{path}: peft counts a prefix in the positions, of which {rows} are left")


def _put_lora(loaded: Loaded, adapter: AdapterFolder) -> None:
    model, where = loaded.model, adapter.path
    modules = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, Dense)}
    shapes = {name: (module.out_features, module.in_features) for name, module in modules.items()}
    changes = lora_changes(adapter.tensors, adapter.values, _table(loaded, adapter), shapes, where)
    if others := [name for name in changes if name not in modules]:
        raise UserError(f"{where}: its matrix for {others[0]} cannot be added to that weight; only dense layers can")
    if saved := adapter.values.get("modules_to_save"):
        say(f"{where}: the modules that were trained besides ({', '.join(map(str, saved))}) are not read")
    with torch.no_grad():
        for name, (down, up) in changes.items():
            module, device = modules[name], modules[name].weight.device
            down, up = down.to(device), up.to(device)
            if isinstance(module, QuantizedDense):  # whose weights cannot take the product
                beside, dtype = LoraLinear(module, len(down), 0.0), model.dtype
                beside.down, beside.up = nn.Parameter(down.to(dtype)), nn.Parameter((up / ALPHA).to(dtype))
                model.set_submodule(name.removesuffix(".weight"), beside.train(model.training))
                continue
            summed = module.weight.float() + up @ down
            module.weight = nn.Parameter(summed.to(module.weight.dtype), requires_grad=False)


def _table(loaded: Loaded, adapter: AdapterFolder) -> Table | None:
    """Return the table of the names in an adapter's file; None for our own names."""
    if adapter.note:
        names = adapter.note.get("names")
        if names is None:
            return None
        where = adapter.path / "blankfill.json"
        return checkpoint_format_from_state(field(adapter.note, "names", dict, where), loaded.model.config, where).table
    form = checkpoint_format_of(loaded.model.config, loaded.objective, loaded.vocabulary)
    if isinstance(form, str):
        raise UserError(
            f"{adapter.path / FILE} names weights as transformers does, and {form}; so this adapter does not belong to "
            f"{loaded.path}"
        )
    return form.table
