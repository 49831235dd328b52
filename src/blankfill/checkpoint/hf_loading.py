"""Loading checkpoints of other programs: a transformers folder or an original GLM checkpoint.

The names and shapes of the weights are compared with the architecture before any weight is read; weights that should
equal others (an output table tied to the token embeddings) are then compared element by element.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from blankfill.checkpoint.missing import nearby
from blankfill.checkpoint.weights import Weights, open_weights, weight_file
from blankfill.errors import ConfigError, UserError, setting
from blankfill.families.checkpoint_format import CheckpointFormat, family_of
from blankfill.families.glm import BLOCKS, sizes_from_shapes
from blankfill.families.head_format import FoundHead, find_head
from blankfill.families.weight_names import LISTED, Copied, Rule, WeightNames
from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import Transformer
from blankfill.objectives import Objective
from blankfill.system.console import say
from blankfill.system.reading import read_json, read_name, refuse_stand_in

CONFIG = "config.json"
GLM_FILE = "mp_rank_00_model_states.pt"
"""File name of a checkpoint of the original GLM code whose model is not split."""
GLM_POINTER = "latest_checkpointed_iteration.txt"


@dataclass(frozen=True)
class ExternalCheckpoint:
    """A checkpoint of another program: opened and checked, its weights not yet read."""

    path: Path
    checkpoint_format: CheckpointFormat
    objective: Objective
    weights: Weights
    head: FoundHead | None = None
    """Its fine-tuned head, if that is read."""
    head_state: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """The weights of the head, under our names."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The values of config.json."""

    def state(self) -> dict[str, torch.Tensor]:
        """Read the state dict of our model; tensors that need no change stay memory-mapped."""
        return self.checkpoint_format.table.to_ours(self.weights, str(self.path))

    @property
    def parameters(self) -> int:
        """Number of weights of the model."""
        return sum(tensor.numel() for tensor in skeleton(self.checkpoint_format.config).values())

    @property
    def memory(self) -> int:
        """Bytes that `state` takes once it is read: the tensors of the file, mapped or not, and copies of those that
        are converted, transposed or joined."""
        names, total = self.checkpoint_format.table.match(self.weights, str(self.path)), 0
        for rule in self.checkpoint_format.table.rules:
            for name in (name for name in rule.theirs if name in names):
                size, dtype = math.prod(self.weights.shapes[names[name]]), self.weights.dtypes[names[name]]
                stays = (type(rule) is Rule or isinstance(rule, Copied)) and dtype == self.weights.target
                total += size * dtype.itemsize + (0 if stays else self.weights.target.itemsize * size)
        return total


def skeleton(config: TransformerConfig) -> dict[str, torch.Tensor]:
    """Return the names and shapes of our weights as tensors without memory."""
    with torch.device("meta"):
        return Transformer(config).state_dict()


def is_external(path: Path) -> bool:
    """Return whether a path is a weight file of another program, or a folder with one."""
    if path.is_file():
        return path.suffix in (".pt", ".bin", ".safetensors")
    return weight_file(path) is not None or glm_file(path) is not None


def glm_file(folder: Path) -> Path | None:
    """Return the original GLM checkpoint of a folder; None when there is none. UserError when it is split over
    files."""
    pointer = folder / GLM_POINTER
    if pointer.is_file():
        folder = folder / read_name(pointer)
    if (folder / "mp_rank_01_model_states.pt").is_file():
        raise UserError(
            f"{folder} holds a model split over several files (model parallel); merge it with the original code's "
            "change_mp.py first"
        )
    return folder / GLM_FILE if (folder / GLM_FILE).is_file() else None


