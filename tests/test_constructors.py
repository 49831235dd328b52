"""A class whose base has a constructor calls it: what the base promises is then there."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import textwrap

import pytest

import blankfill

OPTIONAL = {"pyarrow", "transformers", "onnx", "onnxscript", "rensa", "zstandard", "sentencepiece", "rjieba", "icu4py"}


def classes() -> list[type]:
    """The classes of the package, of the modules that can be imported here."""
    classes_by_name: dict[str, type] = {}
    for module in pkgutil.walk_packages(blankfill.__path__, "blankfill."):
        if module.name.endswith("__main__"):
            continue
        try:
            loaded = importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert (error.name or "").split(".")[0] in OPTIONAL, error
            continue
        for value in vars(loaded).values():
            if inspect.isclass(value) and value.__module__.startswith("blankfill"):
                classes_by_name[f"{value.__module__}.{value.__qualname__}"] = value
    return list(classes_by_name.values())


def calls_the_base(made: type) -> bool:
    """Whether the source of a constructor calls that of a base."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(vars(made)["__init__"])))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(isinstance(call, ast.Attribute) and call.attr == "__init__" for call in calls)


def test_no_class_skips_the_constructor_of_its_base() -> None:
    all_classes = classes()
    assert len(all_classes) > 200
    skipping = []
    for made in all_classes:
        own = vars(made).get("__init__")
        bases = [vars(base).get("__init__") for base in made.__mro__[1:]]
        # a dataclass's own is generated, and sets all fields of its bases
        if not inspect.isfunction(own) or hasattr(made, "__dataclass_fields__"):
            continue
        owed = any(inspect.isfunction(base) and base.__module__ not in ("typing", "abc") for base in bases)
        if owed and not calls_the_base(made):
            skipping.append(f"{made.__module__}.{made.__qualname__}")
    assert skipping == []


def test_a_cache_of_transformers_has_what_a_layer_asks_for() -> None:
    hf = pytest.importorskip("blankfill.hf.glm")
    from blankfill.model.layers import KeyValues

    assert issubclass(hf.Borrowed, KeyValues) and not inspect.isabstract(hf.Borrowed)
