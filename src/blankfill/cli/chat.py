"""`blankfill chat`: talk to a model in a terminal, or answer the lines of standard input or the dialogues of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from blankfill.checkpoint.dtypes import WeightType, dtype_named
from blankfill.cli.arguments import parsed
from blankfill.cli.lines import lines_of
from blankfill.cli.result import Result, Rows
from blankfill.errors import UserError, setting
from blankfill.system.bounds import COUNT, Bound
from blankfill.system.console import is_json, say, show
from blankfill.system.schema import Option

if TYPE_CHECKING:
    from blankfill.chatting.engine import Answering, Chat, Reply
    from blankfill.chatting.messages import Message
    from blankfill.chatting.session import Session

WINDOW = 32
"""Dialogues of a file that are answered together."""


def template_names() -> list[str]:
    """Return the names of the built-in templates."""
    from blankfill.chatting.templates import BUILT_IN

    return list(BUILT_IN)


@dataclass(frozen=True, kw_only=True)
class ChatArguments:
    """Chat with a model that writes.

    In a terminal: a conversation, in which the model reads all earlier rounds that fit into its context. Ctrl-C ends an
    answer, Ctrl-D the conversation; /help lists the commands (/undo, /save, …). A line with a backslash
    at its end continues on the next one, and lines between two lines of three quotation marks are one message.
    Elsewhere each line of standard input is a message of one conversation.
    """

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"max_new_tokens": COUNT, "max_length": COUNT}
    GROUPS: ClassVar[Mapping[str, str]] = {
        "Model": "model adapter template system allow_unknown",
        "Input": "messages",
        "Length": "max_new_tokens max_length",
        "Sampling": "temperature top_k top_p repetition_penalty no_repeat_ngram process seed",
        "Machine": "dtype device threads",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "blankfill chat --model runs/chat",
        'blankfill chat --model imported/chatglm --system "Answer in one sentence." --seed 1',
        "blankfill chat --model runs/chat --messages dialogues.jsonl --json",
    )

    model: Path
    """Folder of a model that writes: a run, one of its checkpoints, an imported or a fine-tuned model."""
    adapter: Path | None = None
    """Folder of LoRA matrices or of a prefix (P-tuning v2) for the model: one that finetune wrote (OUT/adapter), or of
    peft."""
    template: Annotated[str | None, Option(suggestions=template_names)] = None
    """File with a chat template (Jinja, as transformers has it), or a built-in one: chatglm, plain, plain-zh, bare.
    Without it, the one in the model's folder, else that of its objective."""
    system: str | None = None
    """Message of the system, which the model reads first."""
    messages: Path | None = None
    """File of dialogues to answer, as /save writes them or one on each line; a last message of the assistant is left
    out and answered anew."""
    allow_unknown: bool = False
    """Answer although most of a message is unknown to the model's tokenizer."""
    max_new_tokens: int | None = None
    """Maximum number of tokens of an answer; 0: as many as the context has room for. By default 512, with the template
    chatglm 0. For this option and those below, a value in generation_config.json of the model's folder comes before
    the default."""
    max_length: int | None = None
    """Maximum number of tokens of a conversation with its answer; 0: the context of the model. By default 0, with the
    template chatglm 2048."""
    temperature: float | None = None
    """Sampling temperature: lower is more predictable, 0 always takes the most likely token. By default 0.8, with
    the template chatglm 0.95."""
    top_k: int | None = None
    """Sample from this number of most likely tokens only; 0: no limit. By default 0, with the template
    chatglm 50."""
    top_p: float | None = None
    """Sample from the smallest set of tokens with this total probability; 1: no limit. By default 0.95, with the
    template chatglm 0.7."""
    repetition_penalty: float | None = None
    """Factor by which tokens that have already occurred become less likely (CTRL); 1: off."""
    no_repeat_ngram: int | None = None
    """No n-gram of this size occurs twice; 0: no limit."""
    process: bool | None = None
    """Write Chinese punctuation beside Chinese characters, as ChatGLM-6B's own code does; on by default with the
    template chatglm."""
    seed: int = 0
    """Seed of sampling; the same seed gives the same answers to the same messages."""
    dtype: WeightType = "auto"
    """Number type of the weights and of the computation: fp32, bf16 or fp16; auto: as they are stored."""
    device: str = "auto"
    """Device to compute on: auto (a GPU where there is one), cpu, cuda, cuda:1 or mps."""
    threads: int = 0
    """CPU threads. 0: OMP_NUM_THREADS where it is set, else all cores that other programs leave free."""