def open_external(
    path: Path,
    heads: int | None = None,
    dtype: torch.dtype | None = None,
    leave_out: Sequence[str] = (),
    with_head: bool = False,
) -> ExternalCheckpoint:
    """Open a transformers folder, or the folder or file of a GLM checkpoint.

    heads: number of attention heads, for a checkpoint that does not contain it. dtype: type in which the weights are
    read; None: the type of most of them. leave_out: beginnings of the names of weights that are not read, such as those
    of further heads. with_head: whether a fine-tuned head is read, too, and all weights as float32 with it. Raises
    UserError for anything that is missing or does not fit.
    """
    folder = path if path.is_dir() else path.parent
    file = path if path.is_file() else weight_file(path) or glm_file(path)
    if file is None:
        raise UserError(
            f"{path}: there are no weights in this folder; it needs model.safetensors, pytorch_model.bin or {GLM_FILE}"
            f"{nearby(path)}"
        )
    weights = open_weights(file, inert=file.suffix == ".pt", dtype=dtype)
    if (folder / CONFIG).is_file():
        values = read_config(folder / CONFIG)
    else:
        values = values_of_glm(weights, file, heads)
    family = family_of(values.get("model_type"), str(folder / CONFIG))
    given = left_out(weights, leave_out)
    head, head_state = find_head(family, values, weights), {}
    if head is not None:
        if with_head:
            weights.dtype = torch.float32
            head_state = head.to_ours(weights)
        else:
            say(f"{path}: the fine-tuned head of {head.names.architecture} is left out; the encoder is read")
        weights.leave_out(head.weights)
    try:
        config = family.read(values, weights.keys())
    except UserError as error:
        raise UserError(f"{folder}: {error.template}") from None
    if with_head and head is not None and head.names.dense in {name.rpartition(".")[0] for name in head.weights}:
        config = replace(config, classifier_transform=head.transform)
    if problems := config.problems():
        raise ConfigError([f"{folder / CONFIG}: {problem}" for problem in problems])
    checkpoint_format = with_own_tables(CheckpointFormat(family, config), weights)
    if checkpoint_format.config.tied != config.tied:
        say(f"{path}: the output table differs from the token embeddings, although {CONFIG} ties them; both are kept")
    refuse_heads(checkpoint_format, weights)
    check_shapes(checkpoint_format, weights)
    if given:
        say(f"{path}: {len(given)} weights are left out: {listed(given)}")
    objective = objective_of(family, checkpoint_format.config, values)
    return ExternalCheckpoint(
        path, checkpoint_format, objective, weights, head if with_head else None, head_state, values
    )


def left_out(weights: Weights, beginnings: Sequence[str]) -> list[str]:
    """Take the weights that a user leaves out from those of a file; returns their names.

    beginnings: of their names, up to a dot. Raises UserError for one that no name has.
    """
    gone: list[str] = []
    for beginning in beginnings:
        names = [name for name in weights if f"{name}.".startswith(f"{beginning.rstrip('.')}.")]
        if not names:
            raise UserError(
                f"{weights.where}: no weight is named {beginning}, which {setting('leave_out')} names; the file has "
                f"{listed(sorted({name.partition('.')[0] for name in weights}))}"
            )
        weights.leave_out(names)
        gone += names
    return gone


def refuse_heads(checkpoint_format: CheckpointFormat, weights: Weights) -> None:
    """Raise UserError for weights of heads that this program does not have, which can be left out.

    Unknown weights of the model itself cannot, nor can a model with missing ones be read; `check_shapes` lists both.
    """
    table = checkpoint_format.table
    names_in_file, unknown, missing = table.compare(weights)
    body = {
        name for rule in table.rules if rule.ours.startswith(("token_embeddings", "layers.")) for name in rule.theirs
    }
    stems = {own.partition(".")[0] for name, own in names_in_file.items() if name in body}
    if not unknown or missing or any(name.partition(".")[0] in stems for name in unknown):
        return
    known = set(weights) - set(unknown)
    counted = f"{len(unknown)} weights are" if len(unknown) > 1 else "1 weight is"
    heads = " ".join(sorted({own_stem(name, known) for name in unknown}))
    raise UserError(
        f"{weights.where}: {counted} of heads that this program does not have ({listed(unknown)}); "
        f"leave them out when you import the model: {setting('leave_out', heads)}"
    )


