"""Errors that are the user's to mend: one plain sentence each, no traceback.

Raise `UserError` for anything that a file, a flag or a recipe did wrong. The command line prints its text and exits
with code 2; the library raises it as it is. Programming mistakes stay ordinary exceptions.

A sentence names a setting by `setting("train.lr")`. The setting is written as in files (`train.lr`) where the sentence
is printed as it is, and as a flag (`--train.lr`) on the command line; nothing else decides about the spelling.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

LONGEST_LINE = 2000
"""Characters of a line of a message at most: one that quotes its input must not repeat a megabyte of it."""
_OPEN, _CLOSE = "\ue000", "\ue001"
_SETTING = re.compile(rf"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}")


def setting(path: str) -> str:
    """A reference to a setting, for a `Problem` or the message of a `UserError`. path: names joined by dots."""
    return f"{_OPEN}{path}{_CLOSE}"


def as_key(path: str) -> str:
    """The path of a setting as files and Python write it: train.max_grad_norm."""
    return path


def as_flag(path: str) -> str:
    """The path of a setting as the command line writes it: --train.max-grad-norm."""
    return f"--{path.replace('_', '-')}"


class Problem(str):
    """A sentence about settings: a text in the spelling of files, which can also be had in the spelling of flags."""

    template: str
    """The sentence with its references."""

    def __new__(cls, template: str) -> Problem:
        problem = super().__new__(cls, _rendered(template, as_key))
        problem.template = template
        return problem

    def __getnewargs__(self) -> tuple[str]:
        return (self.template,)

    @property
    def flags(self) -> str:
        """The sentence in the spelling of the command line."""
        return _rendered(self.template, as_flag)


def in_flags(sentence: str) -> str:
    """A sentence in the spelling of the command line, where it is a `Problem`; as it is otherwise."""
    return sentence.flags if isinstance(sentence, Problem) else sentence


def within(section: str, sentence: str) -> str:
    """The same sentence about the settings of a section of a larger whole, where it is a `Problem`."""
    if not isinstance(sentence, Problem):
        return sentence
    return Problem(_SETTING.sub(lambda match: setting(f"{section}.{match[1]}"), sentence.template))


def _rendered(template: str, spell: Callable[[str], str]) -> str:
    return _SETTING.sub(lambda match: spell(match[1]), template)


class UserError(Exception):
    """Bad input, explained in one sentence that names what is wrong, where, and the remedy.

    The middle of a line of more than `LONGEST_LINE` characters is left out.
    """

    def __init__(self, message: str = "") -> None:
        self.sentence = Problem(message) if _OPEN in message else message
        """The message in full; a `Problem` where it names settings."""
        super().__init__("\n".join(map(_shortened, str(self.sentence).split("\n"))))


def _shortened(line: str) -> str:
    if len(line) <= LONGEST_LINE:
        return line
    half = LONGEST_LINE // 2
    return f"{line[:half]} … {line[-half:]}"


class ConfigError(UserError):
    """All the mistakes of a configuration at once; `problems` holds one sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        whole = [Problem(problem) if _OPEN in problem else problem for problem in problems]
        self.problems = list(map(_shortened, whole))
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return (type(self), (self.problems,))
