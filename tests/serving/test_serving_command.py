"""The command `blankfill serve` and the function `blankfill.serve`: models, keys, and mistakes before a start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import blankfill
from blankfill.cli import serve as command
from blankfill.cli.arguments import parsed
from blankfill.cli.main import main
from blankfill.errors import ConfigError, UserError
from blankfill.serving import run
from blankfill.serving.served import ModelSource
from blankfill.serving.settings import ServeSettings


def failed(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    """The sentences of a command line that must end with exit code 2."""
    assert main(["serve", *argv, "--json"]) == 2
    problems: list[str] = json.loads(capsys.readouterr().out)["problems"]
    return problems


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `run_server` is called with, in place of a server."""
    calls: list[Any] = []
    monkeypatch.setattr(run, "run_server", lambda *given: calls.extend(given))
    return calls


def test_models_are_given_in_a_list_or_one_by_one(called: list[Any], tmp_path: Path) -> None:
    (tmp_path / "x=y").mkdir()
    odd = str(tmp_path / "x=y")
    models = ["--model", "runs/c/", "--model=d=runs/e", "--model", odd]
    assert main(["serve", "--model", "runs/a", "b=runs/other", "--port", "0", *models]) == 0
    sources, settings = called
    assert [(source.name, source.path) for source in sources] == [
        ("a", Path("runs/a")), ("b", Path("runs/other")), ("c", Path("runs/c")), ("d", Path("runs/e")),
        ("x=y", Path(odd)),
    ]  # fmt: skip
    assert settings == ServeSettings(port=0)


def test_every_option_reaches_the_server(called: list[Any], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("first\n\n second \n", encoding="utf-8")
    options = {
        "host": "0.0.0.0", "port": 81, "api_key": "third", "api_key_file": tmp_path / "keys",
        "cors_origins": "https://a.example", "allowed_hosts": "b.example", "max_body_mib": 2, "max_texts": 3,
        "max_tokens": 4, "max_new_tokens": 5, "max_queue": 60, "request_timeout": 7.5, "shutdown_timeout": 8.5,
        "batch_tokens": 9, "slots": 10, "workers": 11, "dtype": "bf16", "device": "cuda:1", "threads": 12,
        "adapter": "lora",
    }  # fmt: skip
    flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["serve", "--model", "runs/a", *flags, "--log-texts", "--force"]) == 0
    (source,), settings = called
    assert source == ModelSource("a", Path("runs/a"), Path("lora"), "bf16", "cuda:1", 12)
    assert settings == ServeSettings(
        host="0.0.0.0", port=81, api_keys=("third", "first", "second"), cors_origins=("https://a.example",),
        allowed_hosts=("b.example",), max_body_bytes=2 << 20, max_texts=3, max_tokens=4, max_new_tokens=5, max_queue=60,
        request_timeout=7.5, shutdown_timeout=8.5, batch_tokens=9, slots=10, workers=11, log_texts=True, force=True,
    )  # fmt: skip


def test_the_defaults_of_the_command_are_those_of_the_settings() -> None:
    args, settings = parsed(command.ServeArguments, ["--model", "a"], "serve"), ServeSettings()
    shared = set(vars(args)) & set(vars(settings))
    assert {"host", "port", "max_texts", "workers", "log_texts"} <= shared
    assert {name: getattr(args, name) for name in shared} == {name: getattr(settings, name) for name in shared}


def test_mistakes_are_sentences_before_anything_is_opened(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, called: list[Any]
) -> None:
    (tmp_path / "empty").write_text("\n \n", encoding="utf-8")
    assert "two models have the name a; give them different names: NAME=DIR" in failed(capsys, "--model", "x/a", "y/a")
    assert "two models have the name b" in failed(capsys, "--model", "b=x", "--model", "b=y")[0]
    assert "--host 0.0.0.0 can be reached from other machines" in failed(capsys, "--model", "a", "--host", "0.0.0.0")[0]
    assert "the file has no key" in failed(capsys, "--model", "a", "--api-key-file", str(tmp_path / "empty"))[0]
    assert failed(capsys, "--model", "a", "--api-key", "")[0].startswith("--api-key is empty")
    assert "nothing" in failed(capsys, "--model", "a", "--api-key-file", str(tmp_path / "nothing"))[0]
    assert "--adapter belongs to one model" in failed(capsys, "--model", "a", "b", "--adapter", "c")[0]
    assert "--max-texts 5 is more than --max-queue 4" in failed(
        capsys, "--model", "a", "--max-texts", "5", "--max-queue", "4", "--slots", "1"
    )[0]  # fmt: skip
    assert not called


