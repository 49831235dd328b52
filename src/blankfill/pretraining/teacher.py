"""The teacher of a run that distils: opening it, whether it fits, and a student made of its layers.

The student begins as some of the teacher's layers, evenly chosen from the first to the last, between its embeddings and
its head (DistilBERT, Sanh et al. 2019, section 2; for 6 layers of 12 the released code takes 0, 2, 4, 7, 9, 11, and so
does the rule here). `teacher.json` in the run folder notes where the teacher lies and the checksum of its weights, so
that a resumed run learns from the same one. What is learnt from it is in `training.distil`.
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
from blankfill.errors import ConfigError, UserError
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
"""What teacher and student must have alike for layers to go from one to the other."""
ADOPTED = ("activation", "head_activation", "tied")
"""What a student made of the teacher's layers takes over, since its weights mean nothing else."""


@dataclass(frozen=True)
class Teacher:
    """A model that a run learns from. path: its checkpoint, or its folder as it was given."""

    loaded: Loaded

    @property
    def path(self) -> Path:
        """The folder of its weights."""
        return self.loaded.path

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer, which the student's must be."""
        return self.loaded.tokenizer

    @property
    def config(self) -> TransformerConfig:
        """Its architecture."""
        return self.loaded.model.config

    @cached_property
    def sha256(self) -> str:
        """The checksum of its weights, whatever file they lie in."""
        from blankfill.checkpoint.load import weights_checksum

        return weights_checksum(self.loaded.model)

    def check(self, recipe: Recipe, tokenizer: Tokenizer, begun: bool = False) -> None:
        """ConfigError when a run of this recipe, with this tokenizer, cannot learn from it.

        begun: whether the student has weights already and needs none of the teacher's.
        """
        if begun:
            recipe = dataclasses.replace(recipe, distil=dataclasses.replace(recipe.distil, start="drawn"))
        if problems := [*self.problems(recipe), *self.words_problems(recipe.objective, tokenizer)]:
            raise ConfigError(problems)

    def words_problems(self, objective: Objective, tokenizer: Tokenizer) -> list[str]:
        """What keeps the teacher's answers from being the student's: other ids, or none for what the objective asks."""
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
        """Why the teacher cannot read the rows of a recipe or be cut into its model, a sentence each."""
        sentences, objective, own = [], recipe.objective, self.loaded.objective
        if not self.config.lm_head:
            return [f"the teacher {self.path} has no head that predicts words; give one that was trained with one"]
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
                f"objective.length is {objective.length} and the teacher {self.path} reads {rows} tokens at most; "
                f"lower it to {rows}"
            )
        if recipe.train.z_loss:
            sentences.append("train.z_loss is added to the loss over words alone, not to a teacher's; leave it at 0")
        if recipe.distil.start == "teacher":
            sentences += self._start_problems(recipe, config)
        if recipe.distil.hidden_weight and config.hidden_size != self.config.hidden_size:
            sentences.append(
                f"the student is {config.hidden_size} wide and the teacher {self.config.hidden_size}, so their hidden "
                f"states have no cosine; set model.hidden_size {self.config.hidden_size} or distil.hidden_weight 0"
            )
        return sentences

    def _start_problems(self, recipe: Recipe, config: TransformerConfig) -> list[str]:
        wrong = [
            f"model.{name} is {getattr(config, name)} and the teacher's is {getattr(self.config, name)}"
            for name in COPIED
            if getattr(config, name) != getattr(self.config, name)
        ]
        sentences = []
        if wrong:
            sentences.append(
                f"the student cannot be made of the teacher's layers: {'; '.join(wrong)}; choose them alike, or let "
                "the student begin from nothing with distil.start drawn"
            )
        depth, given = self.config.num_layers, recipe.distil.layers
        if given and len(given) != config.num_layers:
            sentences.append(f"distil.layers names {len(given)} layers and model.num_layers is {config.num_layers}")
        if beyond := [layer for layer in given if not 0 <= layer < depth]:
            sentences.append(f"distil.layers names layer {beyond[0]}, and the teacher has layers 0 to {depth - 1}")
        if not given and config.num_layers > depth:
            sentences.append(
                f"model.num_layers is {config.num_layers} and the teacher has {depth}; make the student smaller, name "
                "layers with distil.layers, or begin from nothing with distil.start drawn"
            )
        return sentences

    def student_config(self, config: TransformerConfig, recipe: Recipe) -> TransformerConfig:
        """The student's architecture: that of its recipe, with a row for each of the teacher's words."""
        changes: dict[str, Any] = {"vocab_size": self.config.vocab_size}
        if recipe.distil.start == "teacher":
            changes |= {name: getattr(self.config, name) for name in ADOPTED}
        return dataclasses.replace(config, **changes)

    def start(self, student: Transformer, recipe: Recipe) -> Sequence[int]:
        """Give a student the teacher's weights, as far as they go; returns the layers that were taken."""
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
        """By how much its positions are numbered higher than those of an objective."""
        return self.loaded.objective.position_offset - objective.position_offset

    def distillation(self, recipe: Recipe) -> Distillation:
        """The losses that a student of this recipe learns by."""
        from blankfill.model.heads import SPAN_BOUNDARY
        from blankfill.training.distil import Distillation

        objective = recipe.objective
        answers = (*objective.labels(), *([SPAN_BOUNDARY] if objective.max_span_positions() else []))
        return Distillation(self.loaded.model, recipe.distil, self.shift(objective), answers)

    def write(self, out: Path) -> str:
        """The text of `teacher.json`."""
        noted = {"teacher": path_from(out, self.path), "sha256": self.sha256}
        return json.dumps(noted, indent=1, ensure_ascii=False) + "\n"


