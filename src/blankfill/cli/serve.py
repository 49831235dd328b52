"""`blankfill serve`: models over HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from blankfill.checkpoint.dtypes import WeightType
from blankfill.cli.arguments import parsed
from blankfill.cli.result import Rows
from blankfill.errors import UserError, setting
from blankfill.serving.settings import MIB, ServeSettings
from blankfill.system.bounds import Bound, at_least
from blankfill.system.reading import read_text
from blankfill.system.schema import Option


@dataclass(frozen=True, kw_only=True)
class ServeArguments:
    """Serve models over HTTP, with a page for browsers at / and a description of the API at /docs.

    OpenAI's clients can use it (/v1/chat/completions, /v1/completions, /v1/embeddings); /v1/fill, /v1/classify,
    /v1/tag, /v1/answer and /v1/score are for what they do not know. Which of them a model has follows from its folder.
    """

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        name: bound for name, bound in ServeSettings.BOUNDS.items() if name != "max_body_bytes"
    } | {"max_body_mib": at_least(1, 4096)}
    GROUPS: ClassVar[Mapping[str, str]] = {
        "Models": "model adapter",
        "Address": "host port api_key api_key_file cors_origins allowed_hosts",
        "Limits": "max_body_mib max_texts max_tokens max_new_tokens max_queue request_timeout shutdown_timeout",
        "Batches": "batch_tokens slots",
        "Log": "log_texts",
        "Machine": "workers threads dtype device force",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "blankfill serve --model runs/bert",
        "blankfill serve --model law=runs/law --model news=runs/news --port 8080",
        "blankfill serve --model runs/bert --host 0.0.0.0 --api-key-file keys.txt --workers 4",
    )

    model: Annotated[tuple[str, ...], Option(repeats=True, metavar="[NAME=]DIR")]
    """Folders of models; NAME=DIR gives a name for requests, which is otherwise that of the folder."""
    adapter: Path | None = None
    """Folder of LoRA matrices or of a prefix for the model, where only one is served."""
    host: str = ServeSettings.host
    """Address to listen on; every other than this machine's own needs an API key."""
    port: int = ServeSettings.port
    """Port to listen on; 0: a free one."""
    api_key: str | None = None
    """Key that requests must have as `Authorization: Bearer KEY`; a file keeps it out of the list of processes."""
    api_key_file: Path | None = None
    """File with keys, one on each line."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages elsewhere that browsers let use the server, such as https://example.org."""
    allowed_hosts: tuple[str, ...] = ()
    """Further host names under which the server answers, such as the one of a proxy before it."""
    max_body_mib: int = ServeSettings.max_body_bytes // MIB
    """Largest size of a request in MiB."""
    max_texts: int = ServeSettings.max_texts
    """Largest number of texts of a request."""
    max_tokens: int = ServeSettings.max_tokens
    """Largest number of tokens of all texts of a request."""
    max_new_tokens: int = ServeSettings.max_new_tokens
    """Largest number of tokens that a request may have written."""
    max_queue: int = ServeSettings.max_queue
    """Largest number of texts and answers that wait for a model."""
    request_timeout: float = ServeSettings.request_timeout
    """Seconds after which a request ends with an error."""
    shutdown_timeout: float = ServeSettings.shutdown_timeout
    """Seconds that running requests have to finish when the server is stopped."""
    batch_tokens: int = ServeSettings.batch_tokens
    """Number of tokens, about, that are read in one batch."""
    slots: int = ServeSettings.slots
    """Largest number of answers that a model writes at a time."""
    log_texts: bool = False
    """Let the texts of requests stand in the log."""
    workers: int = ServeSettings.workers
    """Processes that share the address, each with all models; weights that stay as stored are shared."""
    force: bool = False
    """Open models although they need more memory than is free."""
    dtype: WeightType = "auto"
    """Number type of the weights and of the computation: fp32, bf16 or fp16; auto: as they are stored."""
    device: str = "auto"
    """Device to compute on: auto (a GPU where there is one), cpu, cuda, cuda:1 or mps."""
    threads: int = 0
    """CPU threads of each model. 0: OMP_NUM_THREADS where it is set, else the cores divided by models and workers."""


def main(argv: Sequence[str]) -> Rows[str]:
    """Run the command."""
    args = parsed(ServeArguments, argv, "serve")
    settings = ServeSettings(
        host=args.host, port=args.port, api_keys=_keys(args), cors_origins=args.cors_origins,
        allowed_hosts=args.allowed_hosts, max_body_bytes=args.max_body_mib * MIB, max_texts=args.max_texts,
        max_tokens=args.max_tokens, max_new_tokens=args.max_new_tokens, max_queue=args.max_queue,
        batch_tokens=args.batch_tokens, slots=args.slots, request_timeout=args.request_timeout,
        shutdown_timeout=args.shutdown_timeout, workers=args.workers, force=args.force, log_texts=args.log_texts,
    )  # fmt: skip
    settings.check()
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"serving needs the package {error.name}: pip install 'blankfill[serve]'") from error
    from blankfill.serving.run import run_server, sources_of

    named = [_named(given) for given in args.model]
    names = [name for name, _ in named]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two models have the name {repeated}; give them different names: NAME=DIR")
    run_server(sources_of(dict(named), args.adapter, args.dtype, args.device, args.threads), settings)
    return Rows(rows=(), values=str, show=lambda row: None)


def _named(given: str) -> tuple[str, Path]:
    """Split NAME=DIR; the name of a folder alone is its last part. A folder whose name has = is taken as it is."""
    name, equals, path = given.partition("=")
    if equals and name and path and not Path(given).exists():
        return name, Path(path)
    return Path(given).resolve().name, Path(given)


def _keys(args: ServeArguments) -> tuple[str, ...]:
    """Return the API keys of the command line and of the file."""
    if args.api_key is not None and not args.api_key.strip():
        raise UserError(f"{setting('api_key')} is empty; give a key, or leave it out for a server without one")
    keys = [args.api_key] if args.api_key else []
    if args.api_key_file is not None:
        lines = [line.strip() for line in read_text(args.api_key_file).splitlines()]
        if not any(lines):
            raise UserError(f"{args.api_key_file}: the file has no key; write one on a line")
        keys += [line for line in lines if line]
    return tuple(keys)