def own_stem(name: str, others: Iterable[str]) -> str:
    """Return the shortest beginning of a name, up to a dot, that no other name has."""
    parts = name.split(".")
    stems = [".".join(parts[:k]) for k in range(1, len(parts))]
    return next((stem for stem in stems if not any(f"{other}.".startswith(f"{stem}.") for other in others)), name)


def listed(names: Sequence[str]) -> str:
    """Return names with commas, the first `LISTED` of them."""
    return ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")


def read_config(path: Path) -> dict[str, Any]:
    """Read the values of a config.json."""
    refuse_stand_in(path)
    try:
        return read_json(path)
    except UserError as error:
        raise UserError(f"{error.template}; copy or download it again") from error


def values_of_glm(weights: Weights, file: Path, heads: int | None) -> dict[str, Any]:
    """Return the settings of a checkpoint without config.json; UserError unless it comes from the original GLM code."""
    plain = {strip(name): shape for name, shape in weights.shapes.items()}
    if BLOCKS not in plain or "word_embeddings.weight" not in plain:
        raise UserError(
            f"{file.parent}: there is no config.json beside {file.name}, and without it the architecture is not known; "
            "copy it from where the weights came from"
        )
    try:
        return sizes_from_shapes(plain, heads)
    except UserError as error:
        raise UserError(f"{file}: {error.template}") from None


def strip(name: str) -> str:
    """Return a name of a GLM checkpoint without the prefixes of wrappers."""
    for prefix in ("module.", "glm.", "model."):
        name = name.removeprefix(prefix)
    return name


def objective_of(family: WeightNames, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
    """Return the objective of an imported model; UserError when its position tables are too small for any text."""
    objective = family.default_objective(config, values)
    if problems := objective.problems():
        raise ConfigError(
            [f"the model's {config.position_sizes[0]} positions are too few: {sentence}" for sentence in problems]
        )
    return objective


def with_own_tables(checkpoint_format: CheckpointFormat, weights: Weights) -> CheckpointFormat:
    """Choose between tied and separate output embeddings for a file that holds both: tied where they are equal.

    Other programs compute with both tables where they differ, whatever config.json says. UserError where ours cannot.
    """
    table = checkpoint_format.table
    names = {table.canonical(name): name for name in weights}
    pairs = [(copy, source) for copy, source in table.copies.items() if copy in names and source in names]
    differing = {copy: source for copy, source in pairs if not weights.equal(names[copy], names[source])}
    if not differing:
        return checkpoint_format
    free = replace(checkpoint_format, config=replace(checkpoint_format.config, tied=False))
    if differing.keys() <= free.table.names:
        return free
    copy, source = next((copy, source) for copy, source in differing.items() if copy not in free.table.names)
    raise UserError(
        f"{weights.where}: {names[copy]} differs from {names[source]}, and this program's "
        f"{checkpoint_format.family.name} has one table for both; this checkpoint cannot be imported"
    )


def check_shapes(checkpoint_format: CheckpointFormat, weights: Weights) -> None:
    """Raise UserError when names or shapes in a file are not those of its architecture; no weight is read."""
    table = checkpoint_format.table
    names = table.match(weights, str(weights.where))
    if whole := [name for name in names.values() if not weights.dtypes[name].is_floating_point]:
        raise UserError(f"{weights.where}: {whole[0]} holds integers, and weights are floats; is the file quantised?")
    wrong = [
        f"{names[name]} is {list(weights.shapes[names[name]])} instead of {list(shape)}"
        for name, shape in table.shapes(skeleton(checkpoint_format.config)).items()
        if name in names and not table.fits(name, weights.shapes[names[name]], shape)
    ]
    if wrong:
        more = ", …" if len(wrong) > LISTED else ""
        raise UserError(
            f"{weights.where}: {len(wrong)} shapes differ from those of config.json: "
            f"{', '.join(wrong[:LISTED])}{more}; both files must come from one model"
        )
