"""Draws the training examples that the pages show: text grids and PNGs, made by the objectives themselves.

The choices (which tokens are blanked) are given, so the pictures do not change with random draws. The text is one
sentence of our own with a word for a token; [S], [E] and [EOS] stand for the longer names of a real vocabulary.
"""

from pathlib import Path

import numpy as np

from blankfill.chatting.messages import assistant, user
from blankfill.chatting.templates import built_in
from blankfill.objectives import (
    OBJECTIVES,
    T5,
    Albert,
    Bart,
    Bert,
    ChatGlm,
    Electra,
    Ernie,
    Glm,
    Gpt,
    Mlm,
    SpanBert,
    Unilm,
    Unilm2,
    Xlnet,
)
from blankfill.objectives.albert import AlbertChoice
from blankfill.objectives.bart import BartChoice
from blankfill.objectives.base import Masked
from blankfill.objectives.bert import BertChoice
from blankfill.objectives.chatglm import ChatGlmChoice
from blankfill.objectives.electra import ElectraChoice
from blankfill.objectives.glm import GlmChoice
from blankfill.objectives.spanbert import SpanChoice
from blankfill.objectives.t5 import T5Choice
from blankfill.objectives.unilm import UnilmChoice
from blankfill.objectives.unilm2 import Unilm2Choice
from blankfill.objectives.xlnet import XlnetChoice
from blankfill.pretraining.show_chat import show_chat
from blankfill.report.drawing import example_png
from blankfill.report.picture import example_text, join_row
from blankfill.report.plane import plane_text
from blankfill.report.strip import strip_text
from blankfill.tasks.items import ChatItem
from blankfill.types import ROLES, Document, Vocabulary

SPELLED = {"sop": "[S]", "eop": "[E]", "gmask": "[gMASK]", "smask": "[sMASK]", "dblock": "[dBLOCK]"}
TEXT = ["the", "river", "was", "low", "that", "summer", "and", "the", "boys", "walked", "across"]
TOKENS = [SPELLED.get(role, f"[{role.upper()}]") for role in ROLES] + sorted(set(TEXT))
SENTINELS = tuple(len(TOKENS) + k for k in (2, 1, 0))
TOKENS += [f"<extra_id_{k}>" for k in (2, 1, 0)]
SPECIAL = frozenset([*range(len(ROLES)), *SENTINELS])
VOCABULARY = Vocabulary(len(TOKENS), {role: k for k, role in enumerate(ROLES)}, SPECIAL, sentinels=SENTINELS)
BLANKS = [*(VOCABULARY[role] for role in ("mask", "gmask", "smask", "dblock", "pseudo")), *SENTINELS]
MASK = VOCABULARY["mask"]


def chatglm_choice(spans, order, mask="mask"):
    """A choice of ChatGLM that blanks spans of the whole text."""
    return ChatGlmChoice((((0, 11), GlmChoice(spans, order, mask)),))


