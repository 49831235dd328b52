"""The recipes of the masking study are the rows of the paper's tables, and the page names them all."""

from dataclasses import replace
from pathlib import Path

import pytest

from blankfill.config.recipe import load_recipe, recipe_names
from blankfill.families.options import BEFORE, BOTH_SIDES
from blankfill.objectives import Bert, Gpt

PAGE = Path(__file__).resolve().parents[2] / "docs" / "masking-study.md"
SHARES = ["100-0-0", "80-0-20", "80-20-0", "0-20-80", "0-0-100"]


@pytest.mark.parametrize("shares", SHARES)
def test_a_row_of_table_8_changes_its_shares_alone(shares: str) -> None:
    mask, same, random = (int(share) / 100 for share in shares.split("-"))
    plain, recipe = load_recipe("bert-nano"), load_recipe(f"bert-nano-{shares}").check()
    assert isinstance(recipe.objective, Bert) and isinstance(plain.objective, Bert)
    assert 1 - recipe.objective.mask_share - recipe.objective.random_share == pytest.approx(same)
    assert replace(recipe.objective, mask_share=0.8, random_share=0.1) == plain.objective
    assert (recipe.objective.mask_share, recipe.objective.random_share) == (mask, random)
    assert (recipe.model, recipe.train, recipe.corpus) == (plain.model, plain.train, plain.corpus)


def test_rows_of_table_5() -> None:
    plain, alone = load_recipe("bert-nano"), load_recipe("bert-nano-no-nsp").check()
    assert isinstance(alone.objective, Bert) and replace(alone.objective, next_sentence=True) == plain.objective
    assert alone.model_config(64).pooler is False and plain.model_config(64).pooler is True
    ltr = load_recipe("bert-nano-ltr").check()
    made, whole = ltr.model_config(64), plain.model_config(64)
    assert isinstance(ltr.objective, Gpt) and ltr.train == plain.train
    assert (made.norm, made.hidden_size, made.num_layers) == (whole.norm, whole.hidden_size, whole.num_layers)
    assert (made.locality, whole.locality) == (BEFORE, BOTH_SIDES), "it sees nothing behind a token"


def test_the_page_names_every_row() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = [name for name in recipe_names() if name.startswith("bert-nano")]
    assert len(rows) == 8
    assert all(f"`{name}`" in page for name in rows)
