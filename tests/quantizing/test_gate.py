"""The gate of `blankfill quantize`: what is measured, what is refused, and that a refused model is not there."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import blankfill
from blankfill.checkpoint import store
from blankfill.checkpoint.load import load_model
from blankfill.checkpoint.quantization import Quantization
from blankfill.cli.main import main
from blankfill.errors import UserError
from blankfill.kernels.integers import WeightFormat
from blankfill.pretraining.data_setup import open_corpus, phases, validation_batches
from blankfill.quantizing.gate import measure
from blankfill.quantizing.gate_options import GateOptions
from blankfill.quantizing.gate_report import GateReport, Measure, refusals, remedies, table_rows
from blankfill.quantizing.measures import speed
from blankfill.quantizing.measures.differences import compare
from blankfill.quantizing.measures.language import cosines_of, language
from blankfill.quantizing.measures.pair import Pair
from blankfill.quantizing.measures.text import text_of
from blankfill.quantizing.run import quantize_model
from blankfill.quantizing.settings import QuantizeSettings
from small_run import SMALL, texts_in
from written_models import boats, write_model

WORDS = ["the", "old", "boat", "lamp", "sings", "sleeps", "on", "near", "sea", ".", ",", "red"]
QUICK = GateOptions(gate_seconds=0.05)
FAST = speed.Timing(2.0, 1.0, 0.5, (0.4, 0.6), 9)
SLOW = speed.Timing(1.0, 2.0, 2.0, (1.8, 2.2), 9)
UNSURE = speed.Timing(1.0, 1.1, 1.1, (0.9, 1.3), 9)


def plain(bits: Any) -> QuantizeSettings:
    """A scale for each row: the format that loses most."""
    return QuantizeSettings(bits=bits, group_size=0, scheme="absmax", method="nearest", embeddings="keep")


@pytest.fixture(autouse=True)
def few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two times of each call are enough to see that they are measured."""
    monkeypatch.setattr(speed, "LEAST", 2)
    monkeypatch.setattr(speed, "FEWEST", 2)
    monkeypatch.setattr(speed, "SHORTEST", 0.0)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Callable[[speed.Timing], None]:
    """Every time is that of the argument; the calls are made once."""

    def set_timing(timing: speed.Timing) -> None:
        def alternate(before: Callable[[], object], after: Callable[[], object], seconds: float) -> speed.Timing:
            before(), after()
            return timing

        monkeypatch.setattr(speed, "alternate", alternate)

    set_timing(FAST)
    return set_timing


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out text of the tiny models' words: a folder of documents, a sentence on each line."""
    folder, rng = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
    for k in range(60):
        lines = [" ".join(rng.choice(WORDS, 12)) for _ in range(2)]
        (folder / f"{k}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of pretraining of seconds, with validation text."""
    folder = tmp_path_factory.mktemp("pretrained")
    (folder / "texts").mkdir()
    recipe = blankfill.load_recipe("gpt-nano", {**SMALL, "train.steps": 3, "objective.length": 32})
    blankfill.pretrain([texts_in(folder / "texts", 10)], recipe, folder / "run")
    return folder / "run"


def named(report: GateReport, name: str) -> Measure:
    return next(part for part in report.measures if part.name.startswith(name))


# the differences of scores


def test_the_differences_of_scores_are_those_of_their_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.randn(40, 7, generator=generator) for _ in range(2))
    target = torch.randint(0, 7, (40,), generator=generator)
    first, second = (torch.distributions.Categorical(logits=logits) for logits in (before, after))
    result = compare(before.split(5), after.split(5), target.split(5))
    kl = torch.distributions.kl_divergence(first, second).numpy()
    assert result.targets == 40 and result.units == 8
    assert result.kl == pytest.approx(kl.mean(), rel=1e-5) and result.kl_99 == pytest.approx(np.quantile(kl, 0.99))
    assert result.same_top == (before.argmax(1) == after.argmax(1)).float().mean()
    nats = [float(torch.nn.functional.cross_entropy(logits, target)) for logits in (before, after)]
    assert [result.nats_before, result.nats_after] == pytest.approx(nats)
    assert result.perplexity_after / result.perplexity_before - 1 == pytest.approx(result.loss)
    assert result.interval is not None and result.interval[0] < result.loss < result.interval[1]


