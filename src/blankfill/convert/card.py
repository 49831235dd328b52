"""Model cards: the README.md of an exported folder, with a header that the Hugging Face hub understands.

A card says only what the run has recorded: an unknown fact is written as "unknown", and a key of the header whose value
is unknown is a comment. Paths of the machine never appear, only the names of files and folders. Not here: collecting
the facts of a run (`exporting.cards`), and the examples of code (`convert.card_code`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

README = "README.md"
UNKNOWN = "unknown"
Program = Literal["transformers", "onnxruntime", "peft", "llama.cpp"]
LIBRARIES: dict[Program, str] = {
    "transformers": "transformers", "onnxruntime": "onnx", "peft": "peft", "llama.cpp": "gguf",
}  # fmt: skip
"""`library_name` of a folder for a program."""


@dataclass(frozen=True)
class Target:
    """How another program opens an exported folder, and what it computed from it.

    name: of the class of transformers, or of the outputs of a graph. texts: number of texts that were compared.
    difference: the largest between its numbers and ours; None when nothing was compared. left_out: name of a head that
    the folder does not have. base: folder of the base model of an adapter, in the exported folder. change: what became
    of the scores in an export of fewer bits, in words. read: what the program read and computed, in words, where that
    is no single number.
    """

    program: Program
    name: str
    texts: int
    difference: float | None
    left_out: str = ""
    base: str = ""
    change: str = ""
    read: str = ""


Describe = Callable[[Target], str]
"""Writes the card of a folder once it has been written and compared."""


@dataclass(frozen=True)
class Score:
    """A measured score. metric: our name. kind: the metric's name on the hub. count: number of items, None if
    unknown."""

    metric: str
    kind: str
    value: float
    count: int | None = None


@dataclass(frozen=True)
class Card:
    """The facts of a model card.

    title: name of the model. what: a sentence on what it is. tag: `pipeline_tag` of the hub, "" for none. language:
    codes of known languages. tags: words to search for. base: name of the model that it was fine-tuned from, "" for
    none. dataset: (name, id) of the data of the scores. scored_on: a sentence on the items of the scores. data, recipe:
    (what, value) in order. code: examples for each program. labels: names of labels, in the order of the outputs.
    limits: sentences.
    """

    title: str
    what: str
    tag: str = ""
    language: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    base: str = ""
    dataset: tuple[str, str] = ("", "")
    scored_on: str = ""
    scores: Sequence[Score] = ()
    data: Sequence[tuple[str, str]] = ()
    recipe: Sequence[tuple[str, str]] = ()
    labels: tuple[str, ...] = ()
    usage: Callable[[Target], str] = field(default=lambda target: "")
    limits: Sequence[str] = ()

    def text(self, target: Target) -> str:
        """Return the text of README.md for a folder."""
        sections = [
            ("", [self.what, *self._checked(target)]),
            ("Use", [self.usage(target)]),
            ("Labels", [", ".join(map(code, self.labels))] if self.labels else []),
            ("Data", [table(self.data)] if self.data else []),
            ("Scores", self._scores()),
            ("Training", [table(self.recipe)] if self.recipe else []),
            ("Limits", ["\n".join(f"- {limit}" for limit in self.limits)] if self.limits else []),
        ]
        lines = [self.header(target), f"# {plain(self.title)}"]
        for title, paragraphs in sections:
            if paragraphs:
                lines += [f"## {title}"] if title else []
                lines += paragraphs
        return "\n\n".join(lines) + "\n"

    def header(self, target: Target) -> str:
        """Return the YAML header of the hub, with its marks."""
        import yaml

        values: dict[str, Any] = {"language": list(self.language)} if self.language else {}
        values["library_name"] = LIBRARIES[target.program]
        if self.tag:
            values["pipeline_tag"] = self.tag
        values["tags"] = ["blankfill", *self.tags]
        if self.scores and self.tag and self.dataset[0]:
            metrics = [{"type": score.kind, "name": score.metric, "value": round(score.value, 6)}
                       for score in self.scores]  # fmt: skip
            name, kind = self.dataset
            result = {"task": {"type": self.tag}, "dataset": {"name": name, "type": kind}, "metrics": metrics}
            values["model-index"] = [{"name": self.title, "results": [result]}]
        open_keys = ["# license: the licence under which you publish this model, such as apache-2.0"]
        if not self.language:
            open_keys.append("# language: the codes of the languages of its text, such as en")
        if self.base:
            open_keys.append(f"# base_model: the name on the hub of {flat(self.base)}, if it is published there")
        written = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
        return "---\n" + written + "\n".join(open_keys) + "\n---"

    def _checked(self, target: Target) -> list[str]:
        if target.read:
            checked = f"{target.read}."
        elif target.difference is None:
            checked = (
                f"{target.program} was not installed at the export, so the folder was not compared with the model."
            )
        else:
            count = "1 text" if target.texts == 1 else f"{target.texts} texts"
            checked = (
                f"{target.program} was compared with blankfill on {count} at the export: the largest difference of a "
                f"score is {target.difference:.1e}."
            )
        left = f"The {target.left_out} of the model is not in the folder." if target.left_out else ""
        change = f"Against the model, on {target.texts} texts: {target.change}." if target.change else ""
        return [" ".join(part for part in (f"Format: `{target.name}`.", checked, change, left) if part)]

    def _scores(self) -> list[str]:
        if not self.scores:
            return ["Scores: unknown."]
        rows = [(score.metric, f"{score.value:.4f}", UNKNOWN if score.count is None else f"{score.count:,}")
                for score in self.scores]  # fmt: skip
        return [*([self.scored_on] if self.scored_on else []), table(rows, ("metric", "value", "n"))]


def table(rows: Sequence[Sequence[str]], headers: Sequence[str] = ("", "")) -> str:
    """Return a table in Markdown."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(plain(cell) for cell in line) + " |" for line in lines)


def plain(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    return flat(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def code(text: str) -> str:
    """Return a text that Markdown shows as code, on one line."""
    return f"`{flat(text).replace('`', chr(39))}`"


def flat(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())


def known(values: Mapping[str, Any], name: str) -> str:
    """Return a recorded value as text; "unknown" for one that is missing."""
    value = values.get(name)
    if value is None or value == "":
        return UNKNOWN
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
