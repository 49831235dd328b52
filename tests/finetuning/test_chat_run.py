"""Learning to chat from end to end: tiny models learn to answer, keep old text, resume, and refuse."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blankfill.chatting.messages import Message
from blankfill.chatting.templates import template_in
from blankfill.checkpoint import store
from blankfill.cli.main import main
from blankfill.corpus.options import PrepareConfig
from blankfill.corpus.prepare import prepare
from blankfill.errors import ConfigError, UserError
from blankfill.finetuning.before import BEFORE
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.forgetting import FORGETTING, WithOldText, known_text
from blankfill.finetuning.outcome import FinetuneResult
from blankfill.finetuning.predict import predict
from blankfill.finetuning.predictor import Predictor
from blankfill.finetuning.run import finetune
from blankfill.runs.folder import CORPUS
from blankfill.tasks.chat.model import OLD
from blankfill.tasks.options import CHAT_LORA_LR, CHAT_LR, CHAT_PREFIX_LR, USUAL_LR, FinetuneOptions
from blankfill.tasks.run_files import RESULTS
from small_tasks import stopped_after, write_lines, writing_model

NOUNS = ["red", "big", "cat", "dog", "mat"]
TEMPLATE = (
    "{% for m in messages %}{{ {'user': 'the ', 'assistant': '', 'system': ''}[m.role] + m.content + ' ' }}"
    "{% if m.role == 'user' %}on {% endif %}{% endfor %}"
)
QUICK = FinetuneOptions(
    allow_unknown=True, lr=5e-3, batch_size=16, epochs=4, threads=1, precision="fp32", device="cpu", max_length=40,
    max_target_length=6, eval_every=1000, weight_decay=0.0,
)  # fmt: skip


def turned(folder: Path, train: int = 160) -> Path:
    """Two words are answered the other way round, in two rounds of a dialogue."""
    for name, count, seed in (("train", train, 1), ("dev", 16, 2)):
        rows = []
        for a, b, c, d in np.random.default_rng(seed).choice(NOUNS, (count, 4)).tolist():
            texts = [f"{a} {b}", f"{b} {a}", f"{c} {d}", f"{d} {c}"]
            roles = ("user", "assistant") * 2
            rows.append({"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]})
        write_lines(folder / f"{name}.jsonl", rows)
    (folder / "words.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


def old_text(folder: Path) -> Path:
    """Documents that the model may know: enough of them that some are held out."""
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(["the", "cat", "sat", "on", "mat", "ran"], 30)) + " ." for _ in range(120)]
    write_lines(folder / "old.jsonl", [{"text": text} for text in texts])
    return folder / "old.jsonl"


def test_the_old_text_of_a_run_is_its_corpus(tmp_path: Path) -> None:
    pretrained, corpus = tmp_path / "runs" / "old", tmp_path / "my corpus"
    pretrained.mkdir(parents=True)
    assert known_text(pretrained) == pretrained
    (pretrained / CORPUS).write_text("../../my corpus\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"old is a run, and its corpus .*my corpus is not there; give the text"):
        known_text(pretrained)
    prepare([str(old_text(tmp_path))], corpus, PrepareConfig())
    assert known_text(pretrained).samefile(corpus)


def run(data: Path, model: Path, out: Path, **options: Any) -> FinetuneResult:
    given = {"template": str(data / "words.jinja"), **options}
    return finetune(FinetuneConfig("chat", data, model, dataclasses.replace(QUICK, **given)), out)


def results(out: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    return read


@pytest.mark.parametrize("name", ["gpt", "glm"])
def test_a_model_learns_to_answer(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model, out = turned(tmp_path / "data"), writing_model(tmp_path, name), tmp_path / "run"
    result = run(data, model, out, epochs=8)
    assert result.metrics["rougeL"] > 0.9 and result.metrics["perplexity"] < 1.5
    assert result.against is not None and result.against.better and result.baseline < -2
    assert result.metrics["log-likelihood"] == pytest.approx(-np.log(result.metrics["perplexity"]))
    shown = results(out)
    assert set(shown["intervals"]) == {"log-likelihood", "perplexity", "rouge1", "rouge2", "rougeL", "bleu"}
    sample = shown["samples"][0]
    assert sample["after"] == sample["right"] != sample["before"] and len(shown["samples"]) == 12
    assert len(shown["examples"]) == 3 and shown["examples"][0].count("⟦") == (2 if name == "gpt" else 1)
    said = capsys.readouterr().err
    assert "example 3, what is learnt in ⟦⟧: " in said and "are packed into" in said
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Answers before and after" in page and "before: the model before its fine-tuning" in page
    assert any("before fine-tuning: -" in line for line in result.lines("chat", "log-likelihood"))
    template = template_in([out])
    assert template is not None and template.source == TEMPLATE
    predictor = Predictor(out, "cpu", 1)
    first = predict(predictor, ["cat dog"])[0]
    again = predict(
        predictor, [[Message("user", "red mat"), Message("assistant", "mat red"), Message("user", "cat dog")]]
    )
    assert first.value.text == again[0].value.text == "dog cat"


@pytest.mark.parametrize("name", ["gpt", "glm"])
def test_a_run_with_old_text_goes_on_where_it_was_stopped(name: str, tmp_path: Path) -> None:
    """The weights, the forgetting report and what the model said before are those of a run that was not stopped."""
    data, model, old = turned(tmp_path / "data", 96), writing_model(tmp_path, name), old_text(tmp_path)
    options = {"epochs": 2, "eval_every": 4, "replay": str(old), "replay_ratio": 0.25}
    whole = run(data, model, tmp_path / "whole", **options)
    with stopped_after(14):
        run(data, model, tmp_path / "run", **options)
    config = FinetuneConfig(
        "chat", data, model, dataclasses.replace(QUICK, template=str(data / "words.jinja"), **options)
    )
    resumed = finetune(config, tmp_path / "run", resume=True)
    assert resumed.steps == whole.steps and resumed.metrics == whole.metrics and resumed.baseline == whole.baseline
    assert resumed.forgetting == whole.forgetting
    ours, theirs = (store.newest(tmp_path / folder / "checkpoints") for folder in ("run", "whole"))
    assert ours is not None and theirs is not None and ours.model.keys() == theirs.model.keys()
    assert all(torch.equal(tensor, theirs.model[key]) for key, tensor in ours.model.items())


def test_replayed_text_is_forgotten_less(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that knows the old text, then learns to chat: the report has its loss before and after, and the replay
    keeps it lower."""
    data, model, old = turned(tmp_path / "data"), writing_model(tmp_path, "gpt"), old_text(tmp_path)
    options = {"epochs": 8.0, "replay": str(old)}
    without = run(data, model, tmp_path / "without", **options)
    replayed = run(data, model, tmp_path / "with", **options, replay_ratio=0.4)
    assert without.forgetting["before"] == replayed.forgetting["before"]
    assert replayed.forgetting["after"] < without.forgetting["after"] - 0.2
    low, high = replayed.forgetting["interval"]
    assert low < replayed.forgetting["change"] < high < 0
    assert replayed.forgetting["held_out"] is True and replayed.forgetting["replay_ratio"] == 0.4
    sentence = next(line for line in replayed.lines("chat", "log-likelihood") if line.startswith("old text"))
    assert "held-out rows: loss" in sentence and "40% of the rows were old text" in sentence
    assert "the model knows it better than before" in sentence
    page = (tmp_path / "with" / "report.html").read_text(encoding="utf-8")
    assert "Forgetting" in page and "40% of the rows of the training were old text" in page
    lines = [json.loads(line) for line in (tmp_path / "with" / "metrics.jsonl").read_text().splitlines()]
    assert all("old_loss" in line for line in lines if line.get("split") == "valid")
    assert any("old_loss" in line for line in lines if line.get("split") == "train")
    assert capsys.readouterr()


