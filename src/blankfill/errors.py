"""Errors that the user can correct: one plain sentence each, no traceback.

Raise `UserError` for any mistake in a file, a flag or a recipe. The command line prints its text and exits
with code 2; the library raises it unchanged. Programming mistakes stay ordinary exceptions.

A sentence names a setting, which is an option of a recipe or a parameter of a function, by `setting("train.lr")`. The
setting is written as in files and in Python (`train.lr`) where the sentence is printed as it is, and as a flag
(`--train.lr`) by the command line; nothing else decides about the spelling, and no other file writes a flag into a
sentence (`tests/test_spelling_of_settings.py`). Only whole command lines, `blankfill …`, are quoted as they are typed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

LONGEST_LINE = 2000
"""Characters of a line of a message at most: one that quotes its input must not repeat a megabyte of it."""
_OPEN, _CLOSE, _BETWEEN = "\ue000", "\ue001", "\ue002"
_SETTING = re.compile(rf"{_OPEN}([^{_OPEN}{_CLOSE}{_BETWEEN}]*){_BETWEEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}")


def setting(path: str, value: object = None, flag: str = "") -> str:
    """A reference to a setting, for a `Problem`, the message of a `UserError` or a notice.

    path: names joined by dots. value: written with the setting where it is given. flag: what the command line has,
    without the dashes and with the value, where it is not the path: `setting("resume", True, f"resume {out}")`.
    """
    key = path if value is None else f"{path}={value}"
    if not flag:
        section, dot, name = path.rpartition(".")
        flag = f"{section}{dot}{'no-' * (value is False)}{name}".replace("_", "-")
        flag += "" if value is None or isinstance(value, bool) else f" {value}"
    marks = str.maketrans("", "", _OPEN + _CLOSE + _BETWEEN)
    return f"{_OPEN}{key.translate(marks)}{_BETWEEN}{flag.translate(marks)}{_CLOSE}"


def as_key(key: str, flag: str) -> str:
    """A setting as files and Python write it: train.max_grad_norm, or method=cloze with its value."""
    return key


def as_flag(key: str, flag: str) -> str:
    """A setting as the command line writes it: --train.max-grad-norm, or --method cloze with its value."""
    return f"--{flag}"


def template_of(sentence: str) -> str:
    """A sentence with its references, to be quoted in another one."""
    return sentence.template if isinstance(sentence, Problem) else sentence


def in_keys(sentence: str) -> str:
    """A `Problem` or a text with references, in the spelling of files and Python: train.lr."""
    return _spelled(sentence, as_key)


def in_flags(sentence: str) -> str:
    """A `Problem` or a text with references, in the spelling of the command line: --train.lr."""
    return _spelled(sentence, as_flag)


def _spelled(sentence: str, spell: Callable[[str, str], str]) -> str:
    template = template_of(sentence)
    return _SETTING.sub(lambda match: spell(match[1], match[2]), template) if _OPEN in template else template


class Problem(str):
    """A sentence about settings: a text in the spelling of files, which `in_flags` turns into that of flags."""

    template: str
    """The sentence with its references."""

    def __new__(cls, template: str) -> Problem:
        problem = super().__new__(cls, in_keys(template))
        problem.template = template_of(template)
        return problem

    def __getnewargs__(self) -> tuple[str]:
        return (self.template,)


def within(section: str, sentence: str, names: Collection[str] = ()) -> str:
    """The same sentence about the settings of a section of a larger whole, where it is a `Problem`.

    names: only these settings are in the section; without any, all are.
    """
    if not isinstance(sentence, Problem):
        return sentence

    def moved(match: re.Match[str]) -> str:
        if names and match[1].partition("=")[0] not in names:
            return match[0]
        return f"{_OPEN}{section}.{match[1]}{_BETWEEN}{section}.{match[2]}{_CLOSE}"

    return Problem(_SETTING.sub(moved, sentence.template))


class UserError(Exception):
    """Bad input, explained in one sentence that names what is wrong, where, and the remedy.

    The middle of a line of more than `LONGEST_LINE` characters is left out.
    """

    def __init__(self, message: str = "") -> None:
        self.sentence = Problem(message) if _OPEN in message else message
        """The message in full; a `Problem` where it names settings."""
        super().__init__("\n".join(map(_shortened, str(self.sentence).split("\n"))))

    @property
    def template(self) -> str:
        """The message with its references, to be quoted in another one."""
        return template_of(self.sentence)


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
        super().__init__("\n".join(map(template_of, self.problems)))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return (type(self), (self.problems,))


class NoArgumentsError(UserError):
    """A command that needs arguments has none. usage: what is printed then."""

    def __init__(self, command: str, usage: str) -> None:
        super().__init__(f"`blankfill {command}` needs arguments; `blankfill {command} --help` lists them")
        self.usage = usage
