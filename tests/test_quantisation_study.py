"""The study of quantised models: its models are equally large and predict the same, rounding is that of the layers, its
runs can be interrupted, and its page has every run."""

import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from blankfill.kernels.integers import WeightFormat, quantize
from blankfill.model.quantized import QuantizedDense, make_quantized
from blankfill.model.transformer import Transformer, build
from blankfill.training.loss import loss_sums
from page_commands import ROOT
from study_texts import page_script, script, write_texts

WIDTH = 96
SETTINGS = {
    "norm": "deepnorm", "width": WIDTH, "seed": 0, "rate": 2e-3, "table_rate": 16.0, "depth": 1, "rows": 2,
    "length": 24, "steps": 6, "passages": 12, "vocabulary": 200,
}  # fmt: skip


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return script("quantised_models")


@pytest.fixture(scope="module")
def texts(bench: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("texts")
    write_texts(folder)
    made = tmp_path_factory.mktemp("corpus")
    return {name: bench.texts_of(name, SETTINGS, [str(folder)], made) for name in ("glm-130b", "gpt")}


def model_of(bench: ModuleType, texts: dict[str, Any], name: str, norm: str = "deepnorm") -> Transformer:
    family, objective = bench.MODELS[name]
    config = bench.model_config(texts[objective], norm, WIDTH, 1, bench.HEAD, family)
    return build(config, 0, torch.device("cpu"))


def questions_of(bench: ModuleType, texts: dict[str, Any], objective: str) -> Any:
    return bench.Questions(texts[objective], SETTINGS["passages"])


def test_all_models_have_as_many_weights_in_their_matrices(bench: ModuleType, texts: dict[str, Any]) -> None:
    for norm in bench.NORMS:
        for name in bench.MODELS:
            model = model_of(bench, texts, name, norm)
            layers = bench.matrices(model)
            assert [layer for layer, _ in layers] == [f"layers.0.{kind}" for kind in bench.KINDS]
            assert sum(layer.weight.numel() for _, layer in layers) == 12 * WIDTH**2
            assert model.config.tied and model.config.dropout == 0
            assert model.config.norm == ("pre" if norm == "pre" else "post")
            assert model.config.alpha == pytest.approx(1.0 if norm == "pre" else math.sqrt(2))


def test_all_models_predict_the_same_tokens_behind_the_same_text(bench: ModuleType, texts: dict[str, Any]) -> None:
    glm_questions, gpt_questions = (questions_of(bench, texts, name) for name in ("glm-130b", "gpt"))
    (glm,), (gpt,) = glm_questions.batches, gpt_questions.batches
    assert glm_questions.sizes == gpt_questions.sizes and glm_questions.unigram == gpt_questions.unigram
    assert glm.target_ids.tolist() == gpt.target_ids.tolist() and len(glm.target_ids) == 12 * bench.TARGETS
    roles, tokens, answers = texts["glm-130b"].vocabulary.roles, SETTINGS["length"] - 2, glm.target_ids.view(12, -1)
    context = tokens - bench.TARGETS
    assert glm.input_ids[:, :context].tolist() == gpt.input_ids[:, :context].tolist()
    assert glm.input_ids[:, context : context + 2].tolist() == [[roles["gmask"], roles["sop"]]] * 12
    assert glm.input_ids[:, context + 2 : tokens + 1].tolist() == answers[:, :-1].tolist()
    assert gpt.input_ids[:, context : tokens - 1].tolist() == answers[:, :-1].tolist()


def test_passages_lie_in_a_document_and_end_in_a_word(bench: ModuleType, texts: dict[str, Any]) -> None:
    held, tokenizer = texts["gpt"].corpus.valid, texts["gpt"].corpus.tokenizer
    passages, sizes = bench.passages_of(texts["gpt"], 22, 12)
    documents = [tokenizer.decode(held.tokens[begin:end].tolist()) for begin, end in zip(*bounds(held), strict=True)]
    assert len(passages) == 12 and all(len(ids) == 22 for ids in passages)
    for ids, size in zip(passages, sizes, strict=True):
        assert any(tokenizer.decode(ids.tolist()[1:]) in document for document in documents)
        word = tokenizer.decode(ids.tolist()[-size:])
        assert word.isalpha() and any(re.search(rf"\b{word}\b", document) for document in documents)
        assert texts["gpt"].vocabulary.word_start[ids[-size]]


def bounds(corpus: Any) -> tuple[Any, Any]:
    """Where the documents of a corpus begin and end, in tokens."""
    begins = np.asarray(corpus.sentence_starts)[np.asarray(corpus.document_starts)[:-1]]
    return begins, np.append(begins[1:], len(corpus.tokens))


def test_too_many_passages_are_refused(bench: ModuleType, texts: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match=r"has \d+ places for a passage; give more text, or ask for fewer"):
        bench.passages_of(texts["gpt"], 22, 10_000)


@pytest.mark.parametrize("name", ["absmax INT8, row", "absmax INT4, groups", "zero-point INT4, row"])
def test_rounded_weights_give_what_quantised_layers_compute(
    bench: ModuleType, texts: dict[str, Any], name: str
) -> None:
    model, (batch,) = model_of(bench, texts, "glm"), questions_of(bench, texts, "glm-130b").batches
    before = bench.answers(model, batch)
    with bench.rounded(model, bench.ROUNDINGS[name]):
        made = bench.answers(model, batch)
    assert bench.answers(model, batch).tolist() == before.tolist()  # the original weights are back
    layers, format = dict(bench.matrices(model)), bench.ROUNDINGS[name].format
    make_quantized(model, dict.fromkeys(layers, format))
    for layer, original in layers.items():
        module = model.get_submodule(layer)
        assert isinstance(module, QuantizedDense) and original.bias is not None
        module.load_state_dict({**quantize(original.weight.detach(), format).tensors(), "bias": original.bias})
    assert (made - before).abs().max() > 1e-5
    torch.testing.assert_close(bench.answers(model, batch), made, rtol=1e-5, atol=1e-5)


def test_columns_are_the_rows_of_the_transposed_matrix(bench: ModuleType) -> None:
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    weight[:, 1] = 100.0
    by_columns, by_rows = bench.ROUNDINGS["absmax INT4, column"], bench.ROUNDINGS["absmax INT4, row"]
    assert by_columns(weight).tolist() == by_rows(weight.T.contiguous()).T.tolist()
    small = by_columns(weight)[:, [0, 2, 3]]
    assert (small - weight[:, [0, 2, 3]]).norm() < 0.1 * weight[:, [0, 2, 3]].norm()
    assert (by_rows(weight)[:, [0, 2, 3]] == 0).all()  # one large weight takes all steps of its row


def test_one_kind_of_matrix_is_rounded_alone(bench: ModuleType, texts: dict[str, Any]) -> None:
    model = model_of(bench, texts, "gpt")
    before = {name: layer.weight.detach().clone() for name, layer in bench.matrices(model)}
    with bench.rounded(model, bench.ROUNDINGS["absmax INT4, row"], ["ffn.output"]):
        changed = [name for name, layer in bench.matrices(model) if not torch.equal(layer.weight, before[name])]
    assert changed == ["layers.0.ffn.output"]
    with pytest.raises(RuntimeError, match="stopped"), bench.rounded(model, bench.ROUNDINGS["absmax INT4, row"]):
        raise RuntimeError("stopped")
    assert all(torch.equal(layer.weight, before[name]) for name, layer in bench.matrices(model))


def test_answers_have_the_loss_of_training(bench: ModuleType, texts: dict[str, Any]) -> None:
    for name, objective in (("glm", "glm-130b"), ("gpt", "gpt")):
        model, questions = model_of(bench, texts, name), questions_of(bench, texts, objective)
        originals = [bench.answers(model, batch) for batch in questions.batches]
        made = bench.ask(model, questions, originals)
        (batch,) = questions.batches
        assert made.nats.sum() == pytest.approx(float(loss_sums(model.eval(), batch)["lm"].detach()), rel=1e-5)
        assert made.nats.shape == (12, bench.TARGETS) and np.abs(made.kl).max() < 1e-6
        # a model that is sure of the right tokens is right everywhere; of all but the last one, nowhere
        sure = [torch.full_like(original, -30.0).scatter_(1, batch.target_ids[:, None], 0.0) for original in originals]
        assert bench.ask(_Fixed(bench, sure), questions, originals).right.all()
        sure[0][bench.TARGETS - 1 :: bench.TARGETS].neg_()
        assert not bench.ask(_Fixed(bench, sure), questions, originals).right.any()


class _Fixed:
    """Stands for a model whose answers are given."""

    def __init__(self, bench: ModuleType, given: list[torch.Tensor]) -> None:
        self.bench, self.given = bench, given

    def eval(self) -> None:
        """Do nothing."""

    def __call__(self, batch: Any, dtype: Any, read: Any) -> None:
        def lm_head(hidden: torch.Tensor, table: object) -> torch.Tensor:
            return self.given[0]

        self.lm_head, self.output_table = lm_head, None
        read(self, torch.zeros(int(batch.target_index.max()) + 1, 1))


def test_statistics_of_weights_and_activations(bench: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(64, 4096, generator=generator)
    x = torch.randn(50, 4096, generator=generator)
    facts = bench.of_weights(normal, x)
    assert facts["kurtosis"] == pytest.approx(3.0, abs=0.05) and facts["skewness"] < 0.1
    assert 3.3 < facts["peak"] < 4.2
    step = normal.abs().amax(1, True) / 7
    assert facts["error"] == pytest.approx(float((step**2 / 12).mean().sqrt()), rel=0.02)
    assert facts["output"] == pytest.approx(facts["error"], rel=0.05)
    spiked = normal.clone()
    spiked[:, 0] = 40.0
    wide = bench.of_weights(spiked, x)
    assert wide["peak"] > 30 and wide["kurtosis"] > 100 and wide["skewness"] > 5
    assert wide["error"] > 5 * facts["error"]
    x[3, 7], x[4, 9] = 50.0, -60.0
    active = bench.of_activations(x)
    assert active["outliers"] == 2 / 4096
    assert active["activation"] == pytest.approx(60 / float(x.square().mean().sqrt()))


def test_finished_runs_are_not_repeated(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts").mkdir()
    write_texts(tmp_path / "texts")
    runs, record = tmp_path / "runs.jsonl", tmp_path / "record" / "record.json"
    sizes = "--widths 96 --depth 1 --norms pre --steps 4 --rows 2 --length 24 --vocabulary 200 --passages 12"
    argv = ["quantised_models.py", str(tmp_path / "texts"), "--runs", str(runs), *sizes.split(), "--seeds"]
    monkeypatch.setattr("sys.argv", [*argv, "0"])
    bench.main()
    assert "0 of 2 runs are finished" in capsys.readouterr().out
    first = runs.read_text(encoding="utf-8")
    runs.write_text(first + first[:50], encoding="utf-8")  # as an interruption leaves it
    monkeypatch.setattr("sys.argv", [*argv, "0", "1", "--models", "gpt"])
    bench.main()
    out = capsys.readouterr().out
    assert "a line is damaged and left out" in out and "1 of 2 runs are finished" in out
    held = [json.loads(line) for line in runs.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    assert [(run["settings"]["model"], run["settings"]["seed"]) for run in held] == [("glm", 0), ("gpt", 0), ("gpt", 1)]
    for run in held:
        assert run["weights"] == 12 * WIDTH**2 and run["loss"][1] < run["loss"][0] < run["loss"][2]
        assert set(run["roundings"]) == set(bench.ROUNDINGS) and set(run["kinds"]) == set(bench.KINDS)
        assert run["roundings"]["absmax INT8, row"]["kl"] < run["roundings"]["absmax INT4, row"]["kl"]
    study = page_script("quantisation_study")
    study.record([runs], record)
    made = json.loads(record.read_text(encoding="utf-8"))
    assert [(cell["model"], cell["seeds"]) for cell in made["cells"]] == [("glm", [0]), ("gpt", [0, 1])]
    assert made["cells"][1]["loss"] == [run["loss"] for run in held[1:]]


def test_the_page_has_every_run_of_the_record(tmp_path: Path) -> None:
    study = page_script("quantisation_study")
    study.make(tmp_path)
    held = json.loads(study.RECORD.read_text(encoding="utf-8"))
    for name in ("quantisation-loss.md", "quantisation-divergence.md", "quantisation-accuracy.md"):
        lines = (tmp_path / name).read_text(encoding="utf-8").splitlines()[2:]
        assert len(lines) == len(held["cells"])
        assert sum(int(line.split("|")[4]) for line in lines) == sum(len(cell["seeds"]) for cell in held["cells"])
    kinds = (tmp_path / "quantisation-kinds.md").read_text(encoding="utf-8").splitlines()[2:]
    widest = max(cell["width"] for cell in held["cells"])
    assert len(kinds) == len(study.MATRICES) * sum(cell["width"] == widest for cell in held["cells"])
    page = (ROOT / "docs" / "quantisation-study.md").read_text(encoding="utf-8")
    made = list(tmp_path.iterdir())
    assert len(made) == 5 and all(path.name in page for path in made)
    assert len(list(ET.parse(tmp_path / "quantisation-training.svg").getroot().iter())) > 20


def test_the_roundings_of_the_table_of_the_paper(bench: ModuleType) -> None:
    assert bench.ROUNDINGS["absmax INT8, row"].format == WeightFormat(8)
    formats = [rounding.format for name, rounding in bench.ROUNDINGS.items() if "INT4" in name]
    assert {(format.bits, format.scheme, format.group_size) for format in formats} == {
        (4, scheme, group) for scheme in ("absmax", "zero-point") for group in (0, bench.GROUP)
    }