def test_old_rows_are_spread_over_the_steps() -> None:
    from blankfill.data.interleave import Share
    from blankfill.tasks.batching import Batches, Epochs

    batches = WithOldText(Batches([], Epochs(96, 16, 0), 0), None, Share(0.2))  # type: ignore[arg-type]
    rows = [batches.old_rows(step) for step in range(50)]
    assert [row for part in rows for row in part] == list(range(199))  # each once, of about 1,000 rows
    assert {len(part) for part in rows} == {3, 4}
    assert OLD == "old"


def test_a_checkpoint_is_chosen_by_the_answers_and_runs_stop_early(tmp_path: Path) -> None:
    data, model = turned(tmp_path / "data", 48), writing_model(tmp_path, "gpt")
    result = run(data, model, tmp_path / "run", lr=0.3, epochs=40, eval_every=2, patience=2, max_eval_samples=3)
    assert result.steps < result.total
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["log-likelihood"] for line in lines if line.get("split") == "valid"}
    assert result.best_step == max(scores, key=lambda step: scores[step])
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 16 and sum("text" in row for row in rows) == 3
    assert all(row["tokens"] == 6 for row in rows)


def test_lora_and_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model, out = turned(tmp_path / "data", 48), writing_model(tmp_path), tmp_path / "grid"
    command = ["finetune", "--task", "chat", "--data", str(data), "--from", str(model), "--out", str(out),
               "--template", str(data / "words.jinja"), "--grid", "lora_rank=0,4", "--num-seeds", "2",
               "--epochs", "1", "--threads", "1", "--precision", "fp32", "--max-target-length", "6",
               "--allow-unknown", "--eval-every", "99", "--max-eval-samples", "4"]  # fmt: skip
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "before fine-tuning: -" in shown and "lora_rank-4: log-likelihood -" in shown
    table = results(out)
    assert [row["runs"] for row in table["settings"]] == [2, 2]
    rates = {row["setting"]: json.loads((out / row["best_run"] / "finetune.json").read_text())["options"]["lr"]
             for row in table["settings"]}  # fmt: skip
    assert rates == {"lora_rank-0": CHAT_LR, "lora_rank-4": CHAT_LORA_LR}
    assert main(command) == 0  # nothing is trained again