def examples():
    """The Examples of each picture by its name; the part before the dash is the objective."""
    pair = document(TEXT[:6] + TEXT[7:], [0, 6, 10], label=0)
    masked = Masked(ids(4, 8), np.array([MASK, TOKENS.index("low")], np.int32))
    blocks = Masked(ids(2, 4, 5), np.array([MASK] * 3, np.int32))
    hidden = Masked(ids(4, 8), np.array([MASK, TOKENS.index("the")], np.int32))
    run = Masked(ids(8, 9), np.array([MASK, MASK], np.int32))
    two = document(TEXT[:4] + TEXT[7:], [0, 4, 8], parts=ids(0, 4, 8))
    whole = document(TEXT, [0, 6, 11])
    short = document(TEXT[:6], [0, 6])
    shuffled = T5Choice(np.ones(6, np.bool_), short.ids[[2, 5, 0, 3, 1, 4]])
    order = XlnetChoice((0, 6), (6, 10), ids(2, 3, 9), ids(5, 6, 8, 0, 9, 10, 2, 7, 11, 4, 12, 3, 1))
    return {
        "chatglm": [ChatGlm(length=16).build(whole, VOCABULARY, chatglm_choice(((6, 11),), (0,), "gmask"))],
        "chatglm-mask": [ChatGlm(length=16).build(whole, VOCABULARY, chatglm_choice(((2, 3), (5, 7)), (1, 0)))],
        "bert": [Bert(length=16).build(pair, VOCABULARY, BertChoice((0, 6), (6, 10), masked))],
        "albert": [Albert(length=16).build(pair, VOCABULARY, AlbertChoice((6, 10), (0, 6), 1, run))],
        "spanbert": [SpanBert(length=16).build(whole, VOCABULARY, SpanChoice(((3, 6),), (ids(MASK, MASK, MASK),)))],
        "ernie": [Ernie(length=16).build(pair, VOCABULARY, BertChoice((0, 6), (6, 10), run))],
        "electra": [Electra(length=16).build(pair, VOCABULARY, ElectraChoice((0, 6), (6, 10), hidden, 6))],
        "unilm": [Unilm(length=16).build(pair, VOCABULARY, UnilmChoice((0, 6), (6, 10), "sequence", masked))],
        "unilm2": [Unilm2(length=16).build(whole, VOCABULARY, Unilm2Choice(((4, 6), (2, 3)), blocks))],
        "mlm": [Mlm(length=16).build(two, VOCABULARY, Masked(ids(3, 7), np.array([MASK, MASK], np.int32)))],
        "glm": [Glm(length=16).build(whole, VOCABULARY, GlmChoice(((4, 5), (9, 11)), (1, 0)))],
        "glm-sentence": [Glm(length=16).build(whole, VOCABULARY, GlmChoice(((7, 12),), (0,), "smask"))],
        "glm-document": [Glm(length=16).build(whole, VOCABULARY, GlmChoice(((7, 13),), (0,), "gmask", to_end=True))],
        "gpt": [
            Gpt(length=16).build(document(part, [0, len(part)]), VOCABULARY, None) for part in (TEXT[:4], TEXT[7:])
        ],
        "xlnet": [Xlnet(length=16).build(pair, VOCABULARY, order)],
        "t5": [T5(length=16).build(whole, VOCABULARY, T5Choice(np.isin(np.arange(11), [3, 9, 10])))],
        "t5-deshuffle": [T5(length=16, variant="deshuffle").build(short, VOCABULARY, shuffled)],
        "bart": [Bart(length=16).build(whole, VOCABULARY, BartChoice((1, 0), ((3, 4), (9, 11)), (8,)))],
        "gpt-stream": [Gpt(length=16, documents="stream").build(two, VOCABULARY, None)],
    }


def ids(*values):
    """An int32 array."""
    return np.array(values, np.int32)


def document(words, sentences, **fields):
    """A whole document of words."""
    return Document(ids(*map(TOKENS.index, words)), ids(*sentences), **fields)


def text(name):
    """The picture of a name as text."""
    channels = OBJECTIVES[name.partition("-")[0]].channels
    row = examples()[name]
    counts = np.bincount([TOKENS.index(word) for word in TEXT], minlength=len(TOKENS))
    columns = OBJECTIVES[name.partition("-")[0]]().shown_columns(row[0], counts) if len(row) == 1 else ()
    return example_text(row, TOKENS.__getitem__, channels=channels, width=100, further=columns)


def chatglm_plane():
    """The positions of ChatGLM-6B for the sentence of GLM's picture, as text."""
    whole = document(TEXT, [0, 6, 11])
    choice = ChatGlmChoice((((0, 11), GlmChoice(((4, 5), (9, 11)), (1, 0))),))
    example = ChatGlm(length=64).build(whole, VOCABULARY, choice)
    return plane_text(join_row([example]), "rotary_2d", ChatGlm.channels, width=100)


def chat_strip():
    """A dialogue of two rounds as the rows of a ChatGLM, as text."""
    said = (user("Who are you?"), assistant("A small model."), user("Where is the river?"), assistant("By the mill."))
    return show_chat(ChatItem("0", said), ChatGlm(), built_in("chatglm")).strip(96)


def make(folder: Path):
    """Write every picture as NAME.txt and NAME.png; files that are the same already are left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, row in examples().items():
        drawn = text(name)
        path = folder / f"{name}.txt"
        if path.exists() and (folder / f"{name}.png").exists() and path.read_text(encoding="utf-8") == drawn:
            continue
        objective = name.partition("-")[0]
        png = folder / f"{name}.png"
        example_png(row, TOKENS.__getitem__, png, channels=OBJECTIVES[objective].channels, blanks=BLANKS, title=name)
        path.write_text(drawn, encoding="utf-8")
    for name, drawn in (("chatglm-plane", chatglm_plane()), ("chat-strip", chat_strip())):
        (folder / f"{name}.txt").write_text(drawn, encoding="utf-8")
    for name in ("glm", "t5"):
        strip = strip_text(examples()[name], TOKENS.__getitem__, OBJECTIVES[name].channels, width=100)
        (folder / f"{name}-strip.txt").write_text(strip, encoding="utf-8")
