"""The machinery of the name tables: how other programs name, turn and cut the weights that we have.

A `Table` is a list of rules, each for one of our tensors and the one or more of theirs that hold it. It works both
ways, loses nothing, and refuses names that it does not know and names that are missing, listing them. What a file says
beyond weights (masks, counters) is `ignored` by name; older spellings are `aliases`. Weights that a file holds twice
are `copies`, which whoever opens it compares (`checkpoint.hf_loading`).

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

from blankfill.errors import UserError
from blankfill.families.task_heads import TaskHeads
from blankfill.model.config import MOST_ROWS, Activation, TransformerConfig
from blankfill.objectives import Objective
from blankfill.system.reading import field as field_of
from blankfill.system.reading import shown

if TYPE_CHECKING:
    from torch import Tensor

WHERE = "config.json"
LISTED = 8
"""Names of a long list that a message shows."""


@dataclass(frozen=True)
class Rule:
    """One of our tensors under one name of theirs, as it is."""

    ours: str
    theirs: tuple[str, ...]

    def to_ours(self, theirs: Sequence[Tensor]) -> Tensor:
        """Our tensor from theirs."""
        return theirs[0]

    def to_theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """Theirs from our tensor."""
        return [ours]

    def rest(self, ours: Tensor) -> Tensor | None:
        """What of our tensor has no place in theirs; `to_ours` of a later version of the rule takes it back."""
        return None

    @property
    def written(self) -> tuple[str, ...]:
        """Those of their names that a file of ours has."""
        return self.theirs


class Transposed(Rule):
    """A matrix that they keep as [in, out] (GPT-2's Conv1D)."""

    def to_ours(self, theirs: Sequence[Tensor]) -> Tensor:
        """[out, in] from [in, out]."""
        return theirs[0].T.contiguous()

    def to_theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """[in, out] from [out, in]."""
        return [ours.T.contiguous()]


class Fused(Rule):
    """Our rows are theirs one below the other: queries, keys, values."""

    def to_ours(self, theirs: Sequence[Tensor]) -> Tensor:
        """[3D, …] from three of [D, …]."""
        import torch

        return torch.cat(list(theirs))

    def to_theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """Three of [D, …] from [3D, …]."""
        return ours.chunk(len(self.theirs))


class Copied(Rule):
    """One of ours that they keep several times; the last of theirs is the one in use."""

    def to_ours(self, theirs: Sequence[Tensor]) -> Tensor:
        """The last of theirs."""
        return theirs[-1]

    def to_theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """Copies, since a file does not hold one tensor under two names."""
        return [ours, *(ours.clone() for _ in self.theirs[1:])]


class Preferred(Copied):
    """The same, of which we write the first alone."""

    @property
    def written(self) -> tuple[str, ...]:
        """The first."""
        return self.theirs[:1]


@dataclass(frozen=True)
class Shifted(Rule):
    """A position table whose rows stand `shift` further down in theirs."""

    shift: int = 0

    def to_ours(self, theirs: Sequence[Tensor]) -> Tensor:
        """Rows moved up."""
        return _moved(theirs[0], -self.shift)

    def to_theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """Rows moved down."""
        return [_moved(ours, self.shift)]

    def rest(self, ours: Tensor) -> Tensor | None:
        """The first rows, which no position names, when theirs begin later in ours."""
        return ours[: -self.shift].clone() if self.shift < 0 else None


class Positions(Shifted):
    """The same with their constant row added to every one.

    RoBERTa's positions are numbered from the padding's id + 1, and its single token type is the same for all. Theirs:
    (positions [rows + shift, D], token types [1, D]). Going to theirs the constant is zero.
    """

    def to_ours(self, theirs: Sequence[Tensor]) -> Tensor:
        """Rows moved up, the constant added."""
        table, constant = theirs
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

    apart: beginnings of our names of weights that their form has no place for; a checkpoint keeps them beside it.
    optional: names of theirs, none the first of its rule, that a file may lack. copies: of theirs that no rule reads,
    because they repeat another one, its name.
    """

    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    apart: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    copies: Mapping[str, str] = field(default_factory=dict)

    def canonical(self, name: str) -> str:
        """The name that the table has for a name in a file."""
        for pattern, plain in self.aliases:
            name = re.sub(pattern, plain, name)
        return name

    def match(self, names: Iterable[str], where: str) -> dict[str, str]:
        """The name in the file of each of the table's names, optional ones that it lacks left out; UserError lists the
        unknown and the missing ones."""
        wanted = {name for rule in self.rules for name in rule.theirs}
        names_in_file: dict[str, str] = {}
        unknown = []
        for name in names:
            canonical = self.canonical(name)
            if canonical in wanted and canonical not in names_in_file:
                names_in_file[canonical] = name
            elif canonical not in self.copies and not any(re.search(pattern, canonical) for pattern in self.ignored):
                unknown.append(name)
        _complain(where, unknown, sorted(wanted - names_in_file.keys() - self.optional))
        return names_in_file

    def to_ours(self, theirs: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """Our state dict from theirs; where: the file, for the message when names do not fit."""
        names_in_file = self.match(theirs, where)
        return {
            rule.ours: rule.to_ours([theirs[names_in_file[name]] for name in rule.theirs if name in names_in_file])
            for rule in self.rules
        }

    def to_theirs(self, ours: Mapping[str, Tensor], where: str = "the model") -> dict[str, Tensor]:
        """Their tensors, under the names that their own programs write today, from our state dict."""
        known, apart = {rule.ours for rule in self.rules}, self.kept_apart(ours)
        _complain(
            where, [name for name in ours if name not in known and name not in apart], sorted(known - ours.keys())
        )
        out: dict[str, Tensor] = {}
        for rule in self.rules:
            parts = zip(rule.theirs, rule.to_theirs(ours[rule.ours]), strict=True)
            out.update((name, part) for name, part in parts if name in rule.written)
        return out

    def shapes(self, ours: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor of theirs that the table reads."""
        return {
            name: tuple(part.shape)
            for rule in self.rules
            for name, part in zip(rule.theirs, rule.to_theirs(ours[rule.ours]), strict=True)
        }

    def rest(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By our names, what `to_theirs` leaves out."""
        parts = {rule.ours: rule.rest(ours[rule.ours]) for rule in self.rules}
        return {name: part for name, part in parts.items() if part is not None}

    def kept_apart(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By our names, the weights that their form has no place for."""
        return {name: part for name, part in ours.items() if self.apart and name.startswith(self.apart)}

    @property
    def names(self) -> frozenset[str]:
        """All names of theirs that the table writes."""
        return frozenset(name for rule in self.rules for name in rule.written)


def put_back(ours: dict[str, Tensor], rest: Mapping[str, Tensor]) -> None:
    """Put what `Table.rest` saved in front of the tensors it came from."""
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
    """Weight and bias rules of every layer. ours and theirs: prefixes with {k}; pairs: our part → their part."""
    return [
        kind(f"{ours.format(k=k)}{mine}.{part}", (f"{theirs.format(k=k)}{other}.{part}",))
        for k in range(count)
        for mine, other in pairs.items()
        for part in ("weight", "bias")
    ]


def plain(pairs: Mapping[str, str]) -> list[Rule]:
    """Rules for tensors that only their names tell apart."""
    return [Rule(mine, (other,)) for mine, other in pairs.items()]


def both(pairs: Mapping[str, str]) -> list[Rule]:
    """Rules for modules with a weight and a bias."""
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
"""transformers' names of activations; the tanh forms differ in the last bits only."""

_WRITTEN = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "silu": "silu"}


def activation_of(values: Mapping[str, Any], key: str, default: str) -> Activation:
    """Our name of the activation that a config.json names; UserError for one that we do not have."""
    name = field_of(values, key, str, WHERE, default)
    if name not in ACTIVATIONS:
        raise UserError(f"{WHERE}: {key} is {name[:60]}, which is not known here; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def activation_name(activation: str) -> str:
    """transformers' name of an activation of ours."""
    return _WRITTEN[activation]


def number(values: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A size in a config.json; UserError when it is none. default: None for one that it must tell."""
    value = values.get(key) if default is None else values.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_ROWS:
        state = "is missing" if value is None else f"is {shown(value)}"
        raise UserError(
            f"{WHERE}: {key} {state}; it must be a whole number from 1 to {MOST_ROWS:,}, as its author wrote it"
        )
    return value


def real(values: Mapping[str, Any], key: str, default: float) -> float:
    """A finite number in a config.json; UserError when it is none."""
    return field_of(values, key, float, WHERE, default)


def flag(values: Mapping[str, Any], key: str, default: bool) -> bool:
    """A truth value in a config.json; UserError when it is none."""
    return field_of(values, key, bool, WHERE, default)


def rope_theta(values: Mapping[str, Any], kind: str, old: str, default: float) -> float:
    """The base of a kind of layer's rotary frequencies, in config.json's rope_parameters or in its older key `old`."""
    rope = field_of(field_of(values, "rope_parameters", dict, WHERE, {}), kind, dict, WHERE, {})
    refuse_options(rope, {"rope_type": "default", "partial_rotary_factor": 1.0})
    return real(rope, "rope_theta", real(values, old, default))


def refuse_options(values: Mapping[str, Any], plain_values: Mapping[str, Any]) -> None:
    """UserError for options of a config.json that ask for what our model does not have."""
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
"""Fields of `TransformerConfig` that say how a model is trained, not what it computes; and which layer fine-tuning adds
(`head_format_of` compares that)."""


class WeightNames(ABC):
    """A published architecture: its `config.json` and its names."""

    name: ClassVar[str]
    model_type: ClassVar[str]
    """What `config.json` calls it."""
    objective: ClassVar[type[Objective]]
    """The objective whose positions and visibility it has."""
    kin: ClassVar[tuple[type[Objective], ...]] = ()
    """Other objectives whose models have its weights and, given a text, read it as its own do."""
    also_reads: ClassVar[tuple[str, ...]] = ()
    """Other values of `model_type` that `read` takes."""
    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
    """What its tokenizer should give."""

    added_roles: ClassVar[tuple[str, ...]] = ()
    """Roles of the tokens that the family's own code adds to the end of a WordPiece vocabulary, in this order."""
    apart: ClassVar[frozenset[str]] = frozenset()
    """Fields of the configuration that its files cannot say and that a model may have all the same: their weights are
    kept beside (`Table.apart`)."""
    task_heads: ClassVar[TaskHeads | None] = None
    """The classes with heads that are fine-tuned; None where none has the heads of this program."""
    text_heads_as: ClassVar[str] = ""
    """Name of the family in whose form a head on texts is written, where the own class has another one than ours. Its
    token types are zeros."""
    token_roles: ClassVar[Mapping[str, str]] = {"bos_token_id": "cls", "eos_token_id": "sep"}
    """The roles of the special tokens that config.json gives ids of, the padding's aside."""

    @abstractmethod
    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Our configuration from a config.json and the names in the weight file; UserError for what we lack."""

    @abstractmethod
    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """The values of config.json, token ids aside. shift: as for `table`."""

    @abstractmethod
    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """The name table of a configuration. shift: by how many rows their positions stand further down than ours."""

    @abstractmethod
    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """The objective of an imported model, as long as its positions allow."""

    def token_ids(self, roles: Mapping[str, int]) -> dict[str, int | list[int] | None]:
        """The ids of special tokens in config.json, the padding's aside. roles: ids by role."""
        return {key: roles.get(role) for key, role in self.token_roles.items()}

    def unnamed_roles(self, roles: Mapping[str, int]) -> dict[str, int]:
        """Token ids by roles that the names of the tokens do not show. roles: those that they show."""
        return {}

    def trained_as(self, objective: Objective) -> bool:
        """Whether an objective has the family's positions and visibility."""
        return type(objective) in (self.objective, *self.kin)

    def shift(self, objective: Objective, pad: int) -> int:
        """The `shift` of a run's table. pad: the id of its padding."""
        return 0

    def differences(self, config: TransformerConfig) -> list[str]:
        """Names of the fields of a configuration that the family cannot say; empty when it says them all."""
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