def test_a_prefix_is_compared_with_the_model_without_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the training a prefix is random; what the model said and knew before is that of the model itself."""
    data, model, old = turned(tmp_path / "data", 48), writing_model(tmp_path), old_text(tmp_path)
    options = {"epochs": 1, "replay": str(old), "max_eval_samples": 4}
    whole = run(data, model, tmp_path / "whole", **options)
    tuned = run(data, model, tmp_path / "prefix", **options, prefix_length=4, lr=0.1)
    assert tuned.baseline == whole.baseline and tuned.forgetting["before"] == whole.forgetting["before"]
    assert (tmp_path / "prefix" / "adapter" / "chat_template.jinja").read_text(encoding="utf-8") == TEMPLATE
    write_lines(tmp_path / "rows.jsonl", [{"prompt": "cat dog", "response": "dog cat"}])
    end = [str(tmp_path / "rows.jsonl"), "--threads", "1", "--allow-unknown"]
    capsys.readouterr()
    assert main(["predict", "--model", str(tmp_path / "prefix"), *end]) == 0
    beside = ["--model", str(model), "--adapter", str(tmp_path / "prefix" / "adapter")]
    assert main(["predict", *beside, *end]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == second and first["tokens"] == 3


def test_chat_answers_as_predict_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model, out = turned(tmp_path / "data"), writing_model(tmp_path), tmp_path / "run"
    run(data, model, out, epochs=8)
    rows = [{"messages": [{"role": "user", "content": text}]} for text in ("cat dog", "red mat")]
    write_lines(tmp_path / "rows.jsonl", rows)
    shared = ["--model", str(out), "--threads", "1", "--allow-unknown"]
    capsys.readouterr()
    assert main(["predict", *shared, str(tmp_path / "rows.jsonl")]) == 0
    predicted = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    command = ["chat", *shared, "--messages", str(tmp_path / "rows.jsonl"), "--temperature", "0", "--json"]
    assert main(command) == 0
    answered = [json.loads(line)["answer"] for line in capsys.readouterr().out.splitlines()]
    assert predicted == answered == ["dog cat", "mat red"]


def test_usual_rates() -> None:
    assert FinetuneConfig("chat", Path("a"), Path("b")).options.lr == CHAT_LR == 1e-4
    assert FinetuneConfig("cola", Path("a"), Path("b")).options.lr == USUAL_LR == 3e-5
    with_prefix = FinetuneOptions(prefix_length=8)
    assert FinetuneConfig("chat", Path("a"), Path("b"), with_prefix).options.lr == CHAT_PREFIX_LR == 1e-2
    assert FinetuneConfig("chat", Path("a"), Path("b"), FinetuneOptions(lr=0.5)).options.lr == 0.5
    assert FinetuneOptions().train_options(32).lr == USUAL_LR


def test_predictions_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model, out = turned(tmp_path / "data"), writing_model(tmp_path, "gpt"), tmp_path / "run"
    run(data, model, out, epochs=8)
    capsys.readouterr()
    question = {"role": "user", "content": "cat dog"}
    rows = [
        {"messages": [question]}, {"id": "x", "prompt": "cat dog", "response": "dog cat"},
        {"turns": ["cat dog", "cat dog"]}, {"messages": [question, question]},
    ]  # fmt: skip
    write_lines(tmp_path / "rows.jsonl", rows)
    command = ["predict", "--model", str(out), "--threads", "1", "--allow-unknown"]
    assert main([*command, str(tmp_path / "rows.jsonl")]) == 0
    said = capsys.readouterr()
    answers = [json.loads(line) for line in said.out.splitlines()]
    assert [answer["text"] for answer in answers] == ["dog cat"] * 3 and answers[1]["id"] == "x"
    assert answers[1]["log_likelihood"] > -0.5 and answers[1]["tokens"] == 3 and "tokens" not in answers[0]
    assert answers[2]["answers"] == ["dog cat", "dog cat"]
    assert "1 of 4 rows are not answered: each has two messages of the user in a row" in said.err
    assert main([*command, str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out.csv")]) == 0
    assert "dog cat" in (tmp_path / "out.csv").read_text(encoding="utf-8")
    lines = tmp_path / "lines.txt"
    lines.write_text(f"cat dog\n{json.dumps([question])}\n{json.dumps(question)}\n", encoding="utf-8")
    capsys.readouterr()
    assert main([*command, str(lines)]) == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == ["dog cat"] * 3
    for text, message in (
        (f"cat\n{json.dumps([question, question])}\n", "line 2: the dialogue has two messages of the user in a row"),
        (json.dumps([question, question]), "record 1 is one message of a dialogue"),
    ):
        lines.write_text(text, encoding="utf-8")
        assert main([*command, str(lines)]) == 2
        assert message in capsys.readouterr().err
    assert main([*command, "--data", str(data), "--split", "dev"]) == 0
    assert "chat, dev: log-likelihood -" in capsys.readouterr().err
    assert (
        main(["evaluate", "--task", "chat", "--data", str(data), "--split", "dev", str(out / "predictions.jsonl")]) == 0
    )
    assert f"log-likelihood {results(out)['metrics']['log-likelihood']:.3f}"[:-1] in capsys.readouterr().out


def test_what_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model = turned(tmp_path / "data", 48), writing_model(tmp_path, "gpt")
    for options, sentence in (
        ({"replay_ratio": 0.2}, "replay_ratio needs the old text; name it with replay"),
        ({"replay_ratio": 1.0, "replay": "x"}, "replay_ratio"),
        ({"blank": "gmask"}, "blank is not for dialogues; leave it out"),
        ({"method": "text"}, "which has no form as text"),
        ({"replay": str(tmp_path / "none.txt")}, "none.txt does not exist"),
        ({"template": "none"}, "there is no such file, and no built-in chat template"),
    ):
        with pytest.raises(UserError) as caught:
            run(data, model, tmp_path / "x", **options)
        assert sentence in str(caught.value), options
    bad = data / "bad.jinja"
    bad.write_text("a\n{% for %}", encoding="utf-8")
    with pytest.raises(UserError, match=r"bad.jinja, line 2: the template cannot be read"):
        run(data, model, tmp_path / "x", template=str(bad))
    write_lines(tmp_path / "pairs" / "train.jsonl", [{"source": word, "target": "dog"} for word in NOUNS])
    with pytest.raises(ConfigError, match="template is for dialogues; use it with task=chat"):
        finetune(FinetuneConfig("seq2seq", tmp_path / "pairs", model, dataclasses.replace(QUICK, template="plain")),
                 tmp_path / "x")  # fmt: skip
    write_lines(tmp_path / "open" / "train.jsonl", [{"prompt": word} for word in NOUNS])
    with pytest.raises(UserError, match="none of its dialogues has an answer of the assistant"):
        run(tmp_path / "open", model, tmp_path / "x", template="plain")
    unlearnt = [[{"role": "user", "content": word}, {"role": "assistant", "content": "dog", "weight": 0}]
                for word in NOUNS]  # fmt: skip
    write_lines(tmp_path / "unlearnt" / "train.jsonl", [{"messages": messages} for messages in unlearnt])
    with pytest.raises(UserError, match="none of the dialogues has an answer"):
        run(tmp_path / "unlearnt", model, tmp_path / "x", template="plain")
    write_lines(tmp_path / "unlearnt" / "dev.jsonl", [{"prompt": "cat", "response": "dog"}])
    with pytest.raises(UserError, match="no dialogue to train on has an answer"):
        run(tmp_path / "unlearnt", model, tmp_path / "x", template="plain")
    with pytest.raises(UserError, match="reads texts and does not write any"):
        run(data, writing_model(tmp_path / "bert", "bert"), tmp_path / "x")


def test_a_resumed_run_needs_what_was_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, model, old = turned(tmp_path / "data", 48), writing_model(tmp_path, "gpt"), old_text(tmp_path)
    options = {"epochs": 2, "eval_every": 2, "replay": str(old)}
    out = tmp_path / "run"
    from blankfill.finetuning.training import Training

    def stopping(self: Any, done: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Training, "best_predictions", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(data, model, out, **options)
    config = FinetuneConfig(
        "chat", data, model, dataclasses.replace(QUICK, template=str(data / "words.jinja"), **options)
    )
    before = (out / BEFORE).read_text(encoding="utf-8")
    (out / BEFORE).write_text(before.split("\n", 1)[1], encoding="utf-8")
    with pytest.raises(UserError, match=r"before.jsonl is damaged"):
        finetune(config, out, resume=True)
    (out / BEFORE).write_text(before, encoding="utf-8")
    forgetting = (out / FORGETTING).read_text(encoding="utf-8")
    (out / FORGETTING).write_text('{"before": [1, 2]}', encoding="utf-8")
    with pytest.raises(UserError, match=r"forgetting.json is damaged"):
        finetune(config, out, resume=True)
    (out / FORGETTING).write_text(forgetting, encoding="utf-8")
    (out / "chat_template.jinja").write_text(TEMPLATE + " ", encoding="utf-8")
    with pytest.raises(UserError, match="the chat template is another"):
        finetune(config, out, resume=True)
    with pytest.raises(UserError, match=r"chat_template.jinja is not what the model was trained with"):
        Predictor(out, "cpu", 1)
