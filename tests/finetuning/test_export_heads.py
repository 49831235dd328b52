"""Fine-tuned models go out with their heads, open in transformers and compute the same; their encoders come back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import blankfill
from blankfill.checkpoint import store
from blankfill.checkpoint.load import load_model
from blankfill.cli.main import main
from blankfill.convert import exporting as pretrained
from blankfill.errors import UserError
from blankfill.exporting import heads as exporting
from blankfill.exporting.model import export_model
from blankfill.finetuning.predictor import Predictor
from blankfill.system.reading import read_json
from blankfill.tasks.items import TextItem
from head_models import ROWS, WORDS, classes, family_folder, fine_tuned, run, tags

FAMILIES = ["bert", "roberta", "albert", "distilbert", "modernbert", "electra", "xlnet"]
HEADS = {"sst2": "ForSequenceClassification", "stsb": "ForSequenceClassification", "conll": "ForTokenClassification",
         "squad2": "ForQuestionAnswering", "copa": "ForMultipleChoice"}  # fmt: skip
TITLES = {"bert": "Bert", "roberta": "Roberta", "albert": "Albert", "distilbert": "DistilBert",
          "modernbert": "ModernBert", "electra": "Electra", "spanbert": "Bert", "ernie": "Ernie",
          "unilm": "Bert", "xlnet": "XLNet", "t5": "T5", "bart": "Bart"}  # fmt: skip
ENDS = {("xlnet", "squad2"): "ForQuestionAnsweringSimple"}
TEXTS = ["the cat sat on the mat .", "who ran", "paris play fine rome poor the big red dog ran on the mat"]

Tuned = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A run of a family on a task, made when a test first needs it, its head's weights as large as after training."""
    made: dict[tuple[str, str], Path] = {}

    def folder(family: str, task: str) -> Path:
        if (family, task) not in made:
            path = fine_tuned(tmp_path_factory.mktemp(f"{family}-{task}"), family, task)
            made[family, task] = sharpened(path)
        return made[family, task]

    return folder


def sharpened(run_folder: Path) -> Path:
    """The best checkpoint of a run with a head whose scores are far apart."""
    checkpoint = store.read(store.named_by(run_folder / "best"), with_optimizer=False)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in checkpoint.model.items():
        if name.startswith("head.output."):
            tensor.normal_(generator=generator)
    state = {key: value for key, value in checkpoint.state.items() if key not in ("sha256", "state_sha256", "step")}
    shutil.rmtree(checkpoint.path)
    checkpoint.path.mkdir()
    store.write_files(checkpoint.path, checkpoint.step, checkpoint.model, {}, state)
    return run_folder


def lines(folder: Path) -> Path:
    path = folder / "lines.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_computes_the_same_in_transformers(family: str, task: str, tuned: Tuned, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    made = export_model(tuned(family, task), tmp_path / "out", lines(tmp_path))
    assert (
        made.architecture
        == TITLES[family] + ENDS.get((family, task), HEADS[task])
        == read_json(tmp_path / "out" / "config.json")["architectures"][0]
    )
    assert made.difference is not None and made.difference < 1e-5 and made.texts == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


@pytest.mark.parametrize(("family", "task"), [("t5", "sst2"), ("t5", "conll"), ("t5", "squad2"), ("bart", "stsb"),
                                              ("bart", "squad2")])  # fmt: skip
