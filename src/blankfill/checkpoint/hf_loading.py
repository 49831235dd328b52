"""Loading checkpoints of other programs: a transformers folder or an original GLM checkpoint.

The names and shapes of the weights are compared with the architecture before any weight is read; weights that should
equal others (an output table tied to the token embeddings) are then compared element by element.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from blankfill.checkpoint.missing import nearby
from blankfill.checkpoint.quantization import OWN_TYPE, SCALE, Quantization, planned_layers, with_scales
from blankfill.checkpoint.streams import Stream
from blankfill.checkpoint.weights import (
    MAPPED,
    JoinedFile,
    WeightFile,
    Weights,
    open_weights,
    parts_without_index,
    weight_file,
)
from blankfill.errors import ConfigError, UserError, setting
from blankfill.families import chatglm_layout
from blankfill.families.checkpoint_format import CheckpointFormat, family_of
from blankfill.families.head_format import FoundHead, find_head
from blankfill.families.registry import weight_names
from blankfill.families.weight_names import LISTED, ByHead, Rule, Table, WeightNames, number
from blankfill.kernels.integers import LARGEST, QuantizedWeight, WeightFormat, dequantize
from blankfill.model.config import TransformerConfig
from blankfill.model.quantized import quantizable
from blankfill.model.transformer import Transformer
from blankfill.objectives import Objective
from blankfill.system.console import say
from blankfill.system.reading import read_json, read_name, refuse_stand_in, shown
from blankfill.types import RotaryRounding

CONFIG = "config.json"
GLM_FILE = "mp_rank_00_model_states.pt"
"""File name of a checkpoint of the original GLM code whose model is not split."""
GLM_POINTER, SAT_POINTER = "latest_checkpointed_iteration.txt", "latest"
WORD_TABLE = re.compile(rf"(word_embeddings|lm_head)\.(weight|{SCALE})$")
"""Names of the tables with a row for each token, and of their scales."""
QkvRows = Literal["heads", "blocks"]
"""heads: queries, keys and values of each head together; blocks: all queries, all keys, all values."""


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
    quantization: Quantization | None = None
    """Its quantised layers, if any."""
    qkv: QkvRows = "heads"
    """The order of the joint rows of queries, keys and values, where the family's own is by heads."""

    dropped_rows: int = 0
    """Number of first rows of the word tables that are left out, with their tokens."""

    @property
    def table(self) -> Table:
        """The name table of the file."""
        table = self.checkpoint_format.table
        if self.qkv == "blocks":  # as ours
            table = replace(table, rules=tuple(
                Rule(rule.ours, rule.theirs) if isinstance(rule, ByHead) else rule for rule in table.rules
            ))  # fmt: skip
        return table if self.quantization is None else with_scales(table, self.quantization.layers)

    @property
    def plan(self) -> dict[str, torch.Tensor]:
        """The names, shapes and types of our state dict, as tensors without memory."""
        target = self.weights.target
        plan = {name: tensor.to(target) for name, tensor in skeleton(self.checkpoint_format.config).items()}
        return plan if self.quantization is None else planned_layers(plan, self.quantization.layers)

    def state(self) -> dict[str, torch.Tensor]:
        """Read the state dict of our model; tensors that need no change stay memory-mapped."""
        return self.table.to_ours(self.weights, str(self.path))

    def stream(self) -> Stream:
        """Return the state dict of our model as a stream, which reads one tensor at a time."""
        table, where = self.table, str(self.path)
        names, rules = table.match(self.weights, where), {rule.ours: rule for rule in table.rules}

        def read(ours: str) -> torch.Tensor:
            rule = rules[ours]
            return rule.to_ours([self.weights[names[name]] for name in rule.theirs if name in names])

        plan = self.plan
        return Stream({name: plan[name] for name in self._as_stored(rules, names)}, read)

    def _as_stored(self, rules: Mapping[str, Rule], names: Mapping[str, str]) -> list[str]:
        """Return our names in the order of the files, each of which is then opened once."""
        place = {name: k for k, name in enumerate(self.weights)}
        return sorted(rules, key=lambda ours: min(place[names[name]] for name in rules[ours].theirs if name in names))

    @property
    def parameters(self) -> int:
        """Number of weights of the model."""
        return sum(tensor.numel() for tensor in skeleton(self.checkpoint_format.config).values())

    @property
    def disk(self) -> int:
        """Bytes of the model in a folder of ours."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.plan.values())

    @property
    def memory(self) -> int:
        """Bytes that `stream` takes while a model is copied: the largest weight, in the file and converted or joined,
        and of a file that cannot be mapped the file."""
        names, largest, whole = self.table.match(self.weights, str(self.path)), 0, 0
        for rule in self.table.rules:
            parts = [names[name] for name in rule.theirs if name in names]
            sizes = [math.prod(self.weights.shapes[name]) for name in parts]
            read = sum(n * self.weights.dtypes[name].itemsize for n, name in zip(sizes, parts, strict=True))
            largest, whole = max(largest, read + 2 * sum(sizes) * self.weights.target.itemsize), whole + read
        return largest + min(MAPPED, whole) + self.weights.largest_unmapped


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
    """Return the first file of a checkpoint of the original GLM, or of SwissArmyTransformer, in a folder; None when
    there is none."""
    for pointer in (folder / GLM_POINTER, folder / SAT_POINTER):
        if pointer.is_file() and not (folder / "checkpoints").is_dir():
            folder = folder / read_name(pointer)
            break
    if (folder / GLM_FILE).is_file():
        return folder / GLM_FILE
    if parts := ranks(folder):
        raise UserError(f"{folder} has {parts[0].name} and not {GLM_FILE}; copy or download all parts")
    return None


def ranks(folder: Path) -> list[Path]:
    """Return the files of a checkpoint that is split over several (tensor parallel), in order."""
    return sorted(folder.glob("mp_rank_[0-9][0-9]_model_states.pt"))


def check_parts(shapes: Mapping[str, tuple[int, ...]], folder: Path, parts: int) -> None:
    """Raise UserError for a checkpoint of SwissArmyTransformer with fewer parts than it was cut into."""
    rows, columns = shapes.get(chatglm_layout.DENSE, (1, 1))
    if chatglm_layout.is_sat(shapes) and columns * parts != rows:
        raise UserError(
            f"{folder} has {parts} of {rows // max(1, columns)} parts of a model; copy or download all parts"
        )


def open_split(file: Path, qkv: QkvRows, dtype: torch.dtype | None) -> Weights:
    """Open a checkpoint of SwissArmyTransformer that is split over several files, as one. UserError for one of another
    program, with a missing part, or quantised."""
    parts = ranks(file.parent)
    for k, part in enumerate(parts):
        if part.name != f"mp_rank_{k:02}_model_states.pt":
            raise UserError(f"{file.parent} has {part.name} and not part {k}; copy or download all parts")
        refuse_stand_in(part)
    first = open_weights(file, inert=True, dtype=dtype)
    shapes = first.shapes
    if not chatglm_layout.is_sat(shapes):
        raise UserError(
            f"{file.parent} holds a model split over several files (model parallel); merge it with the original code's "
            "change_mp.py first"
        )
    if any(name.endswith(f".{SCALE}") for name in shapes):
        raise UserError(
            f"{file.parent} holds quantised parts with scales of their own, which cannot be joined; import the "
            "checkpoint that is not quantised, and use `blankfill quantize`"
        )
    check_parts(shapes, file.parent, len(parts))
    gated = chatglm_layout.is_gated(shapes)
    weights = Weights(file.parent, dtype)
    joined = JoinedFile(
        [WeightFile(part, inert=True) for part in parts],
        lambda name: chatglm_layout.cut_of(name, gated, qkv == "blocks"),
    )
    weights.add(joined)
    return weights


def open_external(
    path: Path,
    heads: int | None = None,
    dtype: torch.dtype | None = None,
    leave_out: Sequence[str] = (),
    with_head: bool = False,
    qkv: QkvRows = "heads",
    image_rows: bool = True,
    rotary_rounding: RotaryRounding | None = None,
) -> ExternalCheckpoint:
    """Open a transformers folder, or the folder or file of a GLM checkpoint.

    heads: number of attention heads, for a checkpoint that does not contain it. dtype: type in which the weights are
    read; None: the type of most of them. leave_out: beginnings of the names of weights that are not read, such as those
    of further heads. with_head: whether a fine-tuned head is read, too, and all weights as float32 with it. qkv: see
    `ExternalCheckpoint`. image_rows: whether rows of the word tables that no text uses are kept. rotary_rounding: of
    the model; None: as its family was released. Raises UserError for anything that is missing or does not fit.
    """
    folder = path if path.is_dir() else path.parent
    file = path if path.is_file() else weight_file(path) or glm_file(path)
    if file is None:
        raise UserError(
            parts_without_index(path)
            or f"{path}: there are no weights in this folder; it needs model.safetensors, pytorch_model.bin or "
            f"{GLM_FILE}{nearby(path)}"
        )
    if file.suffix == ".pt" and path.is_dir() and len(ranks(file.parent)) > 1:
        weights = open_split(file, qkv, dtype)
    else:
        weights = open_weights(file, inert=file.suffix == ".pt", dtype=dtype)
        if file.suffix == ".pt":
            check_parts(weights.shapes, file.parent, 1)
    if (folder / CONFIG).is_file():
        values = read_config(folder / CONFIG)
    else:
        values = values_without_config(weights, file, heads)
    family = family_of(values.get("model_type"), str(folder / CONFIG))
    dropped = 0
    if not image_rows:
        dropped = family.image_rows(values)
        values = without_image_rows(weights, family, values, path)
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
    if rotary_rounding is not None:
        config = replace(config, rotary_rounding=rotary_rounding)
        if "rotary_rounding" in family.differences(config):
            raise UserError(
                f"{path}: a model of the family {family.name} rounds nothing in its positions; leave out "
                f"{setting('rotary_rounding')}"
            )
    if problems := config.problems():
        raise ConfigError([f"{folder / CONFIG}: {problem}" for problem in problems])
    if not (folder / CONFIG).is_file():
        say(
            f"{path}: there is no {CONFIG}; by the shapes of the weights it is a model of the family {family.name} "
            f"with {config.num_layers} layers, {config.num_heads} heads and width {config.hidden_size}"
        )
    checkpoint_format, quantization = CheckpointFormat(family, config), None
    bits = quantized_bits(family, values, folder / CONFIG)
    if family.quantization_key:
        check_bits(checkpoint_format, weights, bits, folder / CONFIG)
    if bits:
        quantization = read_quantized(checkpoint_format, weights, bits)
    checkpoint_format = with_own_tables(checkpoint_format, weights)
    if checkpoint_format.config.tied != config.tied:
        say(f"{path}: the output table differs from the token embeddings, although {CONFIG} ties them; both are kept")
    if qkv == "blocks" and not any(isinstance(rule, ByHead) for rule in checkpoint_format.table.rules):
        raise UserError(
            f"{path}: {family.name} has no other order of queries, keys and values; leave out {setting('qkv')}"
        )
    checkpoint = ExternalCheckpoint(
        path, checkpoint_format, objective_of(family, checkpoint_format.config, values), weights,
        head if with_head else None, head_state, values, quantization, qkv, dropped,
    )  # fmt: skip
    refuse_prefix(checkpoint)
    refuse_heads(checkpoint)
    check_shapes(checkpoint)
    if given:
        say(f"{path}: {len(given)} weights are left out: {listed(given)}")
    return checkpoint


def quantized_bits(family: WeightNames, values: Mapping[str, Any], where: Path) -> int:
    """Return the bits of the quantised layers that a config.json names; 0 for none. UserError for other numbers."""
    bits = values.get(family.quantization_key) if family.quantization_key else None
    if bits in (None, 0, *LARGEST):
        return bits or 0
    raise UserError(f"{where}: {family.quantization_key} is {shown(bits)}, and only 8 and 4 are known here")


def check_bits(checkpoint_format: CheckpointFormat, weights: Weights, bits: int, where: Path) -> None:
    """Raise UserError where the bits that a config.json names are not those of the stored matrices."""
    key, table = checkpoint_format.family.quantization_key, checkpoint_format.table
    shapes = table.shapes(skeleton(checkpoint_format.config))
    stored = 0
    for scale in (name for name in weights if name.endswith(f".{SCALE}")):
        name = f"{scale.removesuffix(SCALE)}weight"
        right, stored_shape = shapes.get(table.canonical(name)), weights.shapes.get(name)
        if right and stored_shape and right[0] == stored_shape[0]:
            stored = 8 if right == stored_shape else 4 if right[1] == 2 * stored_shape[1] else stored
    if stored and stored != bits:
        says = f"{key} is {bits}" if bits else f"there is no {key}"
        raise UserError(
            f'{where}: {says}, and the weights beside it have {stored} bits; write "{key}": {stored} into it'
        )
    if bits and not any(name.endswith(f".{SCALE}") for name in weights):
        raise UserError(f"{where}: {key} is {bits}, and the weights beside it are not quantised; remove {key} from it")


def read_quantized(checkpoint_format: CheckpointFormat, weights: Weights, bits: int) -> Quantization:
    """Return the quantised layers of a file; word tables that are quantised too are dequantised when they are read."""
    with torch.device("meta"):
        layers = dict.fromkeys(quantizable(Transformer(checkpoint_format.config)), WeightFormat(bits))
    weights.kept = OWN_TYPE
    table = with_scales(checkpoint_format.table, layers)
    known = {name for rule in table.rules for name in rule.theirs}
    for scale in [name for name in weights if name.endswith(f".{SCALE}") and table.canonical(name) not in known]:
        stored = f"{scale.removesuffix(SCALE)}weight"
        if stored not in weights or weights.dtypes[stored] != torch.int8:
            continue
        rows, columns = weights.shapes[stored]
        integers, scales = weights.reader(stored), weights.reader(scale)
        read = partial(_dequantized, integers, scales, bits)
        weights.change(stored, (rows, columns * 8 // bits), torch.float16, read)
        weights.hide(scale)
    return Quantization(layers, rounding="released")


def _dequantized(integers: Callable[[], torch.Tensor], scales: Callable[[], torch.Tensor], bits: int) -> torch.Tensor:
    return dequantize(QuantizedWeight(integers(), scales()), WeightFormat(bits), torch.float16)


def without_image_rows(weights: Weights, family: WeightNames, values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Leave the rows of image tokens out of the word tables; returns the new values of config.json. UserError where
    there are none."""
    rows = family.image_rows(values)
    if not rows:
        raise UserError(f"{path}: the vocabulary has no rows of image tokens; leave out {setting('drop_image_rows')}")
    count = number(values, "vocab_size")
    for name in [name for name, shape in weights.shapes.items() if shape[:1] == (count,)]:
        if WORD_TABLE.search(name):
            weights.drop_rows(name, rows)
    return family.without_image_rows(values, rows)


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


