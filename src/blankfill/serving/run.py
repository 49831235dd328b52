"""Running a server: check its settings and its memory, listen, open the models, and end in order.

`serve` is the function of the library, `running` a server in a thread, for programs and tests that use it over HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blankfill.checkpoint.dtypes import WeightType
from blankfill.errors import UserError, setting
from blankfill.serving.memory import check_fits, keep_no_products, need_of
from blankfill.serving.served import ModelSet, ModelSource
from blankfill.serving.settings import MIB, ServeSettings
from blankfill.serving.state import ServerState
from blankfill.system.console import complain, is_json, is_quiet, say, show_json
from blankfill.system.environment import usable_cores
from blankfill.system.stopping import Stop, StoppedError
from blankfill.system.threads import choose_threads, from_variables

Models = str | Path | Sequence[str | Path] | Mapping[str, str | Path]
"""A folder, several, or folders by the names that requests use."""


def serve(
    model: Models,
    *,
    adapter: str | Path | None = None,
    dtype: WeightType = "auto",
    device: str = "auto",
    threads: int = 0,
    **settings: Any,
) -> None:
    """Serve models over HTTP, until SIGTERM or Ctrl-C ends the server in order.

    Args:
        model: The folder of a model, a list of folders, or a mapping from names to folders; the name in requests is
            otherwise that of the folder.
        adapter: A folder of LoRA matrices or of a prefix, for a single model.
        dtype: The number type of the weights: "auto" (as stored), "fp32", "bf16" or "fp16".
        device: "auto", "cpu", "cuda" or "mps".
        threads: CPU threads of each model; 0 for as many as the cores allow.
        settings: Fields of `ServeSettings`: host, port, api_keys, cors_origins, allowed_hosts, max_body_bytes,
            max_texts, max_tokens, max_new_tokens, max_queue, batch_tokens, slots, request_timeout, shutdown_timeout,
            workers, force, log_texts.

    Raises:
        UserError: A model cannot be opened or does not fit into memory, an address cannot be listened on, or settings
            contradict one another.
        StoppedError: Requests did not finish within `shutdown_timeout` and were cancelled.
    """
    run_server(sources_of(model, adapter, dtype, device, threads), made_settings(settings))


@contextmanager
def running(
    model: Models,
    *,
    adapter: str | Path | None = None,
    dtype: WeightType = "auto",
    device: str = "auto",
    threads: int = 0,
    **settings: Any,
) -> Iterator[str]:
    """Serve models in a thread while the block runs, and yield the URL of the server; arguments as for `serve`.

    The default port is a free one here, and `workers` must be 1. The server ends as on SIGTERM.
    """
    from blankfill.serving.lifecycle import Service, listen

    made = made_settings({"port": 0, **settings})
    if made.workers > 1:
        raise UserError(f"a server in a thread has one process; leave out {setting('workers', made.workers)}")
    sources = prepared(sources_of(model, adapter, dtype, device, threads), made)
    ready, failures = threading.Event(), []
    sockets = listen(made.host, made.port)
    url = url_of(made.host, sockets[0].getsockname()[1])
    state = ServerState(ModelSet({source.name: source for source in sources}, made), made)
    service = Service(state, sockets, ready.set, signals=False)

    def run() -> None:
        try:
            service.run()
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="server", daemon=True)
    thread.start()
    ready.wait()
    try:
        if not failures:
            yield url
    finally:
        service.stop_soon()
        thread.join()
    if failures:
        raise failures[0]


def run_server(sources: Sequence[ModelSource], settings: ServeSettings) -> None:
    """Serve models until a signal ends the server; see `serve`."""
    from blankfill.serving.lifecycle import Service, exit_now, listen

    sources = prepared(sources, settings)
    log_to_standard_error()
    sockets = listen(settings.host, settings.port)
    port = sockets[0].getsockname()[1]
    if settings.workers > 1:
        from blankfill.serving.workers import run_workers

        run_workers(sources, settings, sockets, port)
        return
    state = ServerState(ModelSet({source.name: source for source in sources}, settings), settings)
    begin = time.monotonic()
    say(f"the models are opened; {url_of(settings.host, port)}/health says when they are ready")
    service = Service(
        state, sockets, lambda: announce(settings, port, described(state.models), time.monotonic() - begin)
    )
    service.run()
    check_stopped(service.stopped, service.lost)
    if service.computes:
        exit_now(0)  # the thread would disturb the end of the interpreter


def check_stopped(why: Stop | None, lost: int) -> None:
    """Raise StoppedError when requests were cancelled at the end; a server that finished them has ended in order."""
    if why is not None and lost:
        raise StoppedError(why, f"{why.value}: {lost} requests did not finish in time and were cancelled")


def sources_of(
    model: Models, adapter: str | Path | None, dtype: WeightType, device: str, threads: int
) -> list[ModelSource]:
    """Return the models to serve. Raises UserError for names that occur twice, and for an adapter of several models."""
    if isinstance(model, Mapping):
        named = [(name, Path(path)) for name, path in model.items()]
    else:
        paths = [Path(model)] if isinstance(model, str | Path) else [Path(path) for path in model]
        named = [(path.resolve().name, path) for path in paths]
    if not named:
        raise UserError(f"there is no model to serve; give {setting('model')} a folder")
    names = [name for name, _ in named]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two models have the name {repeated}; give them different names: NAME=DIR")
    if adapter is not None and len(named) > 1:
        raise UserError(f"{setting('adapter')} belongs to one model, and {len(named)} are served; serve it alone")
    own = None if adapter is None else Path(adapter)
    return [ModelSource(name, path, own, dtype, device, threads) for name, path in named]


def made_settings(values: Mapping[str, Any]) -> ServeSettings:
    """Return settings from values by name, lists as tuples. Raises ConfigError for what is wrong."""
    from dataclasses import fields

    known = {field.name for field in fields(ServeSettings)}
    if unknown := next((name for name in values if name not in known), None):
        raise UserError(f"there is no setting {unknown}; the settings are: {', '.join(sorted(known))}")
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    settings = ServeSettings(**given)
    settings.check()
    return settings


def prepared(sources: Sequence[ModelSource], settings: ServeSettings) -> list[ModelSource]:
    """Return the models with their number of threads, after a look at the memory that they need."""
    from dataclasses import replace

    settings.check()
    keep_no_products()
    for source in sources:
        if not source.path.exists():
            raise UserError(f"{source.path}: there is no such folder; give {setting('model')} the folder of a model")
    needs = [need_of(source.name, source.path, source.dtype, source.adapter) for source in sources]
    on_device = any(source.device.startswith(("cuda", "mps")) for source in sources)
    for line in check_fits(needs, settings.workers, settings.force or on_device):
        say(line)
    each = threads_of(sources[0].threads, len(sources), settings.workers)
    return [replace(source, threads=each) for source in sources]


def threads_of(given: int, models: int, workers: int) -> int:
    """Return the number of threads of each model, so that all models of all workers together have a core for each
    thread.

    A number that was given is kept, with a notice where it is too large: threads that share a core delay all others.
    """
    cores, parts = usable_cores(), models * workers
    if given or from_variables():
        each = choose_threads(given).count
        if each * parts > max(cores, parts):
            say(
                f"{parts} models compute with {each} threads each, and there are {cores} cores; they delay one another "
                f"when all are busy; {setting('threads', max(1, cores // parts))} does not"
            )
        return each
    return choose_threads(0).count if parts == 1 else max(1, cores // parts)


def described(models: ModelSet) -> list[dict[str, Any]]:
    """Return the models with what they can do."""
    return [
        {"name": model.name, "folder": str(model.source.path), "abilities": sorted(a.value for a in model.abilities)}
        for model in models
    ]


def announce(settings: ServeSettings, port: int, models: Sequence[Mapping[str, Any]], seconds: float) -> None:
    """Print what is served: as lines on standard error, and with --json as one object on standard output."""
    url = url_of(settings.host, port)
    limits = {
        name: getattr(settings, name)
        for name in ("max_body_bytes", "max_texts", "max_tokens", "max_new_tokens", "max_queue", "batch_tokens",
                     "slots", "request_timeout", "shutdown_timeout")
    }  # fmt: skip
    for model in models:
        say(f"model {model['name']}: {', '.join(model['abilities'])}")
    size, seconds_at_most = f"{settings.max_body_bytes / MIB:,.3g} MiB", f"{settings.request_timeout:g} s"
    say(
        f"limits of a request: {size}, {settings.max_texts:,} texts, {settings.max_tokens:,} tokens to read, "
        f"{settings.max_new_tokens:,} to write, {seconds_at_most}; for a model, {settings.max_queue:,} texts wait and "
        f"{settings.slots} answers are written at a time"
    )
    keys = "requests need a key" if settings.api_keys else "requests need no key"
    say(f"ready after {seconds:.1f} s: the page at {url}/, the API at {url}/v1 ({keys}), described at {url}/docs")
    if is_json():
        show_json(
            {"url": url, "host": settings.host, "port": port, "workers": settings.workers, "models": list(models),
             "limits": limits, "key_needed": bool(settings.api_keys)}
        )  # fmt: skip


def url_of(host: str, port: int) -> str:
    """Return the address of a server for a browser on this machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


class Lines(logging.Handler):
    """Writes the log on standard error, as notices are written."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        complain(self.format(record))


def log_to_standard_error() -> None:
    """Let the log of the server stand on standard error with the time, and without requests where notices are
    dropped."""
    logger = logging.getLogger("blankfill.serving")
    if not logger.handlers:
        handler = Lines()
        form = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        form.converter = time.gmtime
        handler.setFormatter(form)
        logger.addHandler(handler)
        logger.propagate = False
        logging.getLogger("uvicorn.error").addHandler(handler)  # requests that are no HTTP
        logging.getLogger("uvicorn.error").propagate = False
    logger.setLevel(logging.WARNING if is_quiet() else logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
