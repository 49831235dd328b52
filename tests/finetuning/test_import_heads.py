"""Fine-tuned models of transformers come in with their heads: the same scores, labels and answers as there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
from blankfill.errors import UserError
from blankfill.exporting.heads import head_difference
from blankfill.exporting.model import export_model
from blankfill.exporting.rows import rows_of
from blankfill.families.task_heads import CLASSES, HeadKind
from blankfill.finetuning.importing import import_model
from blankfill.finetuning.predictor import Predictor, holds_fine_tuned, open_predictor
from blankfill.system.reading import read_json
from blankfill.tasks.options import FinetuneOptions

transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")

WORDS = ["the", "cat", "sat", "on", "mat", ".", "who", "ran", "paris", "play", "fine", "rome", "poor", "big", "red",
         "dog", "in", "?"]  # fmt: skip
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = ["the cat sat on the mat .", "who ran", "paris play fine rome poor the big red dog ran on the mat"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
         "max_position_embeddings": 64, "initializer_range": 0.4}  # fmt: skip
FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bert": ("Bert", SIZES),
    "ernie": ("Ernie", SIZES),
    "roberta": ("Roberta", {**SIZES, "type_vocab_size": 1, "pad_token_id": 1}),
    "albert": ("Albert", {**SIZES, "embedding_size": 8}),
    "electra": ("Electra", {**SIZES, "embedding_size": 8}),
    "distilbert": ("DistilBert", {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "initializer_range": 0.4,
                                  "max_position_embeddings": 64}),
    "modernbert": ("ModernBert", {**SIZES, "classifier_pooling": "mean", "pad_token_id": 0, "bos_token_id": 2,
                                  "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}),
}  # fmt: skip
LABELS = ["poor", "fine", "so-so"]
TAGS = ["O", "B-PER", "I-PER"]


def tokenizer_files(folder: Path, family: str) -> int:
    """The tokenizer that models of a family have; returns its size."""
    from tokenizers import processors

    from blankfill.corpus.tokenizer_formats import byte_bpe, wordpiece

    if family != "roberta":
        vocab = {word: k for k, word in enumerate([*BERT_SPECIAL, *WORDS])}
        special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
                   "mask_token": "[MASK]"}  # fmt: skip
        tokenizer = wordpiece(vocab, lowercase=True)
    else:
        letters = sorted({letter for word in WORDS for letter in word})
        vocab = {word: k for k, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *letters])}
        special = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>",
                   "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}  # fmt: skip
        tokenizer = byte_bpe(vocab, [], lowercase=False)
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    inputs = ["input_ids", "attention_mask"] + ["token_type_ids"] * (family in ("bert", "ernie", "albert", "electra"))
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **special)
    made.save_pretrained(folder)
    return len(vocab)


def theirs(folder: Path, family: str, kind: HeadKind, **config: Any) -> Path:
    """A folder of transformers with a random model that has a head."""
    title, sizes = FAMILIES[family]
    folder.mkdir(parents=True)
    names = {"text": LABELS, "token": TAGS}.get(kind)
    if names is not None and "num_labels" not in config:
        config = {"id2label": dict(enumerate(names)), "label2id": {name: k for k, name in enumerate(names)}, **config}
    size = tokenizer_files(folder, family)
    made = getattr(transformers, f"{title}Config")(vocab_size=size, **{**sizes, **config})
    torch.manual_seed(1)
    model = getattr(transformers, title + CLASSES[kind])(made)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases that do something
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_computes_the_same_here(family: str, kind: HeadKind, tmp_path: Path) -> None:
    title = FAMILIES[family][0]
    if not hasattr(transformers, title + CLASSES[kind]):
        pytest.skip(f"transformers has no {title}{CLASSES[kind]}")
    folder = theirs(tmp_path / "theirs", family, kind)
    made = import_model(folder, tmp_path / "ours")
    assert (made.family, made.task) == (family, {"text": "classify", "token": "tag", "span": "qa"}.get(kind, kind))
    assert made.labels == tuple({"text": LABELS, "token": TAGS}.get(kind, []))
    for path in (tmp_path / "ours", folder):  # imported, and as it is
        assert holds_fine_tuned(path)
        predictor = open_predictor(path, "cpu", None)
        assert isinstance(predictor, Predictor)
        assert head_difference(predictor, folder, kind, list(rows_of(TEXTS, kind))) < 1e-5


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_predictions_are_those_of_the_pipelines(family: str, tmp_path: Path) -> None:
    folder = theirs(tmp_path / "text", family, "text")
    expected = transformers.pipeline("text-classification", model=str(folder), top_k=None)(TEXTS)
    for row, ours in zip(expected, blankfill.predict(folder, TEXTS, device="cpu").rows, strict=True):
        assert {part["label"]: part["score"] for part in row} == pytest.approx(ours["probabilities"], abs=1e-5)
        assert ours["label"] == row[0]["label"]
    pair = {"text": TEXTS[0], "second": TEXTS[1]}
    (ours,) = blankfill.predict(folder, [pair], device="cpu").rows
    pipeline = transformers.pipeline("text-classification", model=str(folder))
    assert pipeline({"text": TEXTS[0], "text_pair": TEXTS[1]})["label"] == ours["label"]


def test_tags_and_answers_are_those_of_transformers(tmp_path: Path) -> None:
    folder = theirs(tmp_path / "tags", "bert", "token")
    expected = transformers.pipeline("token-classification", model=str(folder), ignore_labels=[])(TEXTS[2])
    (ours,) = blankfill.predict(folder, [TEXTS[2]], device="cpu").rows
    assert ours["tags"] == [row["entity"] for row in expected]
    folder = theirs(tmp_path / "answers", "bert", "span")
    rows = [{"question": "who ran ?", "context": TEXTS[2]}, {"question": "who sat ?", "context": TEXTS[0]}]
    for row, ours in zip(rows, blankfill.predict(folder, rows, device="cpu").rows, strict=True):
        assert ours["answer"] == best_span(folder, **row)


def best_span(folder: Path, question: str, context: str, longest: int = 30) -> str:
    """The span of the context with the highest sum of transformers' scores, found by trying all."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertForQuestionAnswering.from_pretrained(folder).eval()
    inputs = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    places, of = inputs.pop("offset_mapping")[0].tolist(), inputs.sequence_ids(0)
    with torch.inference_mode():
        out = model(**inputs)
    begins, ends = out.start_logits[0].tolist(), out.end_logits[0].tolist()
    inside = [k for k, text in enumerate(of) if text == 1]
    spans = [(begins[a] + ends[b], a, b) for a in inside for b in inside if a <= b < a + longest]
    _, first, last = max(spans)
    return context[places[first][0] : places[last][1]]


