"""The files in examples/serve: the command reads their command lines, and the program for Ray does what it says."""

from __future__ import annotations

import asyncio
import configparser
import importlib.util
import json
import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from serving_asgi import JSON, call

from blankfill.cli.arguments import parsed
from blankfill.cli.serve import ServeArguments
from blankfill.serving.settings import MIB, ServeSettings
from written_models import write_model

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "serve"


def text_of(name: str) -> str:
    return (EXAMPLES / name).read_text(encoding="utf-8")


class Unit(configparser.RawConfigParser):
    """A unit of systemd: names have capitals, and those that occur again win."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def test_the_unit_calls_the_command() -> None:
    unit = Unit(strict=False, interpolation=None)
    unit.read_string(text_of("blankfill.service"))
    service = unit["Service"]
    program, command, *arguments = shlex.split(service["ExecStart"])
    args = parsed(ServeArguments, arguments, "serve")
    assert program.endswith("/blankfill") and command == "serve"
    assert float(service["TimeoutStopSec"]) > args.shutdown_timeout + 2
    assert service["SuccessExitStatus"] == "143" and service["ExecReload"].endswith("-HUP $MAINPID")


def test_the_image_calls_the_command() -> None:
    lines = dict(re.findall(r"^(ENTRYPOINT|CMD) (\[.*\])$", text_of("Dockerfile"), re.M))
    program, command, *arguments = json.loads(lines["ENTRYPOINT"]) + json.loads(lines["CMD"])
    args = parsed(ServeArguments, arguments, "serve")
    assert (program, command) == ("blankfill", "serve")
    assert args.api_key_file is not None and args.host == "0.0.0.0"
    assert args.shutdown_timeout < 10  # which is how long docker waits
    assert f"EXPOSE {args.port}" in text_of("Dockerfile") and "\nUSER blankfill\n" in text_of("Dockerfile")


def test_the_proxy_has_the_limits_of_the_server() -> None:
    text = text_of("nginx.conf")
    settings = ServeSettings()
    assert re.findall(r"client_max_body_size (\d+)m;", text) == [str(settings.max_body_bytes // MIB)]
    (seconds,) = re.findall(r"proxy_read_timeout (\d+)s;", text)
    assert int(seconds) > settings.request_timeout
    assert text.count("{") == text.count("}")


class Deployment:
    """What Ray makes of a class: called with options, it returns the class; bound, its arguments."""

    options: dict[str, Any]
    application: Any


def module(monkeypatch: pytest.MonkeyPatch, replica: list[Any]) -> Any:
    """The program for Ray, with as much of Ray as it uses."""
    noted = Deployment()

    def ingress(application: Any) -> Any:
        noted.application = application
        return lambda kind: kind

    def deployment(**options: Any) -> Any:
        noted.options = options

        def made(kind: Any) -> Any:
            kind.bind = staticmethod(lambda *given: given)
            return kind

        return made

    serve = types.ModuleType("ray.serve")
    context = types.SimpleNamespace
    serve.__dict__.update(
        ingress=ingress, deployment=deployment, get_replica_context=lambda: context(servable_object=replica[0])
    )
    ray = types.ModuleType("ray")
    ray.__dict__.update(serve=serve)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.serve", serve)
    spec = importlib.util.spec_from_file_location("ray_serve_example", EXAMPLES / "ray_serve.py")
    assert spec is not None and spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    program.noted = noted  # type: ignore[attr-defined]
    return program


def test_a_replica_on_ray_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a stand-in for Ray, which the tests do not need."""
    folder = write_model(tmp_path / "bert", "bert")
    (tmp_path / "keys").write_text("a-key\n", encoding="utf-8")
    monkeypatch.setenv("MODEL", str(folder))
    monkeypatch.setenv("KEYS", str(tmp_path / "keys"))
    replicas: list[Any] = []
    program = module(monkeypatch, replicas)
    assert program.app == (str(folder), str(tmp_path / "keys"))
    replica = program.Blankfill(*program.app)
    replicas.append(replica)
    body = json.dumps({"input": "the old [MASK] boat"}).encode()
    key = [*JSON, (b"authorization", b"Bearer a-key")]

    async def begin_and_end() -> list[str]:
        sent: list[str] = []

        async def receive() -> dict[str, str]:
            return {}

        async def send(message: dict[str, str]) -> None:
            sent.append(message["type"])

        await program.noted.application({"type": "lifespan"}, receive, send)
        return sent

    async def run() -> None:
        assert await begin_and_end() == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert (await call(program.noted.application, "/v1/fill", [body])).status == 401
        answer = await call(program.noted.application, "/v1/fill", [body], headers=key)
        assert answer.status == 200 and answer.json()["data"][0]["blanks"]
        before = next(iter(replica.state.models))
        (folder / "state.json").touch()
        await replica.reconfigure(None)
        assert next(iter(replica.state.models)) is not before
        replica.check_health()

    asyncio.run(run())
    replica.state.models.close(30)
    with pytest.raises(RuntimeError, match="has ended"):
        replica.check_health()
