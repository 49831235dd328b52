"""What the pages of the studies share: the scripts of `bench` as modules, means over seeds, and files that are written
when they change."""

import importlib.util
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
BENCH = HERE.parent / "bench"


def script(name):
    """A script of `bench`, as a module."""
    if str(BENCH) not in sys.path:
        sys.path.insert(0, str(BENCH))
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def means(curves):
    """The means of some curves at each point, with three digits."""
    return [float(f"{value:.3g}") for value in np.mean(np.array(curves, float), 0)] if curves else []


def write(folder, files):
    """Write texts to a folder, by the names of their files; those that are the same already are left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != text:
            (folder / name).write_text(text, encoding="utf-8")
