"""The names and layouts of peft's adapters, for LoRA and for prefix tuning.

LoRA: `base_model.model.<module of transformers>.lora_A.weight` [r, I] and `lora_B.weight` [O, r]. A matrix of ours over
several of theirs (queries, keys and values in one) becomes one for each: the thin matrix of the inputs is the same for
all, the rows of the other are shared out. Prefix tuning: `prompt_embeddings` [P, 2·N·G·E], in the order of
`model.prefix`.

Shapes: I inputs, O outputs, r rank, P columns of a prefix, N layers, G heads of keys and values, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.errors import UserError, setting
from blankfill.families.weight_names import Rule, Table, Transposed
from blankfill.system.reading import field, shown

FILE, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
"""The file of weights that old versions of peft write."""
PREFIX = "base_model.model."
"""Prefix of all names in an adapter's file."""
PROMPT = "prompt_embeddings"
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


def same_name(name: str) -> str:
    """Return a name as it is."""
    return name


def peft_matrices(
    rules: Sequence[Rule], products: Mapping[str, tuple[Tensor, Tensor]], rename: Callable[[str], str]
) -> Iterator[tuple[str, Tensor]]:
    """Yield peft's matrices by name.

    rules: the name table of the model. products: (down [r, I], up [O, r]) by the name of our weight. rename: from a
    name of the table to that in the class, "" for a weight that it does not have.
    """
    for rule in rules:
        if rule.ours not in products:
            continue
        down, up = products[rule.ours]
        for name, rows in zip(rule.theirs, rows_of_rule(rule, up, down), strict=True):
            if module := rename(name).removesuffix(".weight"):
                yield f"{module}{DOWN}", down.clone()
                yield f"{module}{UP}", rows


def rows_of_rule(rule: Rule, up: Tensor, down: Tensor) -> list[Tensor]:
    """Return the rows of `up` for each of a rule's matrices, [O', r]; UserError for a rule that does more than share
    out or reorder the rows of a matrix, or transpose it."""
    parts = list(rule.to_theirs(up @ down))
    counts = [part.shape[0] if part.shape[1] == down.shape[1] else part.shape[1] for part in parts]
    for shares in (list(up.split(counts)) if sum(counts) == len(up) else [], list(rule.to_theirs(up))):
        fits = len(shares) == len(parts) and all(
            share.shape[1:] == up.shape[1:] and any(
                made.shape == part.shape and torch.allclose(made, part, atol=1e-5)
                for made in (share @ down, (share @ down).T)
            )
            for share, part in zip(shares, parts, strict=True)
        )  # fmt: skip
        if fits:
            return shares
    raise UserError(
        f"peft has no matrices for {rule.theirs[0]}, which transformers stores in another shape; use "
        f"{setting('lora', 'merged')}"
    )


def lora_changes(
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Any],
    table: Table | None,
    shapes: Mapping[str, tuple[int, ...]],
    where: Path,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what an adapter adds to our weights, by their names: two matrices (down [R, I], up [O, R]) whose product
    up · down is added, with the scale in the second one.

    Args:
        tensors: The matrices by the names in the file.
        values: Those of adapter_config.json.
        table: The names of the model in transformers; None where the file has our own names.
        shapes: The shape of each of our weights.
        where: The adapter's folder, for messages.

    Raises:
        UserError: The adapter has matrices that the model does not have, or is of a kind that is not known here.
    """
    _refuse_unknown(values, where)
    pairs = _pairs(tensors, where)
    rank = field(values, "r", int, where / FILE)
    alpha = field(values, "lora_alpha", float, where / FILE, float(rank))
    if rank < 1:
        raise UserError(f"{where / FILE}: `r` is {rank}; it must be at least 1")
    scale = alpha / (rank**0.5 if values.get("use_rslora") else rank)
    transposed = bool(values.get("fan_in_fan_out"))
    rules = [Rule(name, (name,)) for name in shapes] if table is None else list(table.rules)
    known = {name: name for rule in rules for name in rule.theirs}
    pairs_by_name = {_named(module, known, table): pair for module, pair in pairs.items()}
    changes: dict[str, tuple[Tensor, Tensor]] = {}
    used: set[str] = set()
    for rule in rules:
        own = {name: pairs_by_name[name] for name in rule.theirs if name in pairs_by_name}
        if rule.ours not in shapes or not own:
            continue
        likes = dict(zip(rule.theirs, rule.to_theirs(torch.zeros(shapes[rule.ours])), strict=True))
        for name, (down, up) in own.items():
            shape = likes[name].shape[::-1] if transposed else likes[name].shape
            if up.shape[1] != len(down) or (len(up), down.shape[1]) != tuple(shape):
                raise UserError(
                    f"{where} is an adapter of another model: its matrices for {name} are {list(up.shape)} and "
                    f"{list(down.shape)}, and the weight is {list(likes[name].shape)}"
                )
        used |= own.keys()
        scaled = {name: (down.float(), scale * up.float()) for name, (down, up) in own.items()}
        changes[rule.ours] = _joined(rule, scaled, likes)
    if unknown := sorted(pairs_by_name.keys() - used):
        raise UserError(
            f"{where} is an adapter of another model: it has matrices for {shown(unknown[0])}, which this model does "
            "not have"
        )
    return changes


def _joined(
    rule: Rule, pairs: Mapping[str, tuple[Tensor, Tensor]], likes: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return one pair for the weight of a rule: the thin matrices of the inputs below one another, and beside one
    another those of the outputs, whose rows are ours. likes: of theirs, for the shapes."""
    down = torch.cat([down for down, _ in pairs.values()])
    begin, parts = 0, []
    for name, like in likes.items():
        up = pairs[name][1] if name in pairs else like.new_zeros(len(like), 0)
        parts.append(F.pad(up, (begin, len(down) - begin - up.shape[1])))
        begin += up.shape[1]
    return down, parts[0] if isinstance(rule, Transposed) else rule.to_ours(parts)


def _refuse_unknown(values: Mapping[str, Any], where: Path) -> None:
    """Raise UserError for kinds of LoRA that compute something else."""
    for name in ("use_dora", "alora_invocation_tokens", "rank_pattern", "alpha_pattern", "layer_replication"):
        if values.get(name):
            raise UserError(f"{where / FILE}: `{name}` is not known here; only plain LoRA is read")
    if values.get("bias", "none") != "none":
        raise UserError(f"{where / FILE}: `bias` is {shown(values['bias'])}; only LoRA without trained biases is read")


def _pairs(tensors: Mapping[str, Tensor], where: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return (A, B) by the name of their module; whole modules that were trained besides are left out."""
    pairs = {}
    for name, down in tensors.items():
        if name.endswith(DOWN):
            up = tensors.get(name.removesuffix(DOWN) + UP)
            if up is None or up.dim() != 2 or down.dim() != 2:
                raise UserError(f"{where / WEIGHTS} has {shown(name)} and no matrix that belongs to it; copy it again")
            pairs[name.removesuffix(DOWN).removeprefix(PREFIX)] = (down, up)
    if not pairs:
        raise UserError(f"{where / WEIGHTS} has no matrices of LoRA; give the folder of an adapter")
    return pairs


def _named(module: str, known: Mapping[str, str], table: Table | None) -> str:
    """Return the name in the table of the weight of a module; classes without a head leave the first part out."""
    name = f"{module}.weight"
    name = name if table is None else table.canonical(name)
    if name in known:
        return name
    longer = [other for other in known if other.endswith(f".{name}")]
    return longer[0] if len(longer) == 1 else name
