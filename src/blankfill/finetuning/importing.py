"""Another program's model → a folder of ours, with its fine-tuned head where it has one.

A classifier, tagger, multiple-choice model or model of answers becomes a fine-tuned model, which `predict` opens and
`finetune` continues; see `finetuning.tuned`. Other models are imported as pretrained ones (`convert.importing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from blankfill.checkpoint import store
from blankfill.checkpoint.dtypes import WeightType, dtype_named, name_of
from blankfill.checkpoint.hf_loading import open_external
from blankfill.convert.importing import Imported, check_room, check_source, import_pretrained
from blankfill.errors import UserError, setting
from blankfill.finetuning.model_setup import task_state
from blankfill.finetuning.predictor import Predictor
from blankfill.finetuning.tuned import from_external
from blankfill.system.console import say
from blankfill.system.files import whole_folder, write_file
from blankfill.types import RotaryRounding

if TYPE_CHECKING:
    from blankfill.checkpoint.hf_loading import ExternalCheckpoint, QkvRows


def import_model(
    path: str | Path,
    out: str | Path,
    tokenizer: str | Path | None = None,
    heads: int | None = None,
    dtype: WeightType = "auto",
    leave_out: Sequence[str] = (),
    qkv: QkvRows = "heads",
    drop_image_rows: bool = False,
    rotary_rounding: RotaryRounding | None = None,
) -> Imported:
    """Import a transformers folder or an original GLM checkpoint.

    Args:
        path: The transformers folder, or the file or folder of the GLM checkpoint.
        out: The new folder.
        tokenizer: Path of the tokenizer, where it is not beside the weights.
        heads: Number of attention heads of a checkpoint that does not store it.
        dtype: Type of the weights in the new folder; "auto" keeps the stored type. A fine-tuned model is float32.
        leave_out: Beginnings of the names of weights to leave out: heads that this program does not have, or the head
            of a fine-tuned model, of which the encoder is then imported.
        qkv: Order of the joint rows of queries, keys and values of a ChatGLM-6B or GLM-130B: "heads" as released, or
            "blocks" as SwissArmyTransformer writes ChatGLM-6B since its version 0.4.1.
        drop_image_rows: Leave out the rows of image tokens of ChatGLM-6B's first release.
        rotary_rounding: What a ChatGLM-6B rounds to fp16 in its rotary positions: "none", "frequencies", or "angles".
            None: what its config.json names, else "frequencies", as released.

    Returns:
        The folder, the family, the number of parameters and their type; of a fine-tuned model its task and labels.

    Raises:
        UserError: A file is missing, damaged, unknown or too large; then nothing is left behind.
    """
    path, out = Path(path), Path(out)
    check_source(path, out)
    given = None if tokenizer is None else Path(tokenizer)
    source = open_external(
        path,
        heads,
        dtype_named(dtype),
        leave_out,
        with_head=True,
        qkv=qkv,
        image_rows=not drop_image_rows,
        rotary_rounding=rotary_rounding,
    )
    if source.head is None:
        return import_pretrained(source, out, given)
    if dtype not in ("auto", "fp32"):
        raise UserError(f"{path}: a fine-tuned model computes in float32; leave out {setting('dtype')}")
    return _import_fine_tuned(source, out, given)


def _import_fine_tuned(source: ExternalCheckpoint, out: Path, tokenizer: Path | None) -> Imported:
    """Write a model with its head, and open it again."""
    from blankfill.checkpoint.load import Loaded
    from blankfill.finetuning.model_setup import build_adapter
    from blankfill.model.transformer import Transformer

    assert source.head is not None
    check_room(source, out, 2 * 4 * source.parameters)  # its weights are converted together
    read = from_external(source, tokenizer)
    if source.weights.converted:
        say(f"{source.path}: {source.weights.converted} weights are converted to {name_of(source.weights.target)}")
    with torch.device("meta"):
        loaded = Loaded(Transformer(read.config), read.tokenizer, read.vocabulary, read.objective, source.path)
    adapter = build_adapter(read.task, read.labels, loaded, read.options)
    state = {**task_state(loaded, adapter, read.options), "source": source.path.name}
    with whole_folder(out) as folder:
        for name, text in read.tokenizer.files().items():
            write_file(folder / name, text)
        store.write_files(folder, 0, read.weights, {}, state)
        Predictor(folder, "cpu", None)
    say(
        f"{source.path}: {source.head.names.architecture} is imported with its head; "
        f"{setting('leave_out', ' '.join(source.head.modules))} imports the encoder alone"
    )
    family = source.checkpoint_format.family.name
    count = sum(tensor.numel() for tensor in read.weights.values())
    return Imported(out, family, count, "float32", source.weights.converted, read.task.name, adapter.labels)
