"""`blankfill bench`: a small shape really timed, the table, the JSON, and what it refuses."""

import json

import pytest

from blankfill.cli import bench
from blankfill.cli.main import main

SMALL = ["--tokens", "64", "--length", "16", "--vocabulary", "50", "--threads", "1", "--seconds", "0.01"]


def test_shapes_are_timed_in_processes_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--shapes", "bert-1x64", "glm-1x64", *SMALL, "--precision", "fp32", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["shapes"]
    assert [shape["name"] for shape in result] == ["bert-1x64", "glm-1x64"]
    for shape in result:
        assert shape["steps"] >= 3 and shape["precision"] == "float32" and shape["threads"] == 1
        assert shape["tokens_per_s"] * shape["seconds_per_step"] == pytest.approx(64, rel=0.3)
        assert shape["utilisation"] > 0  # both rates are measured, and what else the machine does at each is unknown
        assert shape["peak_memory"] > 50_000_000
        rate = shape["flops_per_step"] / shape["seconds_per_step"]
        assert rate == pytest.approx(shape["utilisation"] * shape["gemm_flops_per_s"])


def test_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench, "alone", bench.timed)
    assert main(["bench", "--shapes", "gpt-1x64", *SMALL]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["shape", "precision", "ms/step", "tokens/s"]
    assert row.startswith("gpt-1x64") and "GFLOP/s" in row


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--shapes", "elmo-2x64"],
            "elmo-2x64 is no shape; write an objective (bert, mlm, albert, spanbert, ernie, unilm, unilm2, glm, "
            "chatglm, glm-130b, gpt, xlnet, t5, bart, electra)",
        ),
        (["--shapes", "bert-2"], "bert-2 is no shape"),
        (["--length", "0"], "--length is 0"),
        (["--tokens", "64", "--length", "128"], "--tokens 64 hold no row of --length 128"),
        (["--dropout", "1"], "--dropout is 1"),
        (["--threads", "-1"], "--threads is -1"),
        (["--vocabulary", "11"], "holds no words"),
        (["--length", "3"], "objective.length is 3"),
    ],
)
def test_what_it_refuses(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *given]) == 2
    assert message in capsys.readouterr().err