def test_a_folder_that_is_not_there_is_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (problem,) = failed(capsys, "--model", str(tmp_path / "nothing"), "--port", "0")
    assert problem.endswith("there is no such folder; give --model the folder of a model")


def test_a_port_in_use_is_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from blankfill.serving.lifecycle import listen

    (taken,) = listen("127.0.0.1", 0)
    port = taken.getsockname()[1]
    (problem,) = failed(capsys, "--model", str(tmp_path), "--port", str(port))
    taken.close()
    assert problem.startswith(f"--port {port} of 127.0.0.1 cannot be listened on")


def test_a_folder_without_a_model_ends_the_server(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (problem,) = failed(capsys, "--model", str(tmp_path), "--port", "0", "--threads", "1")
    assert "there is no checkpoint in this folder" in problem


@pytest.mark.parametrize("name", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_missing_package_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    (problem,) = failed(capsys, "--model", "a")
    assert problem == f"serving needs the package {name}: pip install 'blankfill[serve]'"


def test_the_function_takes_folders_in_several_forms(called: list[Any]) -> None:
    for model in ("runs/a", Path("runs/a"), ["runs/a"], {"a": "runs/a"}):
        called.clear()
        blankfill.serve(model, port=0, api_keys=["k"], threads=2)
        assert called == [[ModelSource("a", Path("runs/a"), threads=2)], ServeSettings(port=0, api_keys=("k",))]


def test_the_function_names_mistakes(called: list[Any]) -> None:
    with pytest.raises(UserError, match="there is no setting prot; the settings are: allowed_hosts, "):
        blankfill.serve("a", prot=80)
    with pytest.raises(UserError, match="there is no model to serve"):
        blankfill.serve([])
    with pytest.raises(UserError, match="two models have the name a"):
        blankfill.serve(["x/a", "y/a"])
    with pytest.raises(UserError, match="adapter belongs to one model"):
        blankfill.serve(["a", "b"], adapter="c")
    with pytest.raises(ConfigError, match="slots is 0"):
        blankfill.serve("a", slots=0)
    assert not called


def test_what_is_served_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    models = [{"name": "a", "folder": "runs/a", "abilities": ["embed", "fill"]}]
    run.announce(ServeSettings(api_keys=("k",)), 8123, models, 1.25)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "model a: embed, fill",
        "limits of a request: 8 MiB, 2,048 texts, 1,000,000 tokens to read, 4,096 to write, 300 s; for a model, 8,192 "
        "texts wait and 16 answers are written at a time",
        "ready after 1.2 s: the page at http://127.0.0.1:8123/, the API at http://127.0.0.1:8123/v1 (requests need a "
        "key), described at http://127.0.0.1:8123/docs",
    ]


def test_addresses_are_those_of_a_browser_here() -> None:
    hosts = ("127.0.0.1", "0.0.0.0", "::", "::1", "a.example")
    assert [run.url_of(host, 80) for host in hosts] == [
        "http://127.0.0.1:80", "http://127.0.0.1:80", "http://[::1]:80", "http://[::1]:80", "http://a.example:80"
    ]  # fmt: skip


LIGHT = """
import sys
import blankfill.cli.serve, blankfill.serving.run, blankfill.serving.memory, blankfill.serving.workers
from blankfill.serving.run import prepared, sources_of
from blankfill.serving.settings import ServeSettings
prepared(sources_of(sys.argv[1], None, "auto", "cpu", 0), ServeSettings(workers=2))
print("torch" in sys.modules)
"""


def test_the_process_that_watches_over_workers_does_not_import_torch(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", LIGHT, str(tmp_path)], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