def refuse_prefix(checkpoint: ExternalCheckpoint) -> None:
    """Raise UserError for a checkpoint of P-tuning v2, whose prefix is an adapter."""
    weights, prefix = checkpoint.weights, chatglm_layout.PREFIX_ENCODER
    names = [name for name in weights if name.startswith(prefix)]
    if not names or not checkpoint.checkpoint_format.family.released_prefix:
        return
    if len(names) == len(weights):
        raise UserError(
            f"{weights.where} holds the prefix of P-tuning v2, and not the model; import the model that it was trained "
            f"with, and give this folder beside it with {setting('adapter', checkpoint.path)}"
        )
    raise UserError(
        f"{weights.where} holds the prefix of P-tuning v2 beside the model; leave it out when you import the model: "
        f"{setting('leave_out', prefix.rstrip('.'))}"
    )


def refuse_heads(checkpoint: ExternalCheckpoint) -> None:
    """Raise UserError for weights of heads that this program does not have, which can be left out.

    Unknown weights of the model itself cannot, nor can a model with missing ones be read; `check_shapes` lists both.
    """
    table, weights = checkpoint.table, checkpoint.weights
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


def values_without_config(weights: Weights, file: Path, heads: int | None) -> dict[str, Any]:
    """Return the settings of a checkpoint without config.json, which a family infers from the shapes; UserError where
    none does."""
    try:
        for family in weight_names().values():
            if (values := family.values_from_shapes(weights.shapes, heads)) is not None:
                return values
    except UserError as error:
        raise UserError(f"{file}: {error.template}") from None
    raise UserError(
        f"{file.parent}: there is no config.json beside {file.name}, and without it the architecture is not known; "
        "copy it from where the weights came from"
    )


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