def test_numbers_and_sets_of_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`problem_type` says which task a head on texts is for; one score without it is a number."""
    number = theirs(tmp_path / "number", "bert", "text", num_labels=1, problem_type="regression")
    made = import_model(number, tmp_path / "out")
    assert (made.task, made.labels) == ("regress", ())
    (row,) = transformers.pipeline("text-classification", model=str(number))(TEXTS[:1])
    assert blankfill.predict(tmp_path / "out", TEXTS[:1]).rows[0]["score"] == pytest.approx(row["score"], abs=1e-5)
    silent = theirs(tmp_path / "silent", "bert", "text", num_labels=1)
    capsys.readouterr()
    assert import_model(silent, tmp_path / "silent-out").task == "regress"
    assert "names no problem_type, and the head has one score" in capsys.readouterr().err
    several = theirs(tmp_path / "several", "bert", "text", problem_type="multi_label_classification")
    assert import_model(several, tmp_path / "several-out").task == "multilabel"
    rows = transformers.pipeline("text-classification", model=str(several), top_k=None)(TEXTS)
    for row, ours in zip(rows, blankfill.predict(several, TEXTS).rows, strict=True):
        assert {part["label"]: part["score"] for part in row} == pytest.approx(ours["probabilities"], abs=1e-5)


def test_labels_that_nobody_named_keep_their_names_and_that_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = theirs(tmp_path / "theirs", "bert", "text", num_labels=3)
    assert main(["import", str(folder), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert "does not name the labels; they are called LABEL_0 to LABEL_2" in shown.err
    assert "fine-tuned for the task classify, with the labels LABEL_0, LABEL_1, LABEL_2" in shown.out
    assert f"blankfill predict --model {tmp_path / 'out'} rows.txt" in shown.out


def test_the_command_line_predicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = theirs(tmp_path / "theirs", "bert", "text")
    rows = tmp_path / "rows.txt"
    rows.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    assert main(["import", str(folder), "--out", str(tmp_path / "out")]) == 0
    answers = []
    for model in (tmp_path / "out", folder):
        capsys.readouterr()
        assert main(["predict", "--model", str(model), str(rows), "--device", "cpu"]) == 0
        answers.append([json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()])
    assert answers[0] == answers[1] and set(answers[0]) <= set(LABELS)


def test_other_tags_name_no_entities(tmp_path: Path) -> None:
    """Parts of speech."""
    folder = theirs(
        tmp_path / "theirs", "bert", "token", id2label={0: "NOUN", 1: "VERB"}, label2id={"NOUN": 0, "VERB": 1}
    )
    (row,) = blankfill.predict(folder, [TEXTS[0]]).rows
    assert set(row) == {"id", "tags"} and set(row["tags"]) <= {"NOUN", "VERB"} and len(row["tags"]) == 7


def test_half_precision_is_computed_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = theirs(tmp_path / "theirs", "bert", "text")
    transformers.BertForSequenceClassification.from_pretrained(folder).half().save_pretrained(folder)
    assert import_model(folder, tmp_path / "out").dtype == "float32"
    assert "float16 weights are converted to float32" in capsys.readouterr().err
    with pytest.raises(UserError, match="a fine-tuned model computes in float32; leave out dtype"):
        import_model(folder, tmp_path / "other", dtype="fp16")


def test_the_encoder_alone_comes_in_when_its_head_is_left_out(tmp_path: Path) -> None:
    folder = theirs(tmp_path / "theirs", "bert", "text")
    made = import_model(folder, tmp_path / "encoder", leave_out=["classifier"])
    assert made.task == "" and not load_model(tmp_path / "encoder").model.config.lm_head
    assert not holds_fine_tuned(tmp_path / "encoder")


def test_an_imported_model_is_not_imported_again(tmp_path: Path) -> None:
    import_model(theirs(tmp_path / "theirs", "bert", "text"), tmp_path / "ours")
    with pytest.raises(UserError, match="is a model of blankfill, which every command opens as it is"):
        import_model(tmp_path / "ours", tmp_path / "again")


def test_predictions_of_a_table_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`predict --data` and `evaluate`, of an imported model."""
    import_model(theirs(tmp_path / "theirs", "bert", "text"), tmp_path / "ours")
    data, answers = table(tmp_path / "dev.csv", LABELS), tmp_path / "answers.jsonl"
    model = ["--model", str(tmp_path / "ours"), "--device", "cpu"]
    assert main(["predict", *model, "--data", str(data), "--split", "dev", "--out", str(answers)]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--task", "classify", "--data", str(data), str(answers), "--json"]) == 0
    labels = [json.loads(line)["label"] for line in answers.read_text(encoding="utf-8").splitlines()]
    right = [label == LABELS[k % len(LABELS)] for k, label in enumerate(labels)]
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"] == pytest.approx(sum(right) / len(right))


def test_an_imported_model_goes_out_again(tmp_path: Path) -> None:
    folder = theirs(tmp_path / "theirs", "bert", "token")
    import_model(folder, tmp_path / "ours")
    made = export_model(tmp_path / "ours", tmp_path / "back")
    assert made.architecture == "BertForTokenClassification"
    config = read_json(tmp_path / "back" / "config.json")
    assert config["id2label"] == {str(k): name for k, name in enumerate(TAGS)}


def table(path: Path, labels: list[str], count: int = 24) -> Path:
    rng = np.random.default_rng(0)
    rows = [f"{' '.join(rng.choice(WORDS[:12], 4).tolist())},{labels[k % len(labels)]}" for k in range(count)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def tuned_from(model: Path, data: Path, out: Path) -> Predictor:
    options = FinetuneOptions(epochs=1, batch_size=8, lr=1e-9, device="cpu", threads=1)
    blankfill.finetune(blankfill.FinetuneConfig("classify", data, model, options), out)
    return Predictor(out, "cpu", None)


def test_fine_tuning_continues_with_the_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same labels, in the order of the data; at a learning rate of nothing the predictions stay."""
    folder = theirs(tmp_path / "theirs", "bert", "text")
    import_model(folder, tmp_path / "ours")
    for k, model in enumerate((tmp_path / "ours", folder)):
        capsys.readouterr()
        after = tuned_from(model, table(tmp_path / "train.csv", LABELS), tmp_path / f"run{k}")
        assert "its head for classify continues, which has the same labels" in capsys.readouterr().err
        assert after.labels == ("fine", "poor", "so-so")  # sorted, and not as they were
        before = blankfill.predict(folder, TEXTS, device="cpu").rows
        for row, ours in zip(before, blankfill.predict(after, TEXTS).rows, strict=True):
            assert row["probabilities"] == pytest.approx(ours["probabilities"], abs=1e-4)
    again = tuned_from(tmp_path / "run0", tmp_path / "train.csv", tmp_path / "again")  # a run of our own
    assert "continues" in capsys.readouterr().err and again.labels == after.labels


def test_other_labels_get_a_new_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = theirs(tmp_path / "theirs", "bert", "text")
    tuned_from(folder, table(tmp_path / "train.csv", ["yes", "no"]), tmp_path / "run")
    shown = capsys.readouterr().err
    assert (
        "its head for classify with the labels poor, fine, so-so does not fit these data; a new head is drawn" in shown
    )


def changed(folder: Path, **values: Any) -> None:
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, **values}), encoding="utf-8")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"problem_type": "ranking"}, "`problem_type` is 'ranking', which is not known here; known: single_label"),
        (
            {"problem_type": "regression"},
            "the head predicts 3 numbers for a text, and this program's heads predict one",
        ),
        ({"id2label": {"0": "a", "1": "b"}}, "`id2label` has 2 names, and the head has 3 labels"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "`id2label` names several labels 'a'"),
        ({"id2label": {"zero": "a"}}, "`id2label` has a key that is not a number"),
    ],
)
def test_a_config_that_does_not_fit_the_head_is_refused(
    values: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    folder = theirs(tmp_path / "theirs", "bert", "text")
    changed(folder, **values)
    with pytest.raises(UserError, match=message):
        import_model(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_class_is_no_classifier(tmp_path: Path) -> None:
    folder = theirs(tmp_path / "theirs", "bert", "text", num_labels=1)
    changed(folder, problem_type="single_label_classification")
    with pytest.raises(UserError, match="the head has one class, and a classifier has two or more"):
        import_model(folder, tmp_path / "out")


def test_a_head_with_a_part_missing_is_refused(tmp_path: Path, head_file: Callable[[Path, str], None]) -> None:
    folder = theirs(tmp_path / "theirs", "bert", "text")
    head_file(folder, "classifier.weight")
    with pytest.raises(UserError, match="`id2label` has 3 names, and the head has 0 labels"):
        import_model(folder, tmp_path / "out")


def test_a_class_with_a_head_whose_weights_have_none_is_refused(
    tmp_path: Path, head_file: Callable[[Path, str], None]
) -> None:
    folder = theirs(tmp_path / "theirs", "bert", "text")
    for name in ("classifier.weight", "classifier.bias"):
        head_file(folder, name)
    with pytest.raises(UserError, match=r"config\.json names a class with a fine-tuned head, and the weights have no"):
        blankfill.predict(folder, [TEXTS[0]])
    assert import_model(folder, tmp_path / "out").task == ""


def test_a_notice_about_weights_left_out_is_given_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A half-precision file with a head and another one, which is read as float32."""
    folder = theirs(tmp_path / "theirs", "bert", "text")
    tensors = {name: tensor.half() for name, tensor in load_file(folder / store.MODEL).items()}
    store.write_weights(folder / store.MODEL, {**tensors, "other.weight": torch.ones(2, dtype=torch.float16)})
    assert import_model(folder, tmp_path / "out", leave_out=["other"]).dtype == "float32"
    assert capsys.readouterr().err.count("are left out: other.weight") == 1


@pytest.fixture
def head_file() -> Callable[[Path, str], None]:
    """A function that takes a weight out of a folder's file."""

    def without(folder: Path, name: str) -> None:
        tensors = load_file(folder / store.MODEL)
        del tensors[name]
        store.write_weights(folder / store.MODEL, tensors)

    return without