def test_heads_of_two_stacks_compute_the_same(family: str, task: str, tuned: Tuned, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    made = export_model(tuned(family, task), tmp_path / "out", lines(tmp_path))
    assert made.architecture == TITLES[family] + HEADS[task]
    assert made.difference is not None and made.difference < 1e-5
    names = set(load_file(tmp_path / "out" / "model.safetensors"))
    assert any("decoder" in name for name in names) == (task != "conll")


def test_a_head_on_the_other_stack_is_refused(tuned: Tuned, tmp_path: Path) -> None:
    encoder = fine_tuned(tmp_path / "encoder", "bart", "sst2", {"head_on": "encoder"})
    with pytest.raises(
        UserError, match=r"BartForSequenceClassification .* reads the decoder's states, .*head_on=decoder"
    ):
        export_model(encoder, tmp_path / "out")
    with pytest.raises(UserError, match="transformers has no class BartForTokenClassification"):
        export_model(tuned("bart", "conll"), tmp_path / "out")


def test_a_distilbert_with_tanh_is_a_bert(tmp_path: Path) -> None:
    """A DistilBERT is a BERT without token types; its own class has a ReLU, as runs of earlier versions have not."""
    pytest.importorskip("transformers")
    tanh = fine_tuned(tmp_path / "tanh", "distilbert", "sst2", classifier_transform="tanh")
    made = export_model(tanh, tmp_path / "out", lines(tmp_path))
    assert made.architecture == "BertForSequenceClassification"
    assert made.difference is not None and made.difference < 1e-5


@pytest.mark.parametrize("family", ["spanbert", "ernie", "unilm"])
def test_kin_of_bert_go_out_too(family: str, tuned: Tuned, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    made = export_model(tuned(family, "sst2"), tmp_path / "out", lines(tmp_path))
    assert made.architecture == f"{TITLES[family]}ForSequenceClassification"
    assert made.difference is not None and made.difference < 1e-5


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "xlnet"])  # whose memory it cannot unbatch
def test_the_classification_pipeline_predicts_as_we_do(family: str, tuned: Tuned, tmp_path: Path) -> None:
    """By the names of the classes, texts and pairs, in a batch with padding."""
    transformers = pytest.importorskip("transformers")
    export_model(tuned(family, "sst2"), tmp_path / "out")
    pipeline = transformers.pipeline("text-classification", model=str(tmp_path / "out"), top_k=None)
    predictor = Predictor(tuned(family, "sst2"), "cpu", None)
    pairs = [(text, None) for text in TEXTS] + [(TEXTS[0], TEXTS[2])]
    ours = predictor.predict([TextItem("0", first, second) for first, second in pairs])
    theirs = pipeline(TEXTS, batch_size=3)
    theirs.append(pipeline({"text": TEXTS[0], "text_pair": TEXTS[2]}))
    for mine, other in zip(ours, theirs, strict=True):
        assert {row["label"]: row["score"] for row in other} == pytest.approx(mine.record["probabilities"], abs=1e-5)
    assert max(max(prediction.record["probabilities"].values()) for prediction in ours) > 0.55
    config = read_json(tmp_path / "out" / "config.json")
    assert config["problem_type"] == "single_label_classification"
    assert config["id2label"] == {"0": "0", "1": "1"} and config["label2id"] == {"0": 0, "1": 1}


def test_numbers_and_tags_are_named(tuned: Tuned, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export_model(tuned("modernbert", "stsb"), tmp_path / "number")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "number")
    assert (config.problem_type, config.num_labels, config.id2label) == ("regression", 1, {0: "score"})
    export_model(tuned("modernbert", "conll"), tmp_path / "tags")
    predictor = Predictor(tuned("modernbert", "conll"), "cpu", None)
    pipeline = transformers.pipeline("token-classification", model=str(tmp_path / "tags"), ignore_labels=[])
    words = TEXTS[2].split()
    (ours,) = predictor.predict([blankfill_tagged(words)])
    assert [row["entity"] for row in pipeline(TEXTS[2])] == list(ours.value)


def blankfill_tagged(words: list[str]) -> Any:
    from blankfill.tasks.items import TaggedItem

    return TaggedItem("0", tuple(words))