def check_shapes(checkpoint: ExternalCheckpoint) -> None:
    """Raise UserError when names or shapes in a file are not those of its architecture; no weight is read."""
    table, weights, plan = checkpoint.table, checkpoint.weights, checkpoint.plan
    names = table.match(weights, str(weights.where))
    whole = {ours for ours, tensor in plan.items() if not tensor.is_floating_point()}
    for rule in table.rules:
        for name in (names[name] for name in rule.theirs if name in names):
            is_whole = not weights.dtypes[name].is_floating_point
            if is_whole and rule.ours not in whole:
                raise UserError(
                    f"{weights.where}: {name} holds integers, and weights are floats; is the file quantised?"
                )
            if not is_whole and rule.ours in whole:
                raise UserError(
                    f"{weights.where}: {name} holds floats, and config.json calls it quantised; both files must come "
                    "from one model"
                )
    wrong = [
        f"{names[name]} is {list(weights.shapes[names[name]])} instead of {list(shape)}"
        for name, shape in table.shapes(plan).items()
        if name in names and not table.fits(name, weights.shapes[names[name]], shape)
    ]
    if wrong:
        more = ", …" if len(wrong) > LISTED else ""
        raise UserError(
            f"{weights.where}: {len(wrong)} shapes differ from those of config.json: "
            f"{', '.join(wrong[:LISTED])}{more}; both files must come from one model"
        )
