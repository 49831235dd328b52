"""What `import blankfill` gives: every name is there, documented, and a model goes the whole road through it."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import blankfill

FUNCTIONS = [name for name in blankfill.__all__ if inspect.isfunction(getattr(blankfill, name))]


def test_the_functions_of_the_program_are_there() -> None:
    wanted = {
        "prepare",
        "pretrain",
        "finetune",
        "predict",
        "evaluate",
        "embed",
        "fill",
        "generate",
        "load",
        "show",
        "plan",
    }
    assert wanted <= set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_say_what_they_take_return_and_raise(name: str) -> None:
    function = getattr(blankfill, name)
    text = inspect.getdoc(function) or ""
    parameters = [
        parameter for parameter in inspect.signature(function).parameters.values() if parameter.name != "sampling"
    ]
    if parameters:
        assert "Args:" in text, name
        assert not [parameter.name for parameter in parameters if f"{parameter.name}: " not in text]
    hints = function.__annotations__
    assert "return" in hints and set(inspect.signature(function).parameters) <= set(hints)
    if hints["return"] not in ("None", None):
        assert "Returns:" in text, name
    assert "Raises:" in text or name in ("recipe_names",), name


def test_names_are_listed_in_the_python_page() -> None:
    docs = Path(__file__).resolve().parents[1] / "docs"
    pages = "".join(page.read_text(encoding="utf-8") for page in docs.glob("*.md"))
    documented = set(re.findall(r"^\.\. auto(?:function|class|exception):: blankfill\.(?:\w+\.)*(\w+)$", pages, re.M))
    elsewhere = {"__version__", "ConfigError", "UserError", "FinetuneOptions"}  # a module's members, a table of options
    assert set(blankfill.__all__) - documented <= elsewhere


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'strange'"):
        _ = blankfill.strange  # type: ignore[attr-defined]


def test_a_model_goes_the_whole_road(tmp_path: Path) -> None:
    sentences = [f"The {who} {does} the {what}." for who in ("old man", "girl") for does in ("sees", "sells", "paints")
                 for what in ("boat", "garden", "red lantern", "bread", "wall")]  # fmt: skip
    (tmp_path / "text.txt").write_text(" ".join(sentences * 40), encoding="utf-8")
    config = blankfill.PrepareConfig(vocab_size=120, validation=0.1, documents="file", workers=1, vocab_exact=False)
    blankfill.prepare([tmp_path / "text.txt"], tmp_path / "corpus", config)
    recipe = blankfill.load_recipe(
        "gpt-nano", {"train.steps": 4, "train.batch_size": 4, "train.threads": 1, "train.eval_every": 4}
    )
    blankfill.pretrain([tmp_path / "corpus"], recipe, tmp_path / "run")
    model = blankfill.load(tmp_path / "run")
    written = blankfill.generate(model, "The old man", max_new_tokens=5, seed=1)
    assert written and written == blankfill.generate(tmp_path / "run", "The old man", max_new_tokens=5, seed=1)
    filled = blankfill.fill(model, "The girl sees the [MASK:1].")
    assert filled.filled.startswith("The girl sees the ")
    vectors = blankfill.embed(model, ["The girl sees the boat.", "The wall."])
    assert vectors.shape[0] == 2 and np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    result = blankfill.evaluate(tmp_path / "run", "perplexity", tmp_path / "text.txt", threads=1)
    assert result.metrics and result.values()["task"] == "perplexity"
