"""What was read, in lines: files of one form grouped, ranges summed, guesses marked."""

from pathlib import Path

import pytest

from blankfill.corpus.inventory import MOST_LINES, ReadSource, dropped_rows, read_sources, table_rows
from blankfill.corpus.options import PrepareConfig
from blankfill.corpus.prepare import prepare
from blankfill.corpus.summary import CorpusReport
from blankfill.errors import in_flags
from blankfill.report.sections import _read_table


def tally(source: str, folder: str = "", form: str = "plain text", text: str = "", **counts: int) -> dict:
    dropped = {"pictures": counts.pop("pictures")} if "pictures" in counts else {}
    return {
        "source": source, "folder": folder, "form": form, "text": text, "documents": 1, "characters": 10,
        "dropped": dropped, **counts,
    }  # fmt: skip


def test_files_of_one_form_in_a_folder_are_one_line():
    lines = read_sources(
        [
            tally("in/a.txt", "in"),
            tally("in/b.html", "in", "web page", pictures=3),
            tally("in/c.txt", "in", characters=5),
            tally("d.txt"),
            # Two ranges of one file; the second holds no record, so that it does not know the column.
            tally("e.jsonl", form="JSON Lines", text="body (guess)", documents=4),
            tally("e.jsonl", form="jsonl", documents=0, characters=0),
        ]
    )
    assert lines == (
        ReadSource("2 files in in", "plain text", "", 2, 15),
        ReadSource("in/b.html", "web page", "", 1, 10, {"pictures": 3}),
        ReadSource("d.txt", "plain text", "", 1, 10),
        ReadSource("e.jsonl", "JSON Lines", "body (guess)", 4, 10),
    )
    assert table_rows(lines)[3] == ("e.jsonl", "JSON Lines", "body (guess)", "4", "10")
    assert dropped_rows(lines) == [("pictures", "3")]


def test_many_named_files_are_one_line_and_many_lines_are_cut():
    files = [tally(f"in/{number:03}.txt") for number in range(2000)]
    assert read_sources(files) == (ReadSource("2,000 files in in", "plain text", "", 2000, 20_000),)
    lines = read_sources([tally(f"{number}/a.txt", f"{number}") for number in range(MOST_LINES + 2)])
    assert table_rows(lines)[-1] == ("… and 2 more", "", "", "2", "20")


def test_what_was_read_is_in_the_report_and_on_the_terminal(tmp_path: Path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    text = "The ferry was late again, and nobody on the quay was waiting for it any more. "
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"{number} {text * 4}")
    (folder / "old.txt").write_bytes("Паром пришёл поздно, и никто на берегу его уже не ждал.".encode("cp1251"))
    (folder / "b.jsonl").write_text('{"id": 1, "body": "It sailed away in the morning."}\n')
    (folder / "c.csv").write_text("id;story;x\n1;It came back in the evening, as always.;y\n")
    prepare([folder], tmp_path / "out", PrepareConfig(vocab_size=200, vocab_exact=False, validation=0.0, workers=1))
    report = CorpusReport.read(tmp_path / "out")
    assert [(line.source, line.form, line.text, line.documents, line.characters) for line in report.inventory] == [
        (f"3 files in {folder}", "plain text", "", 3, 3 * (2 + 4 * len(text.strip()))),
        (f"{folder}/b.jsonl", "JSON Lines", "body (by name)", 1, 30),
        (f"{folder}/c.csv", "CSV, ';'", "story (by name)", 1, 39),
        (f"{folder}/old.txt", "plain text, cp1251 (guess)", "", 1, 55),
    ]
    report.show()
    shown = capsys.readouterr().out
    assert "story (by name)" in shown and "cp1251 (guess)" in shown and f"3 files in {folder}" in shown
    report.say_sources()
    assert "body (by name)" in capsys.readouterr().err


def test_reports_of_older_versions_have_no_lines(tmp_path: Path):
    (tmp_path / "a.txt").write_text("The ferry was late again.\n" * 9)
    made = prepare([tmp_path / "a.txt"], tmp_path / "out", PrepareConfig(vocab_size=60, vocab_exact=False, workers=1))
    path = tmp_path / "out" / "corpus.json"
    text = path.read_text()
    assert made.inventory and '"inventory"' in text
    path.write_text(text.replace('"inventory"', '"inventory_of_a_later_version"'))
    assert CorpusReport.read(tmp_path / "out").inventory == ()


def test_the_page_of_a_run_has_the_table():
    page = _read_table((ReadSource("a<b>.csv", "CSV, ';'", "story (guess)", 2, 1300),))
    assert page.count("<th ") == 5 and page.count("<td") == 5
    assert "a&lt;b&gt;.csv" in page and ">1,300<" in page and "story (guess)" in page


def test_notes_about_tables_name_settings_as_the_command_line_does(tmp_path: Path):
    openpyxl = pytest.importorskip("openpyxl")
    pytest.importorskip("python_calamine")
    book = openpyxl.Workbook()
    for title in ("cover", "data"):
        sheet = book.create_sheet(title)
        for row in (["text"], ["The ferry sails at noon."]):
            sheet.append(row)
    book.save(tmp_path / "a.xlsx")
    config = PrepareConfig(vocab_exact=False, workers=1)
    report = prepare([tmp_path / "a.xlsx"], tmp_path / "out", config)
    note = next(notice for notice in report.notices if "sheets" in notice)
    assert in_flags(note).endswith("of which 'cover' is read: choose another with --sheet.")