def test_intervals_are_paired_over_units() -> None:
    """What is hard for both models does not widen the interval."""
    generator = torch.Generator().manual_seed(1)
    hard = torch.linspace(0, 8, 30).repeat_interleave(4)
    before = torch.zeros(120, 2).index_put((torch.arange(120), torch.zeros(120, dtype=torch.long)), -hard)
    after = before + 0.01 * torch.randn(120, 2, generator=generator)
    target = torch.zeros(120, dtype=torch.long)
    units = torch.arange(30).repeat_interleave(4)
    result = compare([before], [after], [target], [units])
    assert result.units == 30 and result.interval is not None
    assert result.interval[1] - result.interval[0] < 0.01
    assert compare([before], [before], [target], [units]).interval == (0.0, 0.0)
    assert compare([before], [after], [target]).interval is None  # a single unit


def test_scores_that_do_not_belong_together_are_an_error() -> None:
    with pytest.raises(ValueError, match="no targets"):
        compare([], [], [])
    with pytest.raises(ValueError, match="2 targets"):
        compare([torch.zeros(3, 4)], [torch.zeros(3, 4)], [torch.zeros(2, dtype=torch.long)])
    with pytest.raises(ValueError):
        compare([torch.zeros(1, 4)], [], [torch.zeros(1, dtype=torch.long)])


def test_cosines_of_broken_vectors_are_zero() -> None:
    before = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], np.float32)
    result = cosines_of(before, np.array([[2.0, 0.0], [0.0, 0.0], [np.nan, 1.0]], np.float32))
    assert (result.mean, result.worst, result.sentences) == (pytest.approx(1 / 3), 0.0, 3)


# times


