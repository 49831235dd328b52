"""What coverage traces of tests that draw many examples: the first ones.

A property test runs the same lines a hundred times, and tracing them takes most of the time that coverage costs. The
first examples reach what all of them reach, but for few lines. Not here: whether coverage is measured (`make test
COVERAGE=1`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

EXAMPLES = 10
"""Examples of a property test that are traced."""


class Tracer(Protocol):
    """What starts and stops tracing: `coverage.Coverage`."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


@contextmanager
def first_examples(test: Callable[..., Any], tracer: Tracer | None, count: int = EXAMPLES) -> Iterator[None]:
    """Inside, a property test is traced for its first `count` examples only; any other test as it is."""
    property_test = getattr(test, "hypothesis", None)
    if tracer is None or property_test is None:
        yield
        return
    inner, calls = property_test.inner_test, 0

    @functools.wraps(inner)
    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count + 1:
            tracer.stop()
        return inner(*arguments, **named)

    property_test.inner_test = counted
    try:
        yield
    finally:
        property_test.inner_test = inner
        if calls > count:
            tracer.start()
