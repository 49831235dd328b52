"""Damaged files of every kind of folder: what opens it says one sentence or works, and never hangs.

Damaged files for readers never stop a run: it continues, and the damaged file stays beside the new one.
"""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from blankfill.checkpoint import store
from blankfill.checkpoint.load import load_model
from blankfill.config.recipe import load_recipe
from blankfill.corpus.prepare import prepare
from blankfill.corpus.summary import CorpusReport
from blankfill.errors import UserError
from blankfill.finetuning.config import FinetuneConfig, read_config
from blankfill.finetuning.importing import import_model
from blankfill.finetuning.predictor import open_predictor
from blankfill.finetuning.run import finetune
from blankfill.pretraining.run import pretrain, resume
from blankfill.report.page import write_page
from damage import damaged, replaced
from small_run import SMALL, texts_in

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no named pipes there")

INFORMING = (
    "metrics.jsonl",
    "samples.jsonl",
    "events.jsonl",
    "run.json",
    "machine.json",
    "report.html",
    "corpus/corpus.json",
)
PATIENCE = 20
"""Seconds that one opening may take."""
Opener = Callable[[Path], object]


class Late(BaseException):
    """Out of time; no Exception, so that nothing takes it for one of its own."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining run of two steps."""
    folder = tmp_path_factory.mktemp("damage")
    (folder / "texts").mkdir()
    texts = texts_in(folder / "texts", 4)
    small = {**SMALL, "train.steps": 2, "train.eval_every": 2, "train.precision": "fp32", "train.threads": 1}
    pretrain([texts], load_recipe("bert-nano", small), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def tuned(trained: Path) -> Path:
    """A fine-tuning run of a few steps."""
    folder = trained.parent
    rows = [{"text": f"the boat {k}", "label": "good"} for k in range(8)]
    rows += [{"text": f"a lantern {k}", "label": "poor"} for k in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = read_options({"epochs": 1.0, "batch_size": 4, "threads": 1, "precision": "fp32", "max_length": 16})
    finetune(FinetuneConfig("classify", folder / "rows.jsonl", trained, options), folder / "tuned")
    return folder / "tuned"


@pytest.fixture(scope="module")
def foreign(trained: Path) -> Path:
    """The same model as a folder of transformers, beside it the original GLM code's kind of file."""
    loaded = load_model(trained)
    folder = trained.parent / "foreign"
    shutil.copytree(loaded.path, folder)
    for name in (store.STATE, store.OPTIMIZER, "tokenizer_config.json"):
        (folder / name).unlink()
    return folder


def read_options(changes: dict[str, Any]) -> Any:
    from blankfill.tasks.options import FinetuneOptions

    return dataclasses.replace(FinetuneOptions(), **changes)


@contextmanager
def in_time() -> Iterator[None]:
    """Raise Late when the block takes long, also when it waits for a pipe."""

    def late(number: int, frame: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def told(opener: Opener, folder: Path) -> str | None:
    """What is wrong with how a folder was opened: None when it worked or said one sentence."""
    try:
        with in_time():
            opener(folder)
    except UserError as error:
        return None if str(error).strip() and "weights_only" not in str(error) else f"says {error}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error}"
    return None


def forms_of(whole: Path, name: str, work: Path) -> Iterator[tuple[str, Path]]:
    """(what is wrong, the folder) with one file damaged in every way, or replaced by something else."""
    forms: list[tuple[str, bytes]] = list(damaged(whole / name))
    if name.endswith(store.STATE):  # also as version 0.1 wrote it, without a checksum of itself
        forms += [(f"{what}, no checksum", without_sum(data)) for what, data in forms if data[:1] == b"{"]
    for what, data in forms:
        fresh(whole, work)
        (work / name).write_bytes(data)
        yield what, work
    fresh(whole, work)
    for what in replaced(work / name):
        yield what, work
    yield "gone", work


def without_sum(data: bytes) -> bytes:
    try:
        values = json.loads(data)
    except ValueError:
        return data
    values.pop(store.OWN_SUM, None)
    return json.dumps(values).encode()


def fresh(whole: Path, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(whole, work, symlinks=True)


def faults(whole: Path, names: list[str], openers: dict[str, Opener], work: Path, all_work: bool = False) -> list[str]:
    problems = []
    for name in names:
        for what, folder in forms_of(whole, name, work):
            for way, opener in openers.items():
                if fault := told(opener, folder):
                    problems.append(f"{name}, {what}: {way}: {fault}")
    return problems


def predicted(folder: Path) -> None:
    from blankfill.finetuning.rows import items_of

    predictor = open_predictor(folder, "cpu", 1)
    predictor.predict(list(items_of(predictor.task, iter([("line 1", "the boat")]))))


def test_a_pretraining_run(trained: Path, tmp_path: Path) -> None:
    step = "checkpoints/step-2"
    names = ["recipe.yaml", "corpus_path.txt", "tokenizer.json", "inputs.json", "machine.json", "report.html"]
    names += [f"{step}/{name}" for name in (store.STATE, store.MODEL, store.OPTIMIZER)]
    openers: dict[str, Opener] = {"fill": load_model, "report": write_page}
    assert not faults(trained, [name for name in names if (trained / name).exists()], openers, tmp_path / "run")


def test_resuming_a_pretraining_run(trained: Path, tmp_path: Path) -> None:
    """Fewer forms, since each is a run."""
    problems = []
    for name in (
        "recipe.yaml",
        "corpus_path.txt",
        f"checkpoints/step-2/{store.STATE}",
        "inputs.json",
        "tokenizer.json",
    ):
        for what, folder in list_some(forms_of(trained, name, tmp_path / "run"), 40):
            if fault := told(resume, folder):
                problems.append(f"{name}, {what}: {fault}")
    assert not problems


def list_some(forms: Iterator[tuple[str, Path]], every: int) -> Iterator[tuple[str, Path]]:
    """Every `every`-th kind of damage, and all kinds that leave no file."""
    for k, (what, folder) in enumerate(forms):
        if k % every == 0 or what in ("a pipe", "a link to a device"):
            yield what, folder


@pytest.mark.parametrize("name", INFORMING)
def test_files_that_inform_stop_no_resume(trained: Path, tmp_path: Path, name: str) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(trained, whole)
    for what, folder in list_some(forms_of(whole, name, tmp_path / "run"), 20 if "corpus" in name else 7):
        if what == "gone" and "corpus" in name:
            continue  # which is what makes a folder a corpus
        if what.startswith("a link"):  # to which nothing is written, wherever it leads
            assert told(resume, folder) is None
            continue
        with in_time():
            result = resume(folder)
        assert result.steps == 2, what


def test_the_pointers_of_a_run_lead_nowhere_else(trained: Path, tuned: Path, tmp_path: Path) -> None:
    for whole, opener in ((trained, lambda run: load_model(run / "best")), (tuned, open_predictor)):
        assert not faults(whole, ["best"], {"best": opener}, tmp_path / "run")
        fresh(whole, tmp_path / "run")
        for path in ("../..", "/etc", "step-2/../../x", "..", "a\\b"):
            (tmp_path / "run" / "best").write_text(path + "\n", encoding="utf-8")
            with pytest.raises(UserError, match="plain name of a folder"):
                opener(tmp_path / "run")


def test_a_fine_tuned_run(tuned: Path, tmp_path: Path) -> None:
    state = store.named_by(tuned / "best") / store.STATE
    names = ["finetune.json", "results.json", "predictions.jsonl", "tokenizer.json", "inputs.json"]
    names += [str(state.relative_to(tuned)), str(state.with_name(store.MODEL).relative_to(tuned))]
    openers: dict[str, Opener] = {"predict": predicted, "report": write_page, "resume": read_config}
    assert not faults(tuned, names, openers, tmp_path / "run")


def test_a_prepared_corpus(trained: Path, tmp_path: Path) -> None:
    """Opened for rows, and by `prepare` itself."""
    recipe = load_recipe("bert-nano", {**SMALL, "train.threads": 1})

    def opened(folder: Path) -> None:
        from blankfill.pretraining.data_setup import open_corpus, phases

        corpus = open_corpus([folder], recipe, tmp_path / "none")
        phases(corpus, recipe)[0].new.row(0)

    names = ["corpus.json", "unigram.npy", "train.idx", "train.bin", "valid.idx", "tokenizer.json"]
    openers: dict[str, Opener] = {"rows": opened, "report": CorpusReport.read}
    assert not faults(trained / "corpus", names, openers, tmp_path / "corpus")


def test_counts_that_are_none_are_refused_without_marks(trained: Path, tmp_path: Path) -> None:
    """A corpus of an older version, whose report does not say what its files were."""
    from blankfill.pretraining.data_setup import counts_of

    path = tmp_path / "unigram.npy"
    arrays: list[Any] = [np.zeros(3, np.int64), np.array([1, -1]), np.ones(4), np.ones((2, 2), np.int64),
                         np.array(3), np.array([{}], object)]  # fmt: skip
    for array in arrays:
        np.save(path, array, allow_pickle=True)
        with pytest.raises(UserError, match=r"unigram\.npy"):
            counts_of(path)
    with open(path, "wb") as file:  # a header that says more than the file has
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (10**12,)})
    with pytest.raises(UserError, match=r"unigram\.npy is not a whole array file"):
        counts_of(path)
    np.savez(path.with_suffix(".npz"), a=np.ones(3))
    path.with_suffix(".npz").rename(path)
    with pytest.raises(UserError, match=r"unigram\.npy"):
        counts_of(path)


def test_a_folder_of_another_program(foreign: Path, tmp_path: Path) -> None:
    openers: dict[str, Opener] = {"fill": load_model}
    assert not faults(foreign, ["config.json", "tokenizer.json", store.MODEL], openers, tmp_path / "model")
    old = tmp_path / "old"
    shutil.copytree(foreign, old)
    (old / store.MODEL).unlink()
    torch.save(load_file(foreign / store.MODEL), old / "pytorch_model.bin")
    (old / "tokenizer_config.json").write_text('{"mask_token": "[MASK]", "do_lower_case": true}', encoding="utf-8")
    assert not faults(old, ["pytorch_model.bin", "tokenizer_config.json"], openers, tmp_path / "model")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(foreign: Path, tmp_path: Path, value: float) -> None:
    fresh(foreign, tmp_path / "model")
    tensors = load_file(foreign / store.MODEL)
    name = next(name for name in tensors if name.endswith("LayerNorm.weight"))
    tensors[name][3] = value
    save_file(tensors, tmp_path / "model" / store.MODEL)
    with pytest.raises(UserError, match=f"'{name}' holds values that are not finite"):
        import_model(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 1e30), ("hidden_size", 10**30), ("hidden_size", 2**62), ("num_hidden_layers", 10**9),
        ("num_attention_heads", 0), ("vocab_size", 10**12), ("hidden_dropout_prob", None),
        ("initializer_range", "x"), ("initializer_range", -1), ("layer_norm_eps", [1]), ("hidden_act", {}),
        ("tie_word_embeddings", "yes"), ("model_type", []), ("hidden_dropout_prob", 10**400),
    ],
)  # fmt: skip
def test_odd_values_of_a_config_are_refused(foreign: Path, tmp_path: Path, key: str, value: Any) -> None:
    fresh(foreign, tmp_path / "model")
    values = json.loads((foreign / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "model" / "config.json").write_text(json.dumps({**values, key: value}), encoding="utf-8")
    with in_time(), pytest.raises(UserError, match="init_std" if value == -1 else key):
        load_model(tmp_path / "model")


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "step-2/state.json", "step-2/model.safetensors"])
def test_files_that_may_not_be_read_are_told(
    trained: Path, foreign: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is injected, since tests may run as root, whom nothing is forbidden."""
    plain = io.open

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *args, **options)

    monkeypatch.setattr("builtins.open", refuse)
    if "/" in name:  # an older checkpoint answers, and that is said
        assert load_model(trained).path.name == "step-0"
        said = capsys.readouterr().err
        assert (
            f"{name} cannot be read (Permission denied)" in said and "the checkpoint of step 0 is used instead" in said
        )
    else:
        with pytest.raises(UserError, match=r"cannot be read \(Permission denied"):
            load_model(foreign)


def test_a_prepare_over_a_damaged_report_is_told(trained: Path, tmp_path: Path) -> None:
    fresh(trained / "corpus", tmp_path / "corpus")
    for what in replaced(tmp_path / "corpus" / "corpus.json"):
        with in_time():
            try:
                prepare([str(trained.parent / "texts")], tmp_path / "corpus", load_recipe("bert-nano", SMALL).corpus)
            except UserError:
                continue
        assert what == "a link to nothing" or not (tmp_path / "corpus" / "corpus.json").is_symlink(), what
