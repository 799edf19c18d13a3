"""A model on another machine: where it is (`oip+http://host:port[/prefix]/model@version`, as an operator writes it),
what it takes and gives, and how asking it fails."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from wisp.errors import InvalidModel
from wisp.wire.tensors import TensorSpec

MAX_SOURCE_CHARS: Final = 1024
SEGMENT: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}", re.ASCII)
HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}|[0-9A-Fa-f:.]{2,45}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    scheme: str
    authority: str
    prefix: str
    model: str
    version: str

    @property
    def server(self) -> str:
        return f"{self.scheme}://{self.authority}{self.prefix}/v2"

    @property
    def url(self) -> str:
        return f"{self.server}/models/{self.model}/versions/{self.version}"

    def __str__(self) -> str:
        return f"oip+{self.scheme}://{self.authority}{self.prefix}/{self.model}@{self.version}"


def parse_source(text: str) -> Source:
    """Raises `InvalidModel` with the form."""
    refused = InvalidModel("source: expected oip+http://host:port[/prefix]/model@version, or oip+https")
    if len(text) > MAX_SOURCE_CHARS or not text.isascii() or not text.isprintable():
        raise refused
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise refused from None
    *prefix, last = parts.path.split("/")[1:] or [""]
    model, at, version = last.rpartition("@")
    named = (*prefix, model, version)
    if (
        parts.scheme not in ("oip+http", "oip+https")
        or not at
        or parts.query
        or parts.fragment
        or parts.username is not None
        or host is None
        or HOST.fullmatch(host) is None
        or not all(SEGMENT.fullmatch(each) and each not in (".", "..") for each in named)
    ):
        raise refused
    scheme = parts.scheme.removeprefix("oip+")
    shown = f"[{host}]" if ":" in host else host
    return Source(
        scheme=scheme,
        authority=f"{shown}:{port or (443 if scheme == 'https' else 80)}",
        prefix="".join(f"/{each}" for each in prefix),
        model=model,
        version=version,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteModel:
    """As one function, or one caller, may use it; `name` is model@version."""

    name: str
    source: Source
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_inferences: int
    max_time_ns: int
    binary: bool = True


class Unreachable(Exception):
    """Nothing was sent. The message is as `Broken`'s."""


class Broken(Exception):
    """Something was sent, and no answer came that is one. The message names no address and nothing of this node's."""


class Busy(Broken):
    """The answer says: not now."""
