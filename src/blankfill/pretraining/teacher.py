"""The teacher of a distillation run: opening it, checking that it fits, and making a student from its layers.

The student starts with some of the teacher's layers, evenly chosen from the first to the last, between the teacher's
embeddings and head (DistilBERT, Sanh et al. 2019, section 2; for 6 layers of 12 the released code takes 0, 2, 4, 7, 9,
11, and so does this rule). `teacher.json` in the run folder holds the path of the teacher and the checksum of its
weights, so that a resumed run has the same teacher. `training.distil` has the losses.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.config.recipe import Recipe
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import ConfigError, UserError, setting
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Objective
from blankfill.system.files import path_from, path_seen_from
from blankfill.system.reading import field, read_json

if TYPE_CHECKING:
    import torch

    from blankfill.checkpoint.load import Loaded
    from blankfill.model.transformer import Transformer
    from blankfill.training.distil import Distillation

FILE = "teacher.json"
COPIED = ("hidden_size", "num_heads", "head_size", "ffn_size", "embedding_size", "shared", "norm", "embedding_norm")
"""Settings that teacher and student must share for layers to be copied."""
ADOPTED = ("activation", "head_activation", "tied")
"""Settings that a student takes from the teacher with its layers, since the weights depend on them."""


@dataclass(frozen=True)
class Teacher:
    """A model that a run learns from. path: its checkpoint, or its folder as given."""

    loaded: Loaded

    @property
    def path(self) -> Path:
        """The folder of the teacher's weights."""
        return self.loaded.path

    @property
    def tokenizer(self) -> Tokenizer:
        """The teacher's tokenizer, which must equal the student's."""
        return self.loaded.tokenizer

    @property
    def config(self) -> TransformerConfig:
        """The teacher's architecture."""
        return self.loaded.model.config

    @cached_property
    def sha256(self) -> str:
        """The checksum of the teacher's weights, independent of the file format."""
        from blankfill.checkpoint.load import weights_checksum

        return weights_checksum(self.loaded.model)

    def check(self, recipe: Recipe, tokenizer: Tokenizer, begun: bool = False) -> None:
        """Raise ConfigError when a run of this recipe, with this tokenizer, cannot learn from the teacher.

        begun: whether the student has weights already and needs none of the teacher's.
        """
        if begun:
            recipe = dataclasses.replace(recipe, distil=dataclasses.replace(recipe.distil, start="drawn"))
        if problems := [*self.problems(recipe), *self.words_problems(recipe.objective, tokenizer)]:
            raise ConfigError(problems)

    def words_problems(self, objective: Objective, tokenizer: Tokenizer) -> list[str]:
        """Return what separates the vocabularies of teacher and student: other ids, or a role that the objective
        needs."""
        if lacking := self.loaded.vocabulary.missing(objective.roles):
            return [
                f"the teacher {self.path} has no token for {', '.join(lacking)}, which {objective.name} needs; give "
                "one that was trained with it"
            ]
        if tokenizer.size > self.config.vocab_size or not tokenizer.reads_like(self.tokenizer):
            return [
                f"the teacher {self.path} has another vocabulary than the student; give the student the teacher's "
                "tokenizer, or a teacher that has the student's"
            ]
        return []

    def problems(self, recipe: Recipe) -> list[str]:
        """Return why the teacher cannot read the rows of a recipe, or why its layers do not fit the student, as
        sentences."""
        sentences, objective, own = [], recipe.objective, self.loaded.objective
        if not self.config.lm_head:
            return [f"the teacher {self.path} has no language-model head; give a teacher with one"]
        if not (objective.masked and own.masked):
            return [
                f"the teacher {self.path} was trained as {own.name} and the student would be as {objective.name}; "
                "distilling needs masked objectives, whose rows both can read, on both sides"
            ]
        if objective.own_rows and type(own) is not type(objective):
            return [
                f"the teacher {self.path} was trained as {own.name} and has never read rows of {objective.name}; give "
                f"one that was trained as {objective.name}"
            ]
        config = recipe.model_config(self.config.vocab_size)
        if config.generator_size or self.config.generator_size:
            return [
                f"the teacher {self.path} or the student has a generator for replaced tokens, and distilling compares "
                "predictions of masked tokens; take a teacher and an objective without one, such as mlm"
            ]
        rows = self.config.position_sizes[0] - own.position_offset
        if objective.length > rows:
            sentences.append(
                f"{setting('objective.length')} is {objective.length} and the teacher {self.path} reads {rows} tokens "
                f"at most; lower it to {rows}"
            )
        if recipe.train.z_loss:
            sentences.append(
                f"{setting('train.z_loss')} is added to the loss over words alone, not to a teacher's; leave it at 0"
            )
        if recipe.distil.start == "teacher":
            sentences += self._start_problems(recipe, config)
        if recipe.distil.hidden_weight and config.hidden_size != self.config.hidden_size:
            sentences.append(
                f"the student is {config.hidden_size} wide and the teacher {self.config.hidden_size}, so their hidden "
                f"states have no cosine; set {setting('model.hidden_size', self.config.hidden_size)} or "
                f"{setting('distil.hidden_weight', 0)}"
            )
        return sentences

    def _start_problems(self, recipe: Recipe, config: TransformerConfig) -> list[str]:
        wrong = [
            f"{setting(f'model.{name}')} is {getattr(config, name)} and the teacher's is {getattr(self.config, name)}"
            for name in COPIED
            if getattr(config, name) != getattr(self.config, name)
        ]
        sentences = []
        if wrong:
            sentences.append(
                f"the student cannot be made of the teacher's layers: {'; '.join(wrong)}; choose them alike, or let "
                f"the student begin from nothing with {setting('distil.start', 'drawn')}"
            )
        depth, given = self.config.num_layers, recipe.distil.layers
        if given and len(given) != config.num_layers:
            sentences.append(
                f"{setting('distil.layers')} names {len(given)} layers and {setting('model.num_layers')} is "
                f"{config.num_layers}"
            )
        if beyond := [layer for layer in given if not 0 <= layer < depth]:
            sentences.append(
                f"{setting('distil.layers')} names layer {beyond[0]}, and the teacher has layers 0 to {depth - 1}"
            )
        if not given and config.num_layers > depth:
            sentences.append(
                f"{setting('model.num_layers')} is {config.num_layers} and the teacher has {depth}; make the student "
                f"smaller, name layers with {setting('distil.layers')}, or begin from nothing with "
                f"{setting('distil.start', 'drawn')}"
            )
        return sentences

    def student_config(self, config: TransformerConfig, recipe: Recipe) -> TransformerConfig:
        """Return the student's architecture: that of its recipe, with the size of the teacher's vocabulary."""
        changes: dict[str, Any] = {"vocab_size": self.config.vocab_size}
        if recipe.distil.start == "teacher":
            changes |= {name: getattr(self.config, name) for name in ADOPTED}
        return dataclasses.replace(config, **changes)

    def start(self, student: Transformer, recipe: Recipe) -> Sequence[int]:
        """Copy the teacher's weights into a student where they fit; returns the numbers of the copied layers."""
        import torch

        layers = recipe.distil.layers or evenly(student.config.num_layers, self.config.num_layers)
        taught = self.loaded.model.state_dict()
        with torch.no_grad():
            for name, drawn in student.state_dict().items():
                if name.startswith("positions."):
                    copy_positions(name, drawn, taught, self.shift(recipe.objective), len(student.positions) == 1)
                elif (theirs := their_name(name, layers)) in taught:
                    drawn.copy_(taught[theirs])
        return layers

    def shift(self, objective: Objective) -> int:
        """Return the offset of the teacher's position numbers from those of an objective."""
        return self.loaded.objective.position_offset - objective.position_offset

    def distillation(self, recipe: Recipe) -> Distillation:
        """Return the losses of a student of this recipe."""
        from blankfill.model.heads import SPAN_BOUNDARY
        from blankfill.training.distil import Distillation

        objective = recipe.objective
        answers = (*objective.labels(), *([SPAN_BOUNDARY] if objective.max_span_positions() else []))
        return Distillation(self.loaded.model, recipe.distil, self.shift(objective), answers)

    def write(self, out: Path) -> str:
        """Return the text of `teacher.json`."""
        noted = {"teacher": path_from(out, self.path), "sha256": self.sha256}
        return json.dumps(noted, indent=1, ensure_ascii=False) + "\n"


