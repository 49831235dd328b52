"""Shared fixtures: a small vocabulary with every role, and where the real data sets lie."""

from pathlib import Path

import numpy as np
import pytest

from blankfill.types import ROLES, Document, Vocabulary

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
VECTORS = Path(__file__).resolve().parents[2] / "shared" / "spec" / "test_vectors.json"


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """64 tokens: the eleven roles first, then ordinary ones."""
    return Vocabulary(
        64, {role: k for k, role in enumerate(ROLES)}, frozenset(range(len(ROLES))), np.ones(64, np.bool_)
    )


def make_document(length: int, sentence: int = 7, **fields: object) -> Document:
    """A Document of ordinary ids 11, 12, …, cut into sentences of `sentence` tokens."""
    ids = (11 + np.arange(length) % 53).astype(np.int32)
    sentences = np.append(np.arange(0, length, sentence), length).astype(np.int32)
    return Document(ids, np.unique(sentences), **fields)
