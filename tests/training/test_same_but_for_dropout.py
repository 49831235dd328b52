"""No text that a user reads says that micro-batches change nothing, without saying what dropout does."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLAIM = re.compile(r"same result|result is the same|same to rounding|micro-batch\S* (change|equal)", re.IGNORECASE)
NEAR = 200
"""Characters around a claim in which dropout must be named."""


def texts() -> list[Path]:
    """Sources and pages, but for the log, which tells what was."""
    pages = [path for path in (ROOT / "docs").rglob("*.md") if path.name != "log.md"]
    return [*(ROOT / "src").rglob("*.py"), *pages, *ROOT.glob("README*.md")]


def test_dropout_is_named_where_parts_are_called_the_same() -> None:
    bare = []
    for path in texts():
        text = path.read_text(encoding="utf-8")
        for match in CLAIM.finditer(text):
            if "dropout" not in text[max(0, match.start() - NEAR) : match.end() + NEAR]:
                bare.append(f"{path.relative_to(ROOT)}: {match.group()}")
    assert len(texts()) > 250 and bare == []
