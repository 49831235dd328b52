"""Model cards: the hub's own reader understands them, their code runs as it stands, and nothing in them is invented."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import blankfill
from blankfill.cli.main import main
from blankfill.convert.card import Card, Target, plain, table
from blankfill.convert.card_code import usage
from blankfill.exporting.model import export_model, export_onnx
from head_models import classes, family_folder, fine_tuned, run
from small_run import SMALL, texts_in
from small_tasks import writing_model

pytest.importorskip("transformers")
hub = pytest.importorskip("huggingface_hub")


def run_code(card: str) -> None:
    """Run the example of a card."""
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(compile(code, "card", "exec"), {})


def read(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("task", "tag"),
    [("sst2", "text-classification"), ("conll", "token-classification"), ("squad2", "question-answering"),
     ("copa", "multiple-choice"), ("stsb", "text-classification")],
)  # fmt: skip
def test_the_card_of_a_head(task: str, tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = fine_tuned(tmp_path / "tuned", "bert", task)
    export_model(tuned, tmp_path / "out")
    card = hub.ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == tag and card.data.license is None
    results = {(result.metric_type, round(result.metric_value, 4)) for result in card.data.eval_results}
    data, options = tmp_path / "tuned" / "data", {"device": "cpu", "threads": 1, "allow_unknown": True}
    scored = blankfill.predict(tuned, data=data, split="dev", **options).metrics()
    assert {value for _, value in results} == {round(value, 4) for value in scored.values()}
    text = read(tmp_path / "out")
    assert str(tmp_path) not in text and "| dev items | " in text and "from `model`" in text
    monkeypatch.chdir(tmp_path)
    run_code(text)


def test_the_card_of_a_pretraining_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts").mkdir()
    recipe = blankfill.load_recipe("bert-nano", {**SMALL, "train.device": "cpu", "train.threads": 1})
    made = blankfill.pretrain([str(texts_in(tmp_path / "texts", 8))], recipe, out=tmp_path / "run")
    export_model(tmp_path / "run", tmp_path / "out")
    text = read(tmp_path / "out")
    card = hub.ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.pipeline_tag == "fill-mask"
    assert {result.metric_type: round(result.metric_value, 4) for result in card.data.eval_results}["loss"] == round(
        made.valid_loss, 4
    )
    assert "| steps | 12 of 12 |" in text and "| lr | 0.003 |" in text and str(tmp_path) not in text
    assert "after step 12, in nats per target" in text
    monkeypatch.chdir(tmp_path)
    run_code(text)


@pytest.mark.parametrize(
    ("family", "made"), [("glm", "GlmForBlankFilling"), ("chatglm", "ChatGLMForConditionalGeneration")]
)
def test_the_card_of_a_class_that_is_not_in_transformers(
    family: str, made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = writing_model(tmp_path / "model", family)
    assert main(["export", str(model), "--out", str(tmp_path / "out")]) == 0
    assert f"transformers has no class {made}: `import blankfill.hf` before opening it" in capsys.readouterr().out
    text = read(tmp_path / "out")
    assert "import blankfill.hf" in text
    monkeypatch.chdir(tmp_path)
    run_code(text)
    assert capsys.readouterr().out.startswith("[")


def test_the_checkpoint_that_a_run_names_is_exported(tmp_path: Path) -> None:
    tuned = fine_tuned(tmp_path / "tuned", "bert", "sst2")
    made = export_model(tuned / "best", tmp_path / "out")
    assert made.task == "sst2" and made.architecture == "BertForSequenceClassification"
    assert "| dev items | " in read(tmp_path / "out")


def test_what_is_not_known_is_unknown(tmp_path: Path) -> None:
    """A checkpoint without its run, and a run without its results."""
    export_model(family_folder(tmp_path / "alone", "bert"), tmp_path / "a")
    text = read(tmp_path / "a")
    assert "Scores: unknown." in text and "| steps | unknown |" in text and "model-index" not in text
    tuned = fine_tuned(tmp_path / "tuned", "bert", "sst2")
    for name in ("results.json", "run.json"):
        (tuned / name).unlink()
    shutil.rmtree(tmp_path / "tuned" / "data")  # so that other texts are compared
    made = export_model(tuned, tmp_path / "b")
    text = read(tmp_path / "b")
    assert made.task == "" and made.difference is not None
    assert "Scores: unknown." in text and "| training items | unknown |" in text and "unknown (training)" in text
    assert "model-index" not in text and "No score was recorded." in text


def test_the_card_of_a_cloze_and_of_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = tmp_path / "patterns.yaml"
    patterns.write_text(
        "patterns:\n  - '{first} it [MASK].'\nverbalizers:\n  '0': poor\n  '1': fine\n", encoding="utf-8"
    )
    model = family_folder(tmp_path / "model", "bert")
    run("sst2", classes(tmp_path / "data"), model, tmp_path / "run", epochs=1, method="cloze", patterns=str(patterns))
    export_model(tmp_path / "run", tmp_path / "out")
    text = read(tmp_path / "out")
    assert "| pattern | {first} it [MASK]. |" in text and "| verbalizer | 0: poor, 1: fine |" in text
    assert "pipeline_tag: fill-mask" in text
    monkeypatch.chdir(tmp_path)
    run_code(text)
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    for name, family, task in (("classes", "bert", "sst2"), ("choices", "roberta", "copa")):
        export_onnx(fine_tuned(tmp_path / family, family, task), tmp_path / name)
        text = read(tmp_path / name)
        assert hub.ModelCard(text).data.library_name == "onnx"
        run_code(text)


def test_an_adapter_opens_as_its_card_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    tuned = fine_tuned(tmp_path / "tuned", "bert", "sst2", {"lora_rank": 2})
    export_model(tuned, tmp_path / "out", lora="adapter")
    monkeypatch.chdir(tmp_path)
    run_code(read(tmp_path / "out"))


def test_cells_are_shown_as_they_are() -> None:
    assert plain("a | b\n<c> *d*") == "a \\| b &lt;c> \\*d\\*"
    assert table([("x", "1|2")], ("a", "b")) == "| a | b |\n| --- | --- |\n| x | 1\\|2 |"


def test_odd_names_of_folders_and_labels_keep_a_card_whole() -> None:
    folder = 'my "best"\\model'
    for target in (
        Target("transformers", "", 1, None),
        Target("onnxruntime", "", 1, None),
        Target("peft", "", 1, None, base="b"),
    ):
        code = usage(target, folder, "text-classification", "AutoModelForSequenceClassification", "a text")
        lines = code.removeprefix("```python\n").removesuffix("```")
        compile(lines, "card", "exec")
        assert repr(folder)[1:-1].replace('"', '\\"') in lines
    card = Card("model", "A model.", labels=("a`b", "c\nd"))
    assert "`a'b`, `c d`" in card.text(Target("transformers", "", 1, None))
