"""The scripts of the studies in bench/ as modules, and a text on which their models learn."""

from pathlib import Path
from types import ModuleType

import pytest

from module_files import ROOT, module_at

TEXT = "The river was low that summer, and the boys walked across. Nobody had seen it so low before. "


def script(name: str) -> ModuleType:
    """Return a script of bench/, which imports its neighbours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "bench"))
        return module_at(f"bench/{name}.py")


def page_script(name: str) -> ModuleType:
    """Return a script of docs/, which imports its neighbours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
        return module_at(f"docs/{name}.py")


def write_texts(folder: Path) -> None:
    """Write 60 documents."""
    for k in range(60):
        text = f"{TEXT} {k} boats came down to the mill in week {k * k}. " * 2
        (folder / f"{k}.txt").write_text(text, encoding="utf-8")
