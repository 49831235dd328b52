"""The embedded corpus: what a docstring becomes, which modules are read, and that it is bounded and repeatable."""

import ast
import json.decoder
import sysconfig
from pathlib import Path

import pytest

from blankfill.corpus import python_docs
from blankfill.corpus.python_docs import docstring_paragraphs, docstrings, read_share
from blankfill.corpus.sources import SourceOptions, discover, read


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        ("Open the\n   harbour gate.\n\n   Then wait.\n", ["Open the harbour gate.", "Then wait."]),
        ("Count boats.\n\n>>> count()\n3\n>>> x\n\nThat is all.\n", ["Count boats.", "That is all."]),
        ("Use it so::\n\n    boats = 3\n    sail(boats)\n\nOr do not.", ["Use it so:", "Or do not."]),
        ("For example:\n\n    boats = 3\n\nOr do not.", ["For example:", "Or do not."]),
        (
            "Sails :class:`~boat.Ferry` and ``ropes`` or *old* `things <x.y>`_ [1]_.",
            ["Sails Ferry and ropes or old things."],
        ),
        ("A table.\n\n==== ====\nname mast\n==== ====\nFerry two\n==== ====\n\nAfter it.", ["A table.", "After it."]),
        ("Notes\n-----\nIt is slow.\n", ["It is slow."]),
        (
            "Parameters\n----------\nsize : int, optional\n    How many boats\n    there are.\n"
            "name : str\n    Its name.\n",
            ["size (int, optional): How many boats there are.", "name (str): Its name."],
        ),
        (
            "Args:\n    size (int): How many boats\n        there are.\n    name: Its name.\n\n"
            "Returns:\n    The ferry itself.\n",
            ["size (int): How many boats there are.", "name: Its name.", "The ferry itself."],
        ),
        (
            ":param int size: how many boats\n:type size: int\n:returns: the ferry\n:raises ValueError: if it sank\n",
            ["size: how many boats", "Returns: the ferry", "Raises ValueError: if it sank"],
        ),
        ("It may be\n\n- old and grey,\n- or new\n  and red.\n", ["It may be", "old and grey,", "or new and red."]),
        (".. note:: Mind the gap.\n\n.. code-block:: python\n\n    x = 1\n\n.. versionadded:: 3.2\n\nDone here.",
         ["Mind the gap.", "Done here."]),
        ("count(size, name) -> int\n\nCount the boats.", ["Count the boats."]),
        ("with_stmt ::= \"with\" item\n\nx = {1: 2, 3: [4, 5]}\n\nword", []),
    ],
)  # fmt: skip
def test_docstrings_become_prose(text: str, prose: list[str]):
    assert docstring_paragraphs(text) == prose


def test_docstrings_are_found_in_order_without_importing(tmp_path: Path):
    path = tmp_path / "m.py"
    path.write_text(
        '"""One."""\nraise SystemExit\nclass A:\n    """Two."""\n'
        '    if x:\n        def f(self):\n            """Three."""\n'
        'try:\n    pass\nexcept E:\n    async def g():\n        """Four."""\nx = """not one"""\n',
        encoding="utf-8",
    )
    assert docstrings(path) == ["One.", "Two.", "Three.", "Four."]
    path.write_text('def broken(:\n    """One."""\n', encoding="utf-8")
    assert docstrings(path) == []
    path.write_bytes(b'\x00"""One."""')
    assert docstrings(path) == []


def test_docstrings_agree_with_a_plain_walk_of_the_tree():
    path = Path(json.decoder.__file__)
    nodes = [
        node
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    expected = {ast.get_docstring(node, clean=False) for node in nodes} - {None}
    assert set(docstrings(path)) == expected != set()


@pytest.fixture
def installation(tmp_path: Path, monkeypatch) -> Path:
    """A little Python installation: a standard library of three modules, and four packages."""

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    write("lib/pydoc_data/topics.py", "topics = {'with': 'The with statement' ' wraps.', 'if': 'The if statement.'}")
    write("lib/alpha.py", '"""Alpha sails far."""\n')
    write("lib/beta/__init__.py", '"""Beta sails near."""\n')
    write("lib/beta/inner.py", '"""Alpha sails far."""\ndef f():\n    """Inner words here."""\n')
    write("lib/gamma.py", '"""Gamma stays home."""\n')
    write("lib/test/test_alpha.py", '"""A test that is skipped."""\n')
    write("site/numpy/__init__.py", '"""Arrays of boats."""\n')
    write("site/numpy/tests/test_x.py", '"""A test that is skipped."""\n')
    write("site/torch/__init__.py", '"""Tensors of boats."""\n')
    write("site/zlast.py", '"""The last one."""\n')
    write("site/early.py", '"""The early one."""\n')
    write("site/broken.py", '"""Broken\n')
    paths = {"stdlib": tmp_path / "lib", "purelib": tmp_path / "site", "platlib": tmp_path / "site"}
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(paths[name]))
    return tmp_path


def test_shares_hold_topics_then_modules_in_order(installation: Path):
    first, second = list(read_share(0)), list(read_share(1))
    assert first == [
        ("python.topics.if", ["The if statement."]),
        ("python.topics.with", ["The with statement wraps."]),
        ("alpha", ["Alpha sails far."]),
        ("gamma", ["Gamma stays home."]),
    ]
    # The share has not seen alpha, but a docstring that it has seen itself comes once only.
    assert second == [("beta", ["Beta sails near."]), ("beta.inner", ["Alpha sails far.", "Inner words here."])]
    names = [name for share in (2, 3) for name, _ in read_share(share)]
    assert names == ["numpy", "early", "torch", "zlast"]
    assert not any(str(installation) in name for name in names)


def test_a_repeated_docstring_comes_once_in_a_share(installation: Path):
    (installation / "lib" / "beta" / "third.py").write_text('"""Inner words here."""\n', encoding="utf-8")
    assert [name for name, _ in read_share(1)] == ["beta", "beta.inner"]


def test_a_share_stops_at_its_cap(installation: Path, monkeypatch):
    assert [name for name, _ in read_share(0, cap=1)] == ["python.topics.if"]
    assert [name for name, _ in read_share(0, cap=40)] == ["python.topics.if", "python.topics.with"]
    monkeypatch.setattr(python_docs, "SHARE_SOURCE_BYTES", 1)
    assert len(list(read_share(0))) == 1


def test_it_is_a_source_in_several_parts(installation: Path):
    sources = discover(["python-docs"], SourceOptions())
    assert [(source.path, source.kind, source.start, source.end) for source in sources] == [
        ("python-docs", "python-docs", share, share + 1) for share in range(4)
    ]
    assert sum(source.size for source in sources) == python_docs.CAP_CHARS
    documents = [
        (document.name, list(document.paragraphs)) for source in sources for document in read(source, SourceOptions())
    ]
    assert documents[2] == ("alpha", ["Alpha sails far."])


def test_this_python_has_something_to_say():
    for share in range(4):
        documents = list(read_share(share, cap=60_000))
        text = "\n".join(paragraph for _, paragraphs in documents for paragraph in paragraphs)
        assert len(text) >= 60_000
        assert ">>>" not in text and "\n.. " not in text
        assert documents == list(read_share(share, cap=60_000))
        assert all("/" not in name and "\\" not in name for name, _ in documents)