def test_several_labels_go_out(tmp_path: Path) -> None:
    """--task multilabel on a table of one's own."""
    transformers = pytest.importorskip("transformers")
    model, data = family_folder(tmp_path / "model", "bert"), tmp_path / "rows.csv"
    rng = np.random.default_rng(0)
    rows = [" ".join(rng.choice(WORDS[:10], 4).tolist()) for _ in range(40)]
    shown = [",".join(sorted(set(row.split()) & {"cat", "dog"})) for row in rows]
    data.write_text(
        "text,labels\n" + "".join(f'{row},"{kinds}"\n' for row, kinds in zip(rows, shown, strict=True)),
        encoding="utf-8",
    )
    blankfill.finetune(multilabel_config(data, model), tmp_path / "run")
    export_model(tmp_path / "run", tmp_path / "out", lines(tmp_path))
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert config.problem_type == "multi_label_classification" and sorted(config.id2label.values()) == ["cat", "dog"]


def multilabel_config(data: Path, model: Path) -> Any:
    from small_tasks import QUICK

    return blankfill.FinetuneConfig("multilabel", data, model, replace(QUICK, epochs=1))


def test_low_rank_adapters_are_merged(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = fine_tuned(tmp_path, "modernbert", "sst2", {"lora_rank": 2, "lr": 0.05})
    made = export_model(folder, tmp_path / "out", lines(tmp_path))
    assert made.difference is not None and made.difference < 1e-5
    assert not any("down" in name or "up" in name for name in load_file(tmp_path / "out" / "model.safetensors"))


def test_a_model_without_a_pooler_goes_out_with_that_of_its_head(tmp_path: Path) -> None:
    """A BERT trained without pairs has none; BertForSequenceClassification has one."""
    pytest.importorskip("transformers")
    folder = fine_tuned(tmp_path, "bert", "sst2", pooler=False)
    made = export_model(folder, tmp_path / "out", lines(tmp_path))
    assert made.difference is not None and made.difference < 1e-5
    assert "bert.pooler.dense.weight" in load_file(tmp_path / "out" / "model.safetensors")


def test_a_cloze_is_exported_as_the_language_model_that_it_is(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    data = classes(tmp_path / "data")
    model = family_folder(tmp_path / "model", "bert")
    patterns = tmp_path / "patterns.yaml"
    patterns.write_text(
        "patterns:\n  - '{first} it [MASK].'\nverbalizers:\n  '0': poor\n  '1': fine\n", encoding="utf-8"
    )
    run("sst2", data, model, tmp_path / "run", epochs=1, method="cloze", patterns=str(patterns))
    made = export_model(tmp_path / "run", tmp_path / "out", lines(tmp_path))
    assert made.architecture == "BertForPreTraining" and made.difference is not None and made.difference < 1e-4
    transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", ["sst2", "conll", "squad2"])
def test_the_encoder_comes_back_without_its_head(
    family: str, task: str, tuned: Tuned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_model(tuned(family, task), tmp_path / "out", lines(tmp_path))
    back = load_model(tmp_path / "out")
    architecture = read_json(tmp_path / "out" / "config.json")["architectures"][0]
    assert f"the fine-tuned head of {architecture} is left out" in capsys.readouterr().err
    encoder = Predictor(tuned(family, task), "cpu", None).model.encoder.state_dict()
    assert not back.model.config.lm_head
    for name, tensor in back.model.state_dict().items():
        if name in encoder:
            first = -ROWS if name.startswith("positions.0") else 0  # RoBERTa's begin behind the row of the padding
            assert torch.equal(tensor[first:], encoder[name][first:]), name
    assert main(["import", str(tmp_path / "out"), "--out", str(tmp_path / "back")]) == 0
    again = run("sst2", classes(tmp_path / "data"), tmp_path / "back", tmp_path / "again", epochs=1)
    assert again.steps == 12


def test_a_tagger_of_transformers_is_a_model_to_begin_from(tmp_path: Path) -> None:
    """A folder that transformers saved, and one whose head has another name than its class."""
    transformers = pytest.importorskip("transformers")
    from head_models import VOCABULARY

    config = transformers.ModernBertConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=48, num_labels=5, classifier_pooling="mean", pad_token_id=0,
    )  # fmt: skip
    theirs = transformers.ModernBertForTokenClassification(config)
    theirs.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    loaded = load_model(tmp_path / "saved")
    assert loaded.model.config.classifier_pooling == "mean" and not loaded.model.config.lm_head
    config_file = tmp_path / "saved" / "config.json"
    config_file.write_text(config_file.read_text(encoding="utf-8").replace('"mean"', '"max"'), encoding="utf-8")
    with pytest.raises(UserError, match=r"model\.classifier_pooling is 'max'; it must be cls or mean"):
        load_model(tmp_path / "saved")
    result = run("conll", tags(tmp_path / "data"), family_folder(tmp_path / "m", "modernbert"), tmp_path / "run")
    assert result.score > result.baseline


def test_what_transformers_has_no_class_for_is_refused(tuned: Tuned, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no class with the head of a model trained as gpt; .*: bert, distilbert"):
        export_model(tuned("gpt2", "sst2"), tmp_path / "out")
    pre = fine_tuned(tmp_path / "pre", "bert", "sst2", norm="pre")
    with pytest.raises(UserError, match=r"cannot be exported: transformers' bert has no model\.norm = pre"):
        export_model(pre, tmp_path / "out")
    tanh = fine_tuned(tmp_path / "tanh", "modernbert", "sst2", classifier_transform="tanh")
    with pytest.raises(UserError, match="has lm_head before its scores, and this head has tanh"):
        export_model(tanh, tmp_path / "out")
    gelu = fine_tuned(tmp_path / "gelu", "roberta", "sst2", classifier_transform="gelu")
    with pytest.raises(UserError, match="RobertaForSequenceClassification of transformers has tanh before its scores"):
        export_model(gelu, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_heads_and_folders_are_refused(tuned: Tuned, tmp_path: Path) -> None:
    lstm = fine_tuned(tmp_path / "lstm", "bert", "conll", {"head": "bilstm", "lstm_size": 4})
    with pytest.raises(UserError, match="its head reads features of several layers or an LSTM"):
        export_model(lstm, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="is there already and not empty"):
        export_model(tuned("bert", "sst2"), tmp_path / "full")
    with pytest.raises(UserError, match="cannot be exported: "):
        pretrained.export_format(load_model(family_folder(tmp_path / "pre", "bert", norm="pre")))


def test_a_difference_leaves_nothing_behind(tuned: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    true = exporting.our_scores
    monkeypatch.setattr(exporting, "our_scores", lambda *given: true(*given) + 1)
    with pytest.raises(UserError, match=r"differ by up to 1, and 0\.0001 is allowed"):
        export_model(tuned("bert", "sst2"), tmp_path / "out")
    monkeypatch.setattr(exporting, "our_scores", true)
    whole = exporting.files_of

    def unframed(*given: Any) -> dict[str, str]:
        files = whole(*given)
        return {**files, "tokenizer.json": files["tokenizer.json"].replace('"lowercase": true', '"lowercase": false')}

    monkeypatch.setattr(exporting, "files_of", unframed)
    with pytest.raises(UserError, match="tokenizer reads 'The Cat' otherwise than the model was fine-tuned"):
        exporting.export_fine_tuned(
            Predictor(tuned("bert", "sst2"), "cpu", None), tmp_path, tmp_path / "out", ["The Cat"]
        )
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_made(
    tuned: Tuned, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    arguments = ["export", str(tuned("bert", "sst2")), "--text", str(lines(tmp_path))]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "transformers gives the same scores on 3 texts; largest difference" in out
    assert f"BertForSequenceClassification; the model is in {tmp_path / 'out'}" in out
    monkeypatch.setattr(exporting, "has_module", lambda name: False)
    assert main([*arguments, "--out", str(tmp_path / "again")]) == 0
    assert "transformers is not installed" in capsys.readouterr().out
    assert blankfill.export_model is export_model
