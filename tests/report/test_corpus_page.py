"""The page of a prepared corpus: written by `blankfill prepare`, named at its end, and no obstacle to what follows."""

import json
from pathlib import Path

import pytest

from blankfill.cli.main import main


def test_prepare_writes_a_page_and_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = "".join(f"{k};The <b>ferry</b> number {k} & its crew sail.\n" for k in range(200))
    (tmp_path / "a.csv").write_text("id;body\n" + rows, encoding="utf-8")
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    texts, out = [str(tmp_path / "a.csv"), str(tmp_path / "empty.txt")], tmp_path / "corpus"
    command = ["prepare", *texts, "--out", str(out), "--vocab-size", "0", "--workers", "1"]
    assert main(command) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"the report, for a browser: {out / 'report.html'}" in capsys.readouterr().out
    for text in ("CSV, &#x27;;&#x27;", "body (by name)", "empty.txt: empty", '<td class="n">200</td>'):
        assert text in page
    assert str(tmp_path) not in page
    (out / "report.html").unlink()  # corpora of earlier versions have none
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(out / "report.html")
    (out / "corpus.json").unlink()
    assert main([*command, "--force"]) == 0
    assert main(["prepare", "--out", str(out), "--verify"]) == 0
