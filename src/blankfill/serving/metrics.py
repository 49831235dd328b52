"""The numbers of a server, as Prometheus reads them at `/metrics`.

Handlers count tokens by `requests.counted`, threads of models texts and batches; the rest is counted by the layers
around the routes.
With several worker processes the numbers of all are added up, from files in the folder that `PROMETHEUS_MULTIPROC_DIR`
names (`serving.workers` sets it).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.process_collector import ProcessCollector

from blankfill._version import __version__

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Variable that names the folder of numbers of several processes; prometheus_client reads it when it is imported."""
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKENS = (16, 64, 256, 1024, 4096, 16384, 65536)


class Observed(Protocol):
    """A model with a queue."""

    @property
    def name(self) -> str: ...
    @property
    def waiting(self) -> int: ...
    @property
    def slots_in_use(self) -> int: ...


class Metrics:
    """The numbers of one server, in a registry of its own. Its methods may be called from any thread."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.shared = FOLDER in os.environ
        if not self.shared:
            ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "blankfill_requests", "Requests that have ended.", ("route", "method", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "blankfill_request_seconds", "Seconds from the first byte of a request to the last byte of its answer.",
            ("route",), buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._running = self._gauge("blankfill_requests_running", "Requests that run.", ())
        self._read = Counter("blankfill_tokens_read", "Tokens that were read.", ("model",), registry=self.registry)
        self._written = Counter(
            "blankfill_tokens_written", "Tokens that were written.", ("model",), registry=self.registry
        )
        self._texts = Counter("blankfill_texts", "Texts of requests.", ("model",), registry=self.registry)
        self._queue = self._gauge("blankfill_queue_length", "Texts that wait for a model.", ("model",))
        self._slots = self._gauge("blankfill_slots_in_use", "Answers that a model writes now.", ("model",))
        self._batch_texts = Histogram(
            "blankfill_batch_texts", "Texts of a batch.", ("model",), buckets=TEXTS, registry=self.registry
        )
        self._batch_tokens = Histogram(
            "blankfill_batch_tokens", "Tokens of a batch.", ("model",), buckets=TOKENS, registry=self.registry
        )
        self._load = self._gauge("blankfill_model_load_seconds", "Seconds to open a model.", ("model",), "max")
        self._loads = Counter(
            "blankfill_model_loads", "How often a model was opened.", ("model", "result"), registry=self.registry
        )
        info = self._gauge("blankfill_info", "The version of blankfill.", ("version",), "max")
        info.labels(__version__).set(1)

    def tokens(self, model: str, read: int, written: int) -> None:
        """Count tokens that were read and written (`requests.counted`)."""
        self._read.labels(model).inc(read)
        self._written.labels(model).inc(written)

    def texts(self, model: str, count: int) -> None:
        """Count texts of a request."""
        self._texts.labels(model).inc(count)

    def batch(self, model: str, texts: int, tokens: int) -> None:
        """Count a batch that was computed."""
        self._batch_texts.labels(model).observe(texts)
        self._batch_tokens.labels(model).observe(tokens)

    def loaded(self, model: str, seconds: float, fits: bool = True) -> None:
        """Count that a model was opened, or could not be opened again."""
        self._loads.labels(model, "opened" if fits else "failed").inc()
        if fits:
            self._load.labels(model).set(seconds)

    def ended(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def observe(self, models: Iterable[Observed], running: int) -> None:
        """Write down how many requests run, and how long the queues are now."""
        self._running.set(running)
        for model in models:
            self._queue.labels(model.name).set(model.waiting)
            self._slots.labels(model.name).set(model.slots_in_use)

    def text(self) -> bytes:
        """Return the numbers, of all worker processes where there are several."""
        if not self.shared:
            return generate_latest(self.registry)
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _gauge(self, name: str, what: str, labels: tuple[str, ...], mode: str = "livesum") -> Gauge:
        return Gauge(name, what, labels, registry=self.registry, multiprocess_mode=mode)  # type: ignore[arg-type]