def open_teacher(path: str | Path, device: torch.device | str = "cpu") -> Teacher:
    """Open a model to learn from, as `load_model` does. UserError when it cannot be opened."""
    import torch

    from blankfill.checkpoint.load import load_model

    loaded = load_model(path, str(device), torch.float32)
    loaded.model.requires_grad_(False)
    return Teacher(loaded)


def read_teacher(out: Path, moved: str | Path | None, device: torch.device | str = "cpu") -> Teacher | None:
    """Open the teacher of a run folder; None for a run without a teacher. moved: its present path, if it was moved.

    UserError when it is gone or has changed.
    """
    noted = out / FILE
    if not noted.exists():
        if moved is not None:
            raise UserError(
                f"{out} was begun without a teacher; leave out {setting('teacher')}, or begin a run with it"
            )
        return None
    try:
        values = read_json(noted)
        path = path_seen_from(out, field(values, "teacher", str, noted))
        sha256 = field(values, "sha256", str, noted)
    except UserError as error:
        raise UserError(f"{error.template}; begin the run again, into another {setting('out')}") from error
    path = Path(moved) if moved is not None else path
    if not path.exists():
        raise UserError(
            f"the teacher of {out} is gone from {path}; put it back, or say where it is now with {setting('teacher')}"
        )
    teacher = open_teacher(path, device)
    if teacher.sha256 != sha256:
        raise UserError(
            f"{path} is not the teacher that {out} was begun with (its weights have another checksum); say where that "
            f"one is with {setting('teacher')}"
        )
    return teacher


def evenly(count: int, depth: int) -> tuple[int, ...]:
    """Return `count` of `depth` layers with the first and the last, as evenly spaced as possible: 6 of 12 are 0 2 4 7 9
    11."""
    return tuple(round(k * (depth - 1) / max(1, count - 1)) for k in range(count))


def their_name(name: str, layers: Sequence[int]) -> str:
    """Return the teacher's name of a student's weight; layers: the teacher's layer for each of the student's."""
    if not name.startswith("layers."):
        return name
    _, number, rest = name.split(".", 2)
    return f"layers.{layers[int(number)]}.{rest}"


def copy_positions(name: str, ours: torch.Tensor, taught: Mapping[str, torch.Tensor], shift: int, alone: bool) -> None:
    """Copy rows of a position table. alone: whether the student has no token types, so that the teacher's first one is
    added to the rows."""
    theirs = taught.get(name)
    if theirs is None:
        ours.zero_()  # token types that the teacher lacks have no effect at first
        return
    if name == "positions.0.weight":
        if alone and "positions.1.weight" in taught:
            theirs = theirs + taught["positions.1.weight"][0]
        ours, theirs = (ours, theirs[shift:]) if shift >= 0 else (ours[-shift:], theirs)
    rows = min(len(ours), len(theirs))
    ours[:rows] = theirs[:rows]