def main(argv: Sequence[str]) -> Result | Rows[Any]:
    """Run the command."""
    args = parsed(ChatArguments, argv, "chat")
    from blankfill.chatting.session import Session
    from blankfill.cli.chat_terminal import converse, is_interactive

    if args.messages is not None and args.system is not None:
        raise UserError(
            f"{setting('system')} begins a conversation, and {setting('messages')} names some; leave it out"
        )
    dialogues = None if args.messages is None else read(args.messages)
    chat = opened(args)
    if dialogues is not None:
        return Rows(rows=answered(chat, dialogues), values=lambda reply: reply.to_json(), show=print_reply)
    session = Session(chat, args.system or "")
    if is_interactive() and not is_json():
        return Result(values={}, show=lambda: converse(session), is_output=True)
    return Rows(
        rows=lines_answered(session),
        values=lambda answering: whole(session, answering),
        show=lambda answering: stream(session, answering),
    )


def opened(args: ChatArguments) -> Chat:
    """Return the chat of the model. Raises UserError for a mistake in the options before the model is opened."""
    from blankfill.chatting.options import ChatOptions, options_of
    from blankfill.chatting.templates import template_named
    from blankfill.generation.sampling import Sampling
    from blankfill.inference import load

    names = {field.name for kind in (ChatOptions, Sampling) for field in fields(kind)} - {"sampling"}
    given = {name: getattr(args, name) for name in names}
    options_of("", (), given)
    if args.template is not None:
        template_named(args.template)
    head = None if args.adapter is None else False  # which leaves the weights of the model as they are stored
    model = load(
        args.model, args.device, dtype_named(args.dtype), head=head, threads=args.threads, adapter=args.adapter
    )  # fmt: skip
    return model.chat_engine(args.template, args.allow_unknown, **given)


def read(path: Path) -> list[tuple[str, list[Message]]]:
    """Return the dialogues of a file, each with its place and without a last answer. Raises UserError for one that is
    no conversation."""
    from blankfill.chatting.messages import check
    from blankfill.chatting.saved import read_dialogues

    dialogues = []
    for where, messages in read_dialogues(path):
        questions = messages[:-1] if messages and messages[-1].role == "assistant" else messages
        check(questions, where)
        dialogues.append((where, questions))
    return dialogues


def answered(chat: Chat, dialogues: Sequence[tuple[str, Sequence[Message]]]) -> Iterator[Reply]:
    """Yield the answer to each dialogue."""
    for begin in range(0, len(dialogues), WINDOW):
        window = dialogues[begin : begin + WINDOW]
        answerings = []
        for where, messages in window:  # an error names the dialogue, and comes before the window is answered
            try:
                answerings.append(chat.answer(messages))
            except UserError as error:
                raise UserError(f"{where}: {error.template}") from None
        yield from chat.write(answerings)


def print_reply(reply: Reply) -> None:
    """Print the last message of a dialogue with its answer."""
    question = next(message for message in reversed(reply.messages) if message.role == "user")
    show(f"> {question.content}\n{reply.text}\n")


def lines_answered(session: Session) -> Iterator[Answering]:
    """Yield the answer to each message of standard input, not yet written; commands are carried out between."""
    from blankfill.chatting.session import EndedError, is_command, message_in
    from blankfill.cli.chat_terminal import Reader

    lines = lines_of(None)
    place = ["standard input"]

    def next_line(prompt: str) -> str:
        line = next(lines, None)
        if line is None:
            raise EOFError
        place[0], text = line
        return text

    reader = Reader(next_line)
    while (text := reader.read()) is not None:
        try:
            if is_command(text) and "\n" not in text:
                say(session.command(text))
                continue
            answering = session.ask(message_in(text))
            say_left_out(session, answering)
        except EndedError:
            return
        except UserError as error:
            raise UserError(f"{place[0]}: {error.template}") from None
        yield answering


def say_left_out(session: Session, answering: Answering) -> None:
    """Print a notice about rounds that are not read any more."""
    if sentence := session.left_out(answering):
        say(sentence)


def whole(session: Session, answering: Answering) -> dict[str, Any]:
    """Return an answer of a conversation as plain values."""
    for _ in answering:
        pass
    return session.keep(answering).to_json()


def stream(session: Session, answering: Answering) -> None:
    """Print an answer of a conversation piece by piece."""
    for piece in answering:
        show(piece, end="")
    show("")
    session.keep(answering)
