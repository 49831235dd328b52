"""The text that a model reads before an answer: a conversation written out by a template.

A template is Jinja, with what transformers' `chat_template` offers, so the templates of imported models work, and ours
work there: `messages`, `add_generation_prompt`, the special tokens by their names (`bos_token`, …),
`raise_exception`, `strftime_now`, `tojson`, `{% break %}` and `{% continue %}`; the body of `{% generation %}` is
written as it is. The built-in ones are Jinja too. A template runs in a sandbox (`system.sandbox`), since it may come
with a model from somewhere: it sees the messages and nothing else, and its steps are limited.

Text cannot forge a special token: a token that the template writes (`<|im_start|>`) is that token, and the same
letters in a message are letters. For this, messages are marked wherever they spell a special token before the template
sees them, with a character that no text has; `prompt_ids` finds the tokens of the template between the marks.

Not here: what surrounds a prompt in a row of the model (`Format`), e.g. ChatGLM's `[gMASK] <sop>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blankfill.chatting.messages import Message, check
from blankfill.corpus.tokenizer_chat import LONGEST, TEMPLATE, template_source
from blankfill.corpus.tokenizer_chat import token_names as names_in
from blankfill.errors import UserError, setting
from blankfill.system.files import write_file
from blankfill.system.reading import read_text

if TYPE_CHECKING:
    from blankfill.corpus.tokenizer import Tokenizer
    from blankfill.system.sandbox import LimitedEnvironment

FILE = TEMPLATE
"""Name of the file with the template, in the folder of a model."""
MARK = "\ufdd0"
"""A noncharacter of Unicode, which no text has."""
DEFAULT = "plain"
"""The built-in template of models that have none of their own."""

CHATGLM = """\
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content + '\\n' %}
    {%- set spoken = messages[1:] %}
{%- else %}
    {%- set system = '' %}
    {%- set spoken = messages %}
{%- endif %}
{%- if add_generation_prompt and spoken | length == 1 %}
    {{- system + spoken[0].content }}
{%- else %}
    {%- for message in spoken %}
        {%- if message.role == 'user' %}
            {{- '[Round ' ~ loop.index0 // 2 ~ ']\\n问：' + (system if loop.first else '') }}
            {{- message.content + '\\n答：' }}
        {%- else %}
            {{- message.content + '\\n' }}
        {%- endif %}
    {%- endfor %}
{%- endif %}
"""
PLAIN = """\
{%- set names = {'user': 'USER', 'assistant': 'ASSISTANT'} %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- message.content + '\\n\\n' }}
    {%- else %}
        {{- names[message.role] + '\\n' + message.content + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- names.assistant + '\\n' }}
{%- endif %}
"""
BARE = "{{- messages[0].content + '\\n' if messages[0].role == 'system' }}{{ messages[-1].content }}"
BUILT_IN: dict[str, str] = {
    "bare": BARE,
    "chatglm": CHATGLM,
    "plain": PLAIN.replace("USER", "User:").replace("ASSISTANT", "Assistant:"),
    "plain-zh": PLAIN.replace("USER", "用户：").replace("ASSISTANT", "助手："),
}
"""The built-in templates.

bare: the last message alone, for models that know no history. chatglm: as ChatGLM-6B was released, which is
`[Round 0]`, `问：…`, `答：…` on lines of their own, and the bare question where there is no history; a message of the
system stands before the first question, which was not foreseen there. plain, plain-zh: our own wording.
"""


QUESTION = "a question"
"""The message by which a template is checked."""


@dataclass(frozen=True)
class ChatTemplate:
    """A template. source: the Jinja text. name: of a built-in one, else "". where: its file, for sentences.

    tokens: what the template may name, e.g. {"bos_token": "<s>"}.
    """

    source: str
    name: str = ""
    where: str = "the chat template"
    tokens: Mapping[str, str] = field(default_factory=dict)

    def prompt(self, messages: Sequence[Message]) -> str:
        """Return the text that the model reads before it answers the last message, which is of the user.

        Raises UserError for messages that make no conversation, and for an error in the template.
        """
        check(messages)
        return self.render(messages)

    def prompt_ids(self, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
        """Return the ids of `prompt`: special tokens where the template writes them, and never from a message."""
        check(messages)
        return self._ids(messages, tokenizer)

    def closing(self, tokenizer: Tokenizer) -> list[int]:
        """Return the special token that the template writes behind an answer, as a list of one; empty where it writes
        none. An answer ends there."""
        behind = self._between(1).lstrip()
        special = tokenizer.special_tokens
        names = [name for name in special if behind.startswith(name)]
        return [special[max(names, key=len)]] if names else []

    def next_question(self, tokenizer: Tokenizer) -> str:
        """Return what the template writes between an answer and the next question, as the tokenizer reads and writes
        it: a model that was not trained to end an answer continues with it.

        "" where the template ends answers with a special token, or writes something else in each round.
        """
        between = self._between(1)
        if between != self._between(2) or _any_of(tokenizer.special_tokens).search(between):
            return ""
        return tokenizer.decode(tokenizer.encode_plain([between.rstrip()])[0].tolist())

    def _between(self, number: int) -> str:
        """Return what the template writes behind answer `number` of a conversation, up to the next question."""
        talk = [Message("user", f"{MARK}user"), Message("assistant", f"{MARK}assistant")] * (number + 1)
        try:
            text = self.render(talk, add_generation_prompt=False)
        except UserError:
            return ""
        answers = text.split(f"{MARK}assistant")
        return answers[number].partition(f"{MARK}user")[0] if len(answers) > number else ""

    def check(self) -> None:
        """Raise UserError with the line when the template is not Jinja, or when a prompt lacks the user's message."""
        _ = self._compiled
        try:
            prompt = self.render([Message("user", QUESTION)])
        except UserError:  # it may need other messages
            return
        if QUESTION not in prompt.casefold():
            raise UserError(
                f"{self.where}: the template does not write the user's message into the prompt, so all answers would "
                "be the same; write messages[-1].content, or the content of each message in a loop"
            )

    def save(self, folder: Path) -> None:
        """Write the template into the folder of a model."""
        write_file(folder / FILE, self.source)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """Write messages out, unchecked. Raises UserError for an error in the template, with its line."""
        from blankfill.system.sandbox import limited

        values = [message.to_json() for message in messages]
        compiled = self._compiled
        try:
            with limited():
                text: str = compiled.render(
                    messages=values, tools=None, documents=None, add_generation_prompt=add_generation_prompt,
                    **self.tokens,
                )  # fmt: skip
        except Exception as error:  # whatever a template may do wrong: a division, a missing name, its own refusal
            raise self._failed(error) from None
        return text

    def _ids(self, messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
        special = tokenizer.special_tokens
        text = self.render([Message(message.role, marked(message.content, special)) for message in messages])
        tokens = _any_of(special)
        if MARK not in text:  # in one piece, as transformers reads it
            return tokenizer.encode(text) if tokens.search(text) else tokenizer.encode_plain([text])[0].tolist()
        ids: list[int] = []
        for index, piece in enumerate(tokens.split(text)):
            if index % 2:
                ids.append(special[piece])
            elif piece:
                ids += tokenizer.encode_plain([piece.replace(MARK, "")])[0].tolist()
        return ids

    @cached_property
    def _compiled(self) -> Any:
        return _environment().compiled(
            self.source, self.where, f"mend it, or name another one with {setting('template')}"
        )

    def _failed(self, error: Exception) -> UserError:
        from jinja2 import TemplateError

        line, trace = 0, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.where:
                line = trace.tb_lineno
            trace = trace.tb_next
        where = f"{self.where}, line {line}" if line else self.where
        if isinstance(error, _RefusedError):
            return UserError(f"{where}: the template refuses these messages: {_plain(error)}")
        what = _plain(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {_plain(error)}"
        return UserError(f"{where}: the template fails on these messages ({what}); mend it")


def built_in(name: str) -> ChatTemplate:
    """Return a built-in template. Raises UserError with the names when that name is unknown."""
    if name not in BUILT_IN:
        raise UserError(f"there is no chat template {name!r}; the built-in ones are {', '.join(BUILT_IN)}")
    return ChatTemplate(BUILT_IN[name], name, f"the template {name}")


def read_template(path: Path, tokens: Mapping[str, str] | None = None) -> ChatTemplate:
    """Return the template in a file. Raises UserError for a file that cannot be read, or that is not Jinja."""
    return _checked(read_text(path, LONGEST), str(path), tokens)


def template_named(value: str, tokens: Mapping[str, str] | None = None) -> ChatTemplate:
    """Return the template that a user names: a built-in one, or that of a file. Raises UserError."""
    if value in BUILT_IN:
        return built_in(value)
    if not Path(value).exists():
        raise UserError(
            f"{value}: there is no such file, and no built-in chat template of this name ({', '.join(BUILT_IN)})"
        )
    return read_template(Path(value), tokens)


def template_in(folders: Iterable[Path], tokens: Mapping[str, str] | None = None) -> ChatTemplate | None:
    """Return the template of a model, of the first of the folders with one (`corpus.tokenizer_chat`); None without any.
    Raises UserError for a bad file."""
    for folder in folders:
        if source := template_source(folder):
            return _checked(source.text, source.where, tokens)
    return None


def token_names(folders: Iterable[Path]) -> dict[str, str]:
    """Return the special tokens that the files of a tokenizer name, e.g. {"bos_token": "<s>"}, for templates."""
    return next(filter(None, map(names_in, folders)), {})


def _checked(source: str, where: str, tokens: Mapping[str, str] | None) -> ChatTemplate:
    same = next((name for name, known in BUILT_IN.items() if known == source), "")
    template = ChatTemplate(source, same, where, tokens or {})
    template.check()
    return template


def marked(text: str, special: Collection[str]) -> str:
    """Return a text with a mark inside everything in it that spells a special token, or a part of one at its ends.

    What the template writes beside a message can then complete no token either.
    """
    text = text.replace(MARK, "")
    text = _any_of(special).sub(lambda match: f"{match[0][:1]}{MARK}{match[0][1:]}", text)
    parts = _parts_of(tuple(special))
    for size in range(min(parts.longest, len(text)), 1, -1):
        if text[-size:] in parts.beginnings:
            text = f"{text[: 1 - size]}{MARK}{text[1 - size :]}"
    if any(text[:size] in parts.endings for size in range(2, parts.longest + 1)):
        text = f"{text[:1]}{MARK}{text[1:]}"
    return text


class _Parts(NamedTuple):
    """Parts of two characters or more of special tokens. longest: length of the longest."""

    beginnings: frozenset[str]
    endings: frozenset[str]
    longest: int


@lru_cache(maxsize=8)
def _parts_of(tokens: tuple[str, ...]) -> _Parts:
    """Return the parts of some tokens, of which a tokenizer may have hundreds, and a message is marked often."""
    sizes = [(token, size) for token in tokens for size in range(2, len(token))]
    beginnings = frozenset(token[:size] for token, size in sizes)
    endings = frozenset(token[-size:] for token, size in sizes)
    return _Parts(beginnings, endings, max(map(len, tokens), default=1) - 1)


def _any_of(tokens: Collection[str]) -> re.Pattern[str]:
    """Return the pattern of any of some tokens, the longest first, in a group; it matches nothing where there are
    none."""
    return _pattern_of(tuple(tokens))


@lru_cache(maxsize=8)
def _pattern_of(tokens: tuple[str, ...]) -> re.Pattern[str]:
    ordered = sorted(tokens, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, ordered))})" if ordered else "((?!))")


def _plain(error: object) -> str:
    return " ".join(str(error).split())


class _RefusedError(Exception):
    """`raise_exception` of a template."""


def _refuse(message: object) -> None:
    raise _RefusedError(str(message))


def _now(form: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(form)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """`tojson` as templates expect it: without the escapes of HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _environment() -> LimitedEnvironment:
    """Make the environment of templates."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser

    from blankfill.system.sandbox import LimitedEnvironment

    class Generation(Extension):
        """`{% generation %}`, which marks the answers for training elsewhere: its body, as it is."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = LimitedEnvironment(extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    functions: dict[str, Callable[..., Any]] = {"raise_exception": _refuse, "strftime_now": _now}
    environment.globals.update(functions)
    return environment
