"""The settings of a server, with their bounds. Nothing heavy is imported here, so that `blankfill serve --help` is
quick."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from blankfill.errors import ConfigError, setting
from blankfill.system.bounds import Bound, above, at_least, out_of_bounds

MIB = 2**20
KEY = re.compile(r"[!-~]+")
"""An API key: visible characters of ASCII, as headers can have them."""
ORIGIN = re.compile(r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?|https?://\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?")
LOCAL_NAMES = ("localhost",)
"""Host names that other machines cannot reach."""


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """How a server listens, what it accepts, and how much it computes at a time.

    A request beyond a limit is refused before any work is done for it: 413 for its size, 422 for its content, 429 with
    `Retry-After` when too many wait.
    """

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "port": at_least(0, 65535),
        "max_body_bytes": at_least(1024),
        "max_texts": at_least(1),
        "max_tokens": at_least(1),
        "max_new_tokens": at_least(1),
        "max_queue": at_least(1),
        "batch_tokens": at_least(1),
        "slots": at_least(1, 1024),
        "request_timeout": above(0),
        "shutdown_timeout": at_least(0),
        "workers": at_least(1, 1024),
    }

    host: str = "127.0.0.1"
    """Address to listen on; every other than this machine's own needs an API key."""
    port: int = 8000
    """Port; 0: a free one."""
    api_keys: tuple[str, ...] = ()
    """Keys, of which a request must send one in its header Authorization; none: no key is needed."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages on other hosts that browsers let use the server, such as https://example.org."""
    allowed_hosts: tuple[str, ...] = ()
    """Further host names under which the server answers, such as example.org behind a proxy."""
    max_body_bytes: int = 8 * MIB
    """Largest size of a request's body."""
    max_texts: int = 2048
    """Largest number of texts of a request."""
    max_tokens: int = 1_000_000
    """Largest number of tokens of all texts of a request."""
    max_new_tokens: int = 4096
    """Largest number of tokens that a request may have written, all its answers together."""
    max_queue: int = 8192
    """Largest number of texts and answers that wait for a model."""
    batch_tokens: int = 1024
    """Number of tokens, about, that are read in one batch."""
    slots: int = 16
    """Largest number of answers that a model writes at a time; more wait."""
    request_timeout: float = 300.0
    """Seconds after which a request ends with an error."""
    shutdown_timeout: float = 30.0
    """Seconds that running requests have to finish when the server is stopped."""
    workers: int = 1
    """Number of processes that share the address, each with all models."""
    force: bool = False
    """Whether to open models that need more memory than is free."""
    log_texts: bool = False
    """Whether the texts of requests may stand in the log."""

    def problems(self) -> list[str]:
        """Return what is wrong with the settings, a sentence each: bounds, and limits that contradict one another."""
        problems = list(out_of_bounds(self))
        if not problems and self.max_texts > self.max_queue:
            problems.append(
                f"{setting('max_texts', self.max_texts)} is more than {setting('max_queue', self.max_queue)}, so that "
                "a request of this size could never be accepted; raise the queue or lower the texts"
            )
        if not problems and self.slots > self.max_queue:
            problems.append(
                f"{setting('slots', self.slots)} is more than {setting('max_queue', self.max_queue)}; lower it"
            )
        if not self.api_keys and not is_local(self.host):
            problems.append(
                f"{setting('host', self.host)} can be reached from other machines, and the server has no key; give "
                f"{setting('api_key_file')} with a key in it, or listen on 127.0.0.1"
            )
        if any(not KEY.fullmatch(key) for key in self.api_keys):
            problems.append(
                f"a key of {setting('api_key')} or {setting('api_key_file')} cannot be sent in a header; use letters, "
                "digits and signs of ASCII without spaces"
            )
        for origin in self.cors_origins:
            if origin == "*" and not self.api_keys:
                problems.append(
                    f"{setting('cors_origins', '*')} lets every web page use the server, and the server has no key; "
                    f"give {setting('api_key_file')}, or name the origins"
                )
            elif origin != "*" and not ORIGIN.fullmatch(origin):
                problems.append(
                    f"{setting('cors_origins')} has {origin[:100]!r}; an origin is a scheme and a host without a path, "
                    "such as https://example.org"
                )
        for name in self.allowed_hosts:
            if not is_host_name(name):
                problems.append(
                    f"{setting('allowed_hosts')} has {name[:100]!r}; give names without a port, such as example.org"
                )
        return problems

    def check(self) -> None:
        """Raise ConfigError with everything that is wrong."""
        if problems := self.problems():
            raise ConfigError(problems)


def is_local(host: str) -> bool:
    """Return whether only programs of this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOCAL_NAMES


def is_host_name(name: str) -> bool:
    """Return whether a text can be the name in a header Host: a name or an address, without a port."""
    if name.startswith("[") and name.endswith("]"):
        try:
            return ipaddress.ip_address(name[1:-1]).version == 6
        except ValueError:
            return False
    return bool(name) and name.isascii() and all(letter.isalnum() or letter in "-._" for letter in name)