def test_times_are_compared_in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that becomes slower slows both: the quotient stays. The order changes from pair to pair."""
    clock, order = [0.0], list[str]()
    monkeypatch.setattr(speed, "SHORTEST", 0.005)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])

    def call(name: str, seconds: float) -> Callable[[], None]:
        def work() -> None:
            order.append(name)
            clock[0] += seconds * (1 + len(order) // 8)

        return work

    timing = speed.alternate(call("a", 0.01), call("b", 0.02), 0.5)
    assert timing.ratio == pytest.approx(2.0, rel=0.2) and timing.slower
    assert speed.FEWEST <= timing.pairs <= speed.MOST
    assert "".join(order[4:]).replace("bb", "b").replace("aa", "a").startswith("abab")
    assert not speed.alternate(call("a", 0.01), call("b", 0.01), 0.5).slower


def test_a_short_call_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], [0]
    monkeypatch.setattr(speed, "SHORTEST", 0.005)
    monkeypatch.setattr(speed, "FEWEST", 7)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])

    def work() -> None:
        calls[0] += 1
        clock[0] += 0.001

    times = speed.series(work, 0.02)
    assert len(times) == speed.FEWEST and calls[0] == 2 + 5 * speed.FEWEST
    assert times == pytest.approx([0.001] * speed.FEWEST)


def test_long_calls_are_timed_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], [0]
    monkeypatch.setattr(speed, "SHORTEST", 0.005)
    monkeypatch.setattr(speed, "LEAST", 3)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])

    def work() -> None:
        calls[0] += 1
        clock[0] += 60

    assert speed.alternate(work, work, 10).pairs == 3 and calls[0] == 2 + 2 * 3


def test_times_of_models_apart() -> None:
    timing = speed.apart([1.0, 1.1, 1.2, 1.3, 9.0], [2.0, 2.2, 2.4, 2.6, 2.8])
    assert (timing.before, timing.after, timing.ratio) == (1.2, 2.4, 2.0) and timing.interval[1] > 2


# the text


def test_the_rows_of_a_run_are_those_of_its_validation(run: Path, tmp_path: Path) -> None:
    loaded, recipe = load_model(run), blankfill.load_recipe(run / "recipe.yaml")
    text, missing = text_of(loaded, run, [], 6, tmp_path)
    assert not missing and text.is_text and text.source == "the validation text of the run"
    corpus = open_corpus([run / "corpus"], recipe, run / "corpus", loaded.tokenizer)
    expected = validation_batches(phases(corpus, recipe)[-1].valid, 6, 6)
    ours = text.batches()
    assert torch.equal(torch.cat([batch.target_ids for batch, _ in ours]), torch.cat([b.target_ids for b in expected]))
    assert sorted({int(unit) for _, units in ours for unit in units}) == list(range(len(text.rows)))
    again, _ = text_of(loaded, run / "checkpoints" / "step-3", [], 6, tmp_path)
    assert again.sentences == text.sentences and text.sentences


def test_both_models_read_the_same_blanks(tmp_path: Path, held_out: Path) -> None:
    """The text is drawn once, from the original; a masked model has the same masks each time."""
    loaded = load_model(write_model(tmp_path / "model", "roberta"))
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made.append(text_of(loaded, tmp_path / "model", [held_out], 20, tmp_path / name)[0])
    for (first, _), (second, _) in zip(*(text.batches() for text in made), strict=True):
        assert torch.equal(first.input_ids, second.input_ids) and torch.equal(first.target_ids, second.target_ids)


def test_without_text_tokens_are_drawn_at_random(tmp_path: Path, times: Any) -> None:
    model = write_model(tmp_path / "model", "gpt2")
    quantize_model(model, tmp_path / "int4", plain(4))
    report = measure(model, tmp_path / "int4", QUICK)
    assert not any("perplexity" in part.name for part in report.measures)
    assert named(report, "KL divergence, mean").change > 0  # type: ignore[operator]
    assert "no validation text of its own; give text with text=FILE" in report.missing[0]
    assert report.text == "tokens drawn at random" and "drawn at random" in report.notes[0]
    assert not report.refused


# what is measured and refused


@pytest.mark.parametrize("family", ["gpt2", "glm", "roberta"])
def test_four_bits_of_a_tiny_model_are_refused_and_eight_pass(
    tmp_path: Path, held_out: Path, times: Any, family: str
) -> None:
    model = write_model(tmp_path / "model", family)
    options = GateOptions(text=(held_out,), gate_seconds=5, max_loss=0.02)
    reports = []
    for bits in (8, 4):
        quantize_model(model, tmp_path / f"int{bits}", plain(bits))
        reports.append(measure(model, tmp_path / f"int{bits}", options))
    name = "pseudo-perplexity" if family == "roberta" else "perplexity"
    losses = [named(report, name) for report in reports]
    assert abs(losses[0].change) < 0.02 < abs(losses[1].change)  # type: ignore[arg-type]
    assert losses[1].before == losses[0].before and reports[0].refused == ()
    assert all(report.bits == bits for report, bits in zip(reports, (8, 4), strict=True))
    kls = [named(report, "KL divergence, mean").change or 0.0 for report in reports]
    assert 0 < 10 * kls[0] < kls[1]
    assert named(reports[0], "same first token").change > named(reports[1], "same first token").change  # type: ignore[operator]
    if (losses[1].change or 0) > 0.02:
        assert any(sentence.startswith(f"{name}: +") and "bits=8" in sentence for sentence in reports[1].refused)
    timed = [part.name for part in reports[0].measures if part.unit == "ms"]
    assert ("writing a token, 1 row" in timed) == (family != "roberta")


def test_one_model_after_the_other_gives_the_same_figures(tmp_path: Path, held_out: Path) -> None:
    model = write_model(tmp_path / "model", "gpt2")
    quantize_model(model, tmp_path / "int4", plain(4))
    results = []
    for together in (True, False):
        with Pair(model, tmp_path / "int4", together=together) as pair:
            text, _ = pair.of_original(lambda opened: text_of(opened.loaded, model, [held_out], 30, tmp_path / "w"))
            results.append(language(pair, text.batches(), 60))
    assert results[0].targets == results[1].targets and results[0].same_top == results[1].same_top
    assert results[1].loss == pytest.approx(results[0].loss, abs=1e-3)
    assert results[1].kl == pytest.approx(results[0].kl, rel=1e-2)


def test_models_that_do_not_fit_together_are_measured_apart(
    tmp_path: Path, held_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "model", "roberta")
    quantize_model(model, tmp_path / "int8", plain(8))
    monkeypatch.setattr("blankfill.quantizing.measures.pair.usable_memory", lambda: 1 << 20)
    report = measure(model, tmp_path / "int8", GateOptions(text=(held_out,), gate_seconds=0.05))
    assert "one after the other" in report.notes[0]
    assert named(report, "pseudo-perplexity").change is not None and named(report, "reading 32").interval is not None


def test_a_slower_model_is_refused_only_if_the_interval_says_so(
    tmp_path: Path, held_out: Path, times: Callable[[speed.Timing], None]
) -> None:
    model = write_model(tmp_path / "model", "roberta")
    quantize_model(model, tmp_path / "int8", plain(8))
    options = GateOptions(text=(held_out,), gate_seconds=0.05, max_loss=9)
    assert measure(model, tmp_path / "int8", options).refused == ()
    times(UNSURE)
    assert measure(model, tmp_path / "int8", options).refused == ()
    times(SLOW)
    (sentence,) = measure(model, tmp_path / "int8", options).refused  # 32 sentences decide, and 1 does not
    assert "slower: reading 32 sentences takes 2,000 ms and took 1,000 (×2.00 [1.80, 2.20])" in sentence
    assert "try dtype=bf16; force=True keeps it" in sentence


def test_an_encoder_without_a_head_is_judged_by_its_vectors(tmp_path: Path, held_out: Path, times: Any) -> None:
    model = write_model(tmp_path / "model", "bert", lm_head=False, head_transform=False, head_bias=False)
    quantize_model(model, tmp_path / "int8", plain(8))
    options = GateOptions(text=(held_out,), gate_seconds=1)
    report = measure(model, tmp_path / "int8", options)
    cosine = named(report, "cosine of vectors, mean")
    assert cosine.limit == 0.999 and cosine.passed and 0.999 <= (cosine.change or 0) < 1
    assert not any("perplexity" in part.name for part in report.measures)
    strict = measure(model, tmp_path / "int8", GateOptions(text=(held_out,), gate_seconds=1, min_cosine=1.0))
    assert len(strict.refused) == 1 and "and at least 1 is allowed" in strict.refused[0]
    drawn = measure(model, tmp_path / "int8", GateOptions(gate_seconds=0.1, min_cosine=1.0))
    assert drawn.text == "tokens drawn at random" and drawn.refused == (drawn.refused[0],)


def test_a_discriminator_is_judged_by_its_vectors_too(tmp_path: Path, held_out: Path, times: Any) -> None:
    """The loss of ELECTRA is that of its generator; what is used is the discriminator."""
    model = write_model(tmp_path / "model", "electra")
    quantize_model(model, tmp_path / "int4", plain(4))
    report = measure(model, tmp_path / "int4", GateOptions(text=(held_out,), gate_seconds=0.05, min_cosine=0.99999))
    vectors = named(report, "cosine of vectors, mean")
    assert vectors.limit == 0.99999 and not vectors.passed and named(report, "pseudo-perplexity").limit == 0.03
    assert any("cosine" in sentence for sentence in report.refused)


def test_a_text_without_phrases_is_measured_by_words(tmp_path: Path, held_out: Path, times: Any) -> None:
    """ERNIE finds phrases in Chinese alone, or by a list."""
    model = write_model(tmp_path / "model", "ernie")
    quantize_model(model, tmp_path / "int8", plain(8))
    report = measure(model, tmp_path / "int8", GateOptions(text=(held_out,), gate_seconds=0.05))
    assert not report.missing and named(report, "pseudo-perplexity").change is not None


def test_a_loss_that_is_not_finite_is_refused() -> None:
    part = Measure("perplexity", "", 9.0, math.inf, math.nan, None, 0.01, math.nan <= 0.01)
    (sentence,) = refusals(GateReport(8, "", (part,)))
    assert "+nan%" in sentence and "1.00% at most" in sentence


def test_what_may_help_is_what_was_not_done() -> None:
    def helps(method: str = "nearest", **formats: WeightFormat) -> list[str]:
        return remedies(Quantization(formats, method))

    assert helps(a=WeightFormat(4)) == ["method=gptq", "group_size=32", "bits=8"]
    assert helps("gptq", a=WeightFormat(4, 32), b=WeightFormat(8)) == ["bits=8"]
    assert helps(a=WeightFormat(8)) == ["group_size=64"]
    assert helps(a=WeightFormat(8, 64), token_embeddings=WeightFormat(8, 32)) == ["embeddings=keep"]
    part = Measure("perplexity", "", 9.0, 10.0, 0.1, None, 0.01, False)
    for tried, words in (((), "allowed; max_loss changes"), (("bits=8",), "allowed; try bits=8; max_loss")):
        assert words in refusals(GateReport(4, "", (part,), remedies=tried))[0]
    three = ("method=gptq", "group_size=32", "bits=8")
    assert "try method=gptq, group_size=32 or bits=8; " in refusals(GateReport(4, "", (part,), remedies=three))[0]


def test_the_command_refuses_and_writes_nothing(
    tmp_path: Path, held_out: Path, times: Callable[[speed.Timing], None], capsys: Any
) -> None:
    model = write_model(tmp_path / "model", "gpt2")
    times(SLOW)
    command = ["quantize", "--model", str(model), "--out", str(tmp_path / "new" / "int8"), "--text", str(held_out),
               "--gate-seconds", "0.05"]  # fmt: skip
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert "not slower: refused" in out and "is refused and was not written" in out
    assert "the quantised model is slower" in err and "--force" in err and "--dtype bf16" in err
    assert list((tmp_path / "new").iterdir()) == []
    assert main([*command, "--json"]) == 2
    values = json.loads(capsys.readouterr().out)
    assert values["folder"] is None and len(values["gate"]["refused"]) >= 1
    assert main([*command, "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "the quantised model is slower" in err
    assert main([*command, "--force"]) == 0
    out, _ = capsys.readouterr()
    assert "kept although it would be refused" in out and f"the model is in {tmp_path / 'new' / 'int8'}" in out
    noted = json.loads((tmp_path / "new" / "int8" / "quantization.json").read_text(encoding="utf-8"))["gate"]
    assert noted["forced"] and noted["refused"] and noted["measures"][0]["name"] == "size"
    store.read_state(tmp_path / "new" / "int8")
    store.read(tmp_path / "new" / "int8", with_optimizer=False)  # the checksums are those of the files
    assert load_model(tmp_path / "new" / "int8").quantization is not None


def test_a_model_that_passes_is_in_its_place(run: Path, tmp_path: Path, times: Any, capsys: Any) -> None:
    command = ["quantize", "--model", str(run), "--out", str(tmp_path / "int8"), "--gate-seconds", "0.5"]
    assert main([*command, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["folder"] == str(tmp_path / "int8") and values["gate"]["refused"] == []
    assert values["gate"]["text"] == "the validation text of the run" and (tmp_path / "int8" / store.STATE).is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--text", "nowhere.txt"], "--text nowhere.txt: there is no such file or folder"),
        (["--data", "rows"], "--data rows: there is no such file or folder"),
        (["--data", "."], "--data goes with a fine-tuned model; give text with --text"),
        (["--max-loss", "-1"], "--max-loss is -1"),
        (["--gate-seconds", "0"], "--gate-seconds is 0"),
    ],
)
def test_bad_options_leave_nothing_behind(tmp_path: Path, arguments: list[str], words: str, capsys: Any) -> None:
    model = write_model(tmp_path / "model", "bert")
    assert main(["quantize", "--model", str(model), "--out", str(tmp_path / "out"), *arguments]) == 2
    message = capsys.readouterr().err
    assert words in message and "measuring" not in message  # known before the model is quantised
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_text_of_an_unknown_script_asks_for_other_text(tmp_path: Path, capsys: Any) -> None:
    model, text = write_model(tmp_path / "model", "bert"), tmp_path / "khmer.txt"
    text.write_text("ប្រទេស កម្ពុជា មាន ព្រំ\n" * 100, encoding="utf-8")
    assert main(["quantize", "--model", str(model), "--out", str(tmp_path / "out"), "--text", str(text)]) == 2
    message = capsys.readouterr().err
    assert "text in Khmer script" in message and message.endswith("; or give other text with --text\n")
    assert "--allow-unknown" not in message  # no option of this command
    assert not (tmp_path / "out").exists()


def test_what_is_not_quantised_is_no_second_model(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "bert")
    with pytest.raises(UserError, match="is not quantised"):
        measure(model, model, QUICK)


def test_the_table_has_a_cell_for_each_column() -> None:
    parts: Sequence[Measure] = (
        Measure("size", "bytes", 4e6, 1e6, -0.75),
        Measure("perplexity", "", 88.25, 89.5, 0.0142, (0.012, 0.016), 0.01, False),
        Measure("accuracy of sst2", "share", 0.91, 0.9, -0.01, (-0.02, 0.0), 0.03),
        Measure("cosine of vectors, mean", change=0.99951, limit=0.999),
        Measure("writing a token, 1 row", "ms", 2.72, 8.53, 2.14, (1.69, 2.54), 0.0, False),
        Measure("reading 32 sentences", "ms", 99.4, 1704.6, 16.15, (16.0, 17.0)),
    )
    assert table_rows(GateReport(8, "", tuple(parts))) == [
        ("size", "4 MB", "1 MB", "-75.00%", ""),
        ("perplexity", "88.2500", "89.5000", "+1.42% [+1.20%, +1.60%]", "1.00%: refused"),
        ("accuracy of sst2", "0.9100", "0.9000", "-0.0100 [-0.0200, +0.0000]", "-0.03"),
        ("cosine of vectors, mean", "", "", "0.99951", "≥ 0.999"),
        ("ms, writing a token, 1 row", "2.72", "8.53", "×3.14 [2.69, 3.54]", "not slower: refused"),
        ("ms, reading 32 sentences", "99.4", "1,705", "×17.15 [17.00, 18.00]", ""),
    ]


# fine-tuned models


def test_a_tuned_model_is_judged_by_its_task(
    tmp_path: Path, times: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    boats(tmp_path / "rows", 24)
    model, tuned = write_model(tmp_path / "model", "bert"), tmp_path / "tuned"
    tiny = ["--epochs", "4", "--batch-size", "4", "--max-length", "16", "--lr", "3e-3", "-q"]
    data = ["--task", "classify", "--data", str(tmp_path / "rows")]
    assert main(["finetune", *data, "--from", str(model), "--out", str(tuned), *tiny]) == 0
    quantize_model(tuned, tmp_path / "int8", plain(8))
    report = measure(tuned, tmp_path / "int8", QUICK)
    accuracy = named(report, "accuracy of classify")
    assert accuracy.before == accuracy.after == 1.0 and accuracy.limit == 0.01 and not report.refused
    assert report.counts["items"] == 24 and named(report, "same prediction").change == 1.0
    assert report.measures[-1].name == "predicting 32 items"

    with pytest.raises(UserError, match="text goes with a pretrained model"):
        measure(tuned, tmp_path / "int8", GateOptions(text=(tmp_path / "rows" / "dev.tsv",)))
    (tmp_path / "rows").rename(tmp_path / "moved")
    missing = measure(tuned, tmp_path / "int8", QUICK)
    assert "what the task loses, and times" in missing.missing[0] and len(missing.measures) == 1
    given = measure(tuned, tmp_path / "int8", GateOptions(data=tmp_path / "moved" / "dev.tsv", gate_seconds=0.05))
    assert named(given, "accuracy").before == accuracy.before
    monkeypatch.setattr("blankfill.quantizing.measures.pair.usable_memory", lambda: 1 << 20)
    apart = measure(tuned, tmp_path / "int8", GateOptions(data=tmp_path / "moved" / "dev.tsv", gate_seconds=0.05))
    assert named(apart, "accuracy").change == 0.0

    exchange_labels(tmp_path / "int8")
    worse = measure(tuned, tmp_path / "int8", GateOptions(data=tmp_path / "moved" / "dev.tsv", gate_seconds=0.05))
    assert any(sentence.startswith("accuracy of classify: -1.0000") for sentence in worse.refused)


def exchange_labels(folder: Path) -> None:
    """Exchange the two labels of a quantised classifier's head."""
    checkpoint = store.read(folder, with_optimizer=False)
    weights = {name: tensor.clone() for name, tensor in checkpoint.model.items()}
    for name in ("head.output.weight", "head.output.bias"):
        weights[name] = weights[name].flip(0)
    state = {key: value for key, value in checkpoint.state.items() if key not in ("sha256", store.OWN_SUM)}
    writer = store.FolderWriter(folder)
    writer.write(store.MODEL, weights)
    writer.finish(state)
