"""A model that was fine-tuned with a prefix → the prefix in the layout of another program.

For peft: an adapter of prefix tuning, and in `base` the frozen model in transformers' format. peft counts the prefix in
the positions, and this program does not, so the base's table of positions has rows of zeros before ours. For
ChatGLM-6B: a checkpoint as its own code for P-tuning v2 writes it, `transformer.prefix_encoder` in pytorch_model.bin.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from blankfill.adapt.folder import ENCODER
from blankfill.adapt.peft import FILE, WEIGHTS
from blankfill.checkpoint.hf_layout import make_hf_layout
from blankfill.checkpoint.store import MODEL, write_weights
from blankfill.convert.card import README, Target
from blankfill.convert.check import TOLERANCE, difference_of
from blankfill.convert.exporting import Exported, differs, export_format, refuse_quantized
from blankfill.errors import UserError
from blankfill.exporting.adapter import BASE, open_adapter
from blankfill.exporting.cards import fine_tuned_card
from blankfill.exporting.heads import generation_config, loaded_of
from blankfill.exporting.rows import rows_to_compare
from blankfill.finetuning.adapter_folder import prefix_in_peft
from blankfill.system.environment import has_module
from blankfill.system.files import make_folder, whole_folder, write_file
from blankfill.tasks.adapter import HeadAdapter

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded
    from blankfill.finetuning.predictor import Predictor
    from blankfill.model.prefix import PrefixEncoder

RELEASED = "pytorch_model.bin"


def export_prefix(predictor: Predictor, path: Path, out: Path, lines: Sequence[str] | None = None) -> Exported:
    """Write the prefix of an opened model; see `exporting.model.export_model`.

    Raises UserError for a model with a head, and for one to whose class peft gives no prefix.
    """
    loaded, prefix = loaded_of(predictor, path), predictor.model.encoder.prefix_encoder
    assert prefix is not None
    elsewhere = f"the folder {path / 'adapter'} holds the prefix for this program"
    if isinstance(predictor.adapter, HeadAdapter):
        raise UserError(f"{path} has a prefix and a head, which no other program has; {elsewhere}")
    names = export_format(loaded).family
    if names.released_prefix:
        return _released(prefix, out)
    if not names.counts_prefix:
        raise UserError(f"peft gives no prefix to transformers' {names.model_type}; {elsewhere}")
    refuse_quantized(predictor.model, path)
    return _for_peft(predictor, loaded, path, out, lines)


def _released(prefix: PrefixEncoder, out: Path) -> Exported:
    with whole_folder(out) as folder:
        torch.save({f"{ENCODER}embedding.weight": prefix.table.detach().clone()}, folder / RELEASED)
        values = {"pre_seq_len": prefix.shape.length, "prefix_projection": False}
        write_file(folder / "config.json", json.dumps(values, indent=2) + "\n")
    note = f"a checkpoint of P-tuning v2, for a model opened with pre_seq_len={prefix.shape.length}"
    return Exported(out, "PrefixEncoder", 0, None, note=note)


def _for_peft(
    predictor: Predictor, loaded: Loaded, path: Path, out: Path, lines: Sequence[str] | None
) -> Exported:  # fmt: skip
    given = rows_to_compare(predictor, loaded, path, lines, "token")
    model = loaded.model
    rows = model.prefix_length
    config = replace(model.config, position_sizes=(model.config.position_sizes[0] + rows,))
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("prefix_encoder.")}
    table_TD = weights["positions.0.weight"]
    weights["positions.0.weight"] = torch.cat([table_TD.new_zeros(rows, table_TD.shape[1]), table_TD])
    plain = replace(export_format(loaded), config=config)
    layout = make_hf_layout(plain, loaded.objective, loaded.tokenizer, loaded.vocabulary)
    architecture = plain.family.write(config)["architectures"][0]
    values, tensors = prefix_in_peft(model, BASE, predictor.task.kind)
    describe, largest = fine_tuned_card(predictor, out.name), None
    with whole_folder(out) as folder:
        make_folder(folder / BASE)
        for name, content in {**layout.files, **generation_config(predictor)}.items():
            write_file(folder / BASE / name, content)
        write_weights(folder / BASE / MODEL, plain.table.to_theirs(weights))
        write_weights(folder / WEIGHTS, tensors)
        write_file(folder / FILE, json.dumps(values, indent=2) + "\n")
        if has_module("peft") and has_module("transformers"):
            opened = open_adapter(folder, loaded.objective.hf_auto_class)
            largest = difference_of(loaded, opened, folder / BASE, given.texts)
            if not largest <= TOLERANCE:
                raise UserError(differs(path, largest))
        write_file(folder / README, describe(Target("peft", architecture, given.count, largest, base=BASE)))
    return Exported(out, architecture, given.count, largest, task=given.task)
