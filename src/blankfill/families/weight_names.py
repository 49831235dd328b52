"""Name tables: the mapping between our weights and those of other programs, which are renamed, transposed or cut.

A `Table` is a list of rules, each for one of our tensors and the one or more of theirs that hold it. A table maps in
both directions without loss, and raises an error that lists unknown and missing names. Entries of a file that are no
weights (masks, counters) are `ignored` by name; older spellings are `aliases`. Weights that a file holds twice are
`copies`, which `checkpoint.hf_loading` compares when it opens the file.

`WeightNames` pairs tables with the `config.json` of a published architecture. A family's file has a subclass with
`read`, `write` and `table`, and names it in its `FamilySpec`.

Shapes: D width, V vocabulary.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from blankfill.errors import UserError, setting
from blankfill.families.task_heads import TaskHeads
from blankfill.model.config import MOST_ROWS, Activation, TransformerConfig
from blankfill.objectives import Objective
from blankfill.system.reading import field as field_of
from blankfill.system.reading import shown

if TYPE_CHECKING:
    from torch import Tensor

WHERE = "config.json"
LISTED = 8
"""Maximum number of names that a message lists."""


@dataclass(frozen=True)
class Rule:
    """One of our tensors, unchanged under one name of theirs."""

    ours: str
    theirs: tuple[str, ...]

    def to_ours(self, theirs: Sequence[Tensor]) -> Tensor:
        """Our tensor from theirs."""
        return theirs[0]

    def to_theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """Theirs from our tensor."""
        return [ours]

    def rest(self, ours: Tensor) -> Tensor | None:
        """The part of our tensor that theirs cannot hold, or None; `put_back` restores it."""
        return None

    @property
    def written(self) -> tuple[str, ...]:
        """The names of theirs that we write."""
        return self.theirs


class Transposed(Rule):
    """A matrix that they store as [in, out] (GPT-2's Conv1D)."""

    def to_ours(self, theirs: Sequence[Tensor]) -> Tensor:
        """[out, in] from [in, out]."""
        return theirs[0].T.contiguous()

    def to_theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """[in, out] from [out, in]."""
        return [ours.T.contiguous()]


class Fused(Rule):
    """One of our matrices that is the concatenation of theirs along rows: queries, keys, values."""

    def to_ours(self, theirs: Sequence[Tensor]) -> Tensor:
        """[3D, …] from three of [D, …]."""
        import torch

        return torch.cat(list(theirs))

    def to_theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """Three of [D, …] from [3D, …]."""
        return ours.chunk(len(self.theirs))


@dataclass(frozen=True)
class ByHead(Rule):
    """Our [queries; keys; values], of which they store the rows of a head together: queries, keys, values of head 0,
    then those of head 1. heads: number of heads."""

    heads: int

    def to_ours(self, theirs: Sequence[Tensor]) -> Tensor:
        """[3HE, …] by queries, keys and values, from rows by head."""
        by_head: Tensor = theirs[0].unflatten(0, (self.heads, 3, -1))
        return by_head.transpose(0, 1).flatten(0, 2)

    def to_theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """Rows by head."""
        by_part: Tensor = ours.unflatten(0, (3, self.heads, -1))
        return [by_part.transpose(0, 1).flatten(0, 2)]


class HalvesSwapped(Rule):
    """One of our tensors whose halves they store in the other order."""

    def to_ours(self, theirs: Sequence[Tensor]) -> Tensor:
        """Second half, first half."""
        import torch

        return torch.cat(list(reversed(theirs[0].chunk(2))))

    def to_theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """The same, which is its own inverse."""
        return [self.to_ours([ours])]


class Copied(Rule):
    """One of our tensors that they store several times; the last of theirs is the one in use."""

    def to_ours(self, theirs: Sequence[Tensor]) -> Tensor:
        """The last of theirs."""
        return theirs[-1]

    def to_theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """Copies, since a file does not hold one tensor under two names."""
        return [ours, *(ours.clone() for _ in self.theirs[1:])]


class Preferred(Copied):
    """The same, but we write only the first."""

    @property
    def written(self) -> tuple[str, ...]:
        """The first."""
        return self.theirs[:1]


@dataclass(frozen=True)
class Shifted(Rule):
    """A position table whose rows are `shift` rows further down in theirs."""

    shift: int = 0

    def to_ours(self, theirs: Sequence[Tensor]) -> Tensor:
        """Rows moved up."""
        return _moved(theirs[0], -self.shift)

    def to_theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """Rows moved down."""
        return [_moved(ours, self.shift)]

    def rest(self, ours: Tensor) -> Tensor | None:
        """The first rows, which no position uses, if the shift is negative."""
        return ours[: -self.shift].clone() if self.shift < 0 else None


class Positions(Shifted):
    """The same with the row of their token type added to every position.

    RoBERTa's positions are numbered from the padding's id + 1, and its token type is 0 for all. Theirs: (positions
    [rows + shift, D], token types [types, D]), of which the first row is read. `to_theirs` writes one row of zeros.
    """

    def to_ours(self, theirs: Sequence[Tensor]) -> Tensor:
        """Rows moved up, the constant added."""
        table, constant = theirs[0], theirs[1][:1]
        rows = _moved(table, -self.shift)
        return rows + constant if bool((constant != 0).any()) else rows

    def to_theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """Rows moved down, a constant of zeros."""
        return [_moved(ours, self.shift), ours.new_zeros(1, ours.shape[1])]


def _moved(table: Tensor, shift: int) -> Tensor:
    if shift > 0:
        import torch

        return torch.cat([table.new_zeros(shift, table.shape[1]), table])
    return table[-shift:] if shift else table


@dataclass(frozen=True)
class Table:
    """The rules of one model. ignored and aliases are regular expressions over their names.

    apart: beginnings of our names of weights that their format cannot hold; a checkpoint has them in a separate file.
    optional: names of theirs that a file may lack; none is the first of its rule. copies: for names of theirs that no
    rule reads, because they repeat another weight, the name of that weight. longer: names of theirs that may have more
    rows than their rule reads.
    """

    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    apart: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    copies: Mapping[str, str] = field(default_factory=dict)
    longer: frozenset[str] = frozenset()

    def fits(self, name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
        """Return whether a tensor of theirs has the shape that its rule reads."""
        return shape == wanted or (name in self.longer and shape[:1] > wanted[:1] and shape[1:] == wanted[1:])

    def canonical(self, name: str) -> str:
        """Return the name that the table has for a name in a file."""
        for pattern, plain in self.aliases:
            name = re.sub(pattern, plain, name)
        return name

    def match(self, names: Iterable[str], where: str) -> dict[str, str]:
        """Return the name in the file for each name of the table, without missing optional ones; UserError lists
        unknown and missing names."""
        names_in_file, unknown, missing = self.compare(names)
        _complain(where, unknown, missing)
        return names_in_file

    def compare(self, names: Iterable[str]) -> tuple[dict[str, str], list[str], list[str]]:
        """Return (the name in the file for each name of the table that it has, the names in the file that the table
        does not know, the names of the table that the file must have and lacks)."""
        wanted = {name for rule in self.rules for name in rule.theirs}
        names_in_file: dict[str, str] = {}
        unknown = []
        for name in names:
            canonical = self.canonical(name)
            if canonical in wanted and canonical not in names_in_file:
                names_in_file[canonical] = name
            elif canonical not in self.copies and not any(re.search(pattern, canonical) for pattern in self.ignored):
                unknown.append(name)
        return names_in_file, unknown, sorted(wanted - names_in_file.keys() - self.optional)

    def to_ours(self, theirs: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """Return our state dict from theirs. where: the file, for the error message."""
        names_in_file = self.match(theirs, where)
        return {
            rule.ours: rule.to_ours([theirs[names_in_file[name]] for name in rule.theirs if name in names_in_file])
            for rule in self.rules
        }

    def to_theirs(self, ours: Mapping[str, Tensor], where: str = "the model") -> dict[str, Tensor]:
        """Return their tensors from our state dict, under the names that their programs write today."""
        self.check_ours(ours, where)
        out: dict[str, Tensor] = {}
        for rule in self.rules:
            parts = zip(rule.theirs, rule.to_theirs(ours[rule.ours]), strict=True)
            out.update((name, part) for name, part in parts if name in rule.written)
        return out

    def check_ours(self, names: Collection[str], where: str) -> None:
        """Raise UserError when names of ours are not those that the table maps."""
        known = {rule.ours for rule in self.rules}
        unknown = [name for name in names if name not in known and not self.is_apart(name)]
        _complain(where, unknown, sorted(known - set(names)))

    def is_apart(self, name: str) -> bool:
        """Return whether a name of ours is of a weight that their format cannot hold."""
        return bool(self.apart) and name.startswith(self.apart)

    def shapes(self, ours: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor of theirs that the table reads."""
        return {
            name: tuple(part.shape)
            for rule in self.rules
            for name, part in zip(rule.theirs, rule.to_theirs(ours[rule.ours]), strict=True)
        }

    def rest(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return by our names the parts of tensors that `to_theirs` leaves out."""
        parts = {rule.ours: rule.rest(ours[rule.ours]) for rule in self.rules}
        return {name: part for name, part in parts.items() if part is not None}

    def kept_apart(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return by our names the weights that their format cannot hold."""
        return {name: ours[name] for name in ours if self.is_apart(name)}

    @property
    def names(self) -> frozenset[str]:
        """Return all names of theirs that the table writes."""
        return frozenset(name for rule in self.rules for name in rule.written)


def put_back(ours: dict[str, Tensor], rest: Mapping[str, Tensor]) -> None:
    """Prepend the parts that `Table.rest` saved to their tensors."""
    import torch

    for name, part in rest.items():
        ours[name] = torch.cat([part, ours[name][len(part) :]])


def _complain(where: str, unknown: Sequence[str], missing: Sequence[str]) -> None:
    if not unknown and not missing:
        return
    parts = [
        f"{len(names)} {what} ({', '.join(names[:LISTED])}{', …' if len(names) > LISTED else ''})"
        for names, what in ((unknown, "unknown"), (missing, "missing"))
        if names
    ]
    raise UserError(
        f"{where}: the weights do not fit the architecture: {' and '.join(parts)}; "
        "give the checkpoint of the pretrained model itself, whole"
    )


def layers(count: int, ours: str, theirs: str, pairs: Mapping[str, str], kind: type[Rule] = Rule) -> list[Rule]:
    """Return the rules of weights and biases of every layer. ours and theirs: prefixes with {k}; pairs: our part →
    their part."""
    return [
        kind(f"{ours.format(k=k)}{mine}.{part}", (f"{theirs.format(k=k)}{other}.{part}",))
        for k in range(count)
        for mine, other in pairs.items()
        for part in ("weight", "bias")
    ]


def plain(pairs: Mapping[str, str]) -> list[Rule]:
    """Return rules for tensors that differ only in their names."""
    return [Rule(mine, (other,)) for mine, other in pairs.items()]


def both(pairs: Mapping[str, str]) -> list[Rule]:
    """Return rules for modules with a weight and a bias."""
    return [Rule(f"{a}.{part}", (f"{b}.{part}",)) for a, b in pairs.items() for part in ("weight", "bias")]


ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""transformers' names of activations; the tanh forms differ only in the last bits."""

_WRITTEN = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "silu": "silu"}


def activation_of(values: Mapping[str, Any], key: str, default: str) -> Activation:
    """Return our name of the activation that a config.json names; UserError for one that we do not have."""
    name = field_of(values, key, str, WHERE, default)
    if name not in ACTIVATIONS:
        raise UserError(f"{WHERE}: {key} is {name[:60]}, which is not known here; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def activation_name(activation: str) -> str:
    """Return transformers' name of an activation of ours."""
    return _WRITTEN[activation]


def number(values: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Return a size in a config.json; UserError for any other value. default: None if the field is required."""
    value = values.get(key) if default is None else values.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_ROWS:
        state = "is missing" if value is None else f"is {shown(value)}"
        raise UserError(
            f"{WHERE}: {key} {state}; it must be a whole number from 1 to {MOST_ROWS:,}, as its author wrote it"
        )
    return value


def real(values: Mapping[str, Any], key: str, default: float) -> float:
    """Return a finite number in a config.json; UserError for any other value."""
    return field_of(values, key, float, WHERE, default)


def flag(values: Mapping[str, Any], key: str, default: bool) -> bool:
    """Return a truth value in a config.json; UserError for any other value."""
    return field_of(values, key, bool, WHERE, default)


def rope_theta(values: Mapping[str, Any], kind: str, old: str, default: float) -> float:
    """Return the base of the rotary frequencies of a kind of layer, from `rope_parameters` or the older key `old`."""
    rope = field_of(field_of(values, "rope_parameters", dict, WHERE, {}), kind, dict, WHERE, {})
    refuse_options(rope, {"rope_type": "default", "partial_rotary_factor": 1.0})
    return real(rope, "rope_theta", real(values, old, default))


def heads_of(width: int, heads: int | None, size: int) -> int:
    """Return the number of heads of a checkpoint that does not store it: as given, or those of the released models'
    size. Raises UserError."""
    if heads is None:
        if width % size:
            raise UserError(
                f"the checkpoint does not tell how many heads it has, and its width {width} is no multiple of {size}, "
                f"as in the released models; give {setting('heads')}"
            )
        heads = width // size
    if heads < 1 or width % heads:
        raise UserError(f"{setting('heads', heads)} does not divide the checkpoint's width, {width}")
    return heads


def refuse_options(values: Mapping[str, Any], plain_values: Mapping[str, Any]) -> None:
    """Raise UserError for options of a config.json that our model does not support."""
    for key, value in plain_values.items():
        if values.get(key, value) != value:
            raise UserError(
                f"{WHERE}: {key} is {shown(values[key])}, and only {value!r} is known here; "
                "this checkpoint cannot be imported"
            )


NOT_ARCHITECTURE = {
    "dropout", "attention_dropout", "more_dropout", "init", "init_std", "position_std", "scaled_init", "locality",
    "classifier_transform",
}  # fmt: skip
"""Fields of `TransformerConfig` about training or about the layer that fine-tuning adds (`head_format_of` compares
that), which do not change what a pretrained model computes."""


class WeightNames(ABC):
    """A published architecture: its `config.json` and its names."""

    name: ClassVar[str]
    model_type: ClassVar[str]
    """Name of the architecture in `config.json`."""
    objective: ClassVar[type[Objective]]
    """The objective whose positions and attention its models have."""
    kin: ClassVar[tuple[type[Objective], ...]] = ()
    """Other objectives whose models have its weights and read a text in the same way."""
    also_reads: ClassVar[tuple[str, ...]] = ()
    """Other values of `model_type` that `read` accepts."""
    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
    """Names of the inputs that its tokenizer should return."""

    added_roles: ClassVar[tuple[str, ...]] = ()
    """Roles of the tokens that the family's own code adds to the end of a WordPiece vocabulary, in this order."""
    apart: ClassVar[frozenset[str]] = frozenset()
    """Fields of the configuration that a model may have although its files cannot express them: their weights are in a
    separate file (`Table.apart`)."""
    task_heads: ClassVar[TaskHeads | None] = None
    """The classes with heads for fine-tuning; None if none has the heads of this program."""
    text_heads_as: ClassVar[str] = ""
    """Name of the family as which a model with a head on texts is written, if its own class has another head than ours;
    the token types are zeros."""
    own_class: ClassVar[str] = ""
    """Name of the class of `blankfill.hf` that opens its files; empty where transformers has one."""
    quantization_key: ClassVar[str] = ""
    """Key of config.json with the bits of the quantised layers; empty if its files have none."""
    writes_copies: ClassVar[bool] = False
    """Whether its files hold tied output embeddings a second time."""
    fixed_ids: ClassVar[bool] = False
    """Whether the ids of special tokens in config.json must be those of the tokenizer."""
    released_prefix: ClassVar[bool] = False
    """Whether the original code has prefixes in checkpoints of its own (ChatGLM-6B's `transformer.prefix_encoder`)."""
    counts_prefix: ClassVar[bool] = False
    """Whether peft gives transformers' class a prefix, which counts in its one table of positions (GPT-2)."""
    token_roles: ClassVar[Mapping[str, str]] = {"bos_token_id": "cls", "eos_token_id": "sep"}
    """The roles of the special tokens whose ids are in config.json, without the padding's."""

    @abstractmethod
    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Return our configuration from a config.json and the names in the weight file; UserError for settings that we
        do not support."""

    @abstractmethod
    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """Return the values of config.json, without token ids. shift: as for `table`."""

    @abstractmethod
    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """Return the name table of a configuration. shift: number of rows that their position tables have before
        ours."""

    @abstractmethod
    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Return the objective of an imported model, with rows as long as its positions."""

    def token_ids(self, roles: Mapping[str, int]) -> dict[str, int | list[int] | None]:
        """Return the ids of special tokens in config.json, without the padding's. roles: ids by role."""
        return {key: roles.get(role) for key, role in self.token_roles.items()}

    def values_from_shapes(self, shapes: Mapping[str, tuple[int, ...]], heads: int | None) -> dict[str, Any] | None:
        """Return config.json values for a checkpoint without this file, or None if it is of another family.

        shapes: by name. heads: as the user gives them, or None. Raises UserError when the sizes cannot be inferred.
        """
        return None

    def image_rows(self, values: Mapping[str, Any]) -> int:
        """Return the number of first rows of the word tables that no text uses, and which an import can leave out."""
        return 0

    def without_image_rows(self, values: Mapping[str, Any], rows: int) -> dict[str, Any]:
        """Return the values of config.json for a model without these rows."""
        return dict(values)

    def unnamed_roles(self, roles: Mapping[str, int]) -> dict[str, int]:
        """Return the ids of roles that the names of the tokens do not show. roles: the ids of those that they show."""
        return {}

    def trained_as(self, objective: Objective) -> bool:
        """Return whether an objective has the family's positions and attention."""
        return type(objective) in (self.objective, *self.kin)

    def shift(self, objective: Objective, pad: int) -> int:
        """Return the `shift` of a run's table. pad: the id of its padding."""
        return 0

    def differences(self, config: TransformerConfig) -> list[str]:
        """Return the names of the fields of a configuration that the family's files cannot express."""
        return list(_differences(self, config))


@lru_cache(maxsize=64)
def _differences(family: WeightNames, config: TransformerConfig) -> tuple[str, ...]:
    comparable = replace(config, **{name: getattr(_DEFAULTS, name) for name in NOT_ARCHITECTURE})
    back = family.read(family.write(comparable), family.table(comparable).names)
    return tuple(
        field.name
        for field in fields(TransformerConfig)
        if field.name not in NOT_ARCHITECTURE | family.apart
        and getattr(back, field.name) != getattr(config, field.name)
    )


_DEFAULTS = TransformerConfig(vocab_size=1)
