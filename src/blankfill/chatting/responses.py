"""What ChatGLM-6B's code does to an answer before it is shown and kept: full-width marks between Chinese characters.

The tokenizer makes full-width marks half-width (NFKC), so the model writes half-width ones.
"""

from __future__ import annotations

import re

TRAINING_TIME = "[[训练时间]]"
"""What the model writes for the date of its training."""
_MARKS = dict(zip(",!:;?", "，！：；？", strict=True))
_HAN = "[\u4e00-\u9fff]"
_PASSES = tuple(
    (re.compile(pattern), full)
    for mark, full in _MARKS.items()
    for pattern in (rf"(?<={_HAN}){re.escape(mark)}", rf"{re.escape(mark)}(?={_HAN})")
)


def process_response(text: str) -> str:
    """Return an answer as ChatGLM-6B's code shows it.

    White space around it is dropped, `[[训练时间]]` becomes 2023年, and `, ! : ; ?` become full-width beside a Chinese
    character (U+4E00 to U+9FFF): for each mark in turn first behind a character, then before one, so that of `好!!` the
    first becomes full-width and of `中,,文` both.

    Args:
        text: the answer, as decoded.

    Returns:
        The answer as it is shown.
    """
    text = text.strip().replace(TRAINING_TIME, "2023年")
    for pattern, full in _PASSES:
        text = pattern.sub(full, text)
    return text