def open_teacher(path: str | Path, device: torch.device | str = "cpu") -> Teacher:
    """Open a model to learn from: whatever `load_model` opens. UserError when it cannot be."""
    import torch

    from blankfill.checkpoint.load import load_model

    loaded = load_model(path, str(device), torch.float32)
    loaded.model.requires_grad_(False)
    return Teacher(loaded)


def read_teacher(out: Path, moved: str | Path | None, device: torch.device | str = "cpu") -> Teacher | None:
    """The teacher that a run folder notes; None for a run without. moved: where it lies now, if it has been moved.

    UserError when it is gone, or no longer the same.
    """
    noted = out / FILE
    if not noted.exists():
        if moved is not None:
            raise UserError(f"{out} was begun without a teacher; leave out --teacher, or begin a run with it")
        return None
    try:
        values = read_json(noted)
        path = path_seen_from(out, field(values, "teacher", str, noted))
        sha256 = field(values, "sha256", str, noted)
    except UserError as error:
        raise UserError(f"{error}; begin the run again, into another --out") from error
    path = Path(moved) if moved is not None else path
    if not path.exists():
        raise UserError(
            f"the teacher of {out} is gone from {path}; put it back, or say where it is now: --resume {out} --teacher …"
        )
    teacher = open_teacher(path, device)
    if teacher.sha256 != sha256:
        raise UserError(
            f"{path} is not the teacher that {out} was begun with (its weights have another checksum); say where that "
            f"one is: --resume {out} --teacher …"
        )
    return teacher


def evenly(count: int, depth: int) -> tuple[int, ...]:
    """`count` of `depth` layers, the first and the last among them, as evenly as can be: 6 of 12 are 0 2 4 7 9 11."""
    return tuple(round(k * (depth - 1) / max(1, count - 1)) for k in range(count))


def their_name(name: str, layers: Sequence[int]) -> str:
    """The teacher's name of a weight of the student's; layers: which of the teacher's each of the student's is."""
    if not name.startswith("layers."):
        return name
    _, number, rest = name.split(".", 2)
    return f"layers.{layers[int(number)]}.{rest}"


def copy_positions(name: str, ours: torch.Tensor, taught: Mapping[str, torch.Tensor], shift: int, alone: bool) -> None:
    """Rows of a position table. alone: the student has no token types, so the teacher's first one goes into them."""
    theirs = taught.get(name)
    if theirs is None:
        ours.zero_()  # token types that the teacher does not know change nothing at first
        return
    if name == "positions.0.weight":
        if alone and "positions.1.weight" in taught:
            theirs = theirs + taught["positions.1.weight"][0]
        ours, theirs = (ours, theirs[shift:]) if shift >= 0 else (ours[-shift:], theirs)
    rows = min(len(ours), len(theirs))
    ours[:rows] = theirs[:rows]
