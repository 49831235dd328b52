"""One link without a target in a folder: the rest is prepared, and the link is listed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from blankfill.corpus.options import PrepareConfig
from blankfill.corpus.prepare import prepare
from blankfill.errors import UserError


def test_the_link_is_listed_and_named_directly_it_is_an_error(case: Callable[[str], Path], tmp_path: Path):
    folder = case("broken-link-in-folder") / "folder"
    (folder / "gone.txt").symlink_to("nowhere.txt")
    report = prepare(
        [folder], tmp_path / "out", PrepareConfig(vocab_size=200, vocab_exact=False, validation=0.0, workers=1)
    )
    assert report.documents == 1
    assert report.skipped == (f"{folder}/gone.txt: is a link to nowhere.txt, which does not exist",)
    with pytest.raises(UserError, match=r"gone\.txt is a link to nowhere\.txt, which does not exist"):
        prepare([folder / "gone.txt"], tmp_path / "other")
