"""Models that another machine serves by the Open Inference Protocol: `oip+http://host:port[/prefix]/model@version`.

Only the operator names such sources, so their addresses are not judged. One fresh connection for each inference: what
fails before it is connected is tried once more, what fails later never is, since the server may have begun. What comes
back must be the recorded outputs, in type, shape and bytes, within a bound.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpx

from wisp.errors import InvalidFrame, InvalidModel, InvalidRequest, RegistryUnavailable, RequestTooLarge
from wisp.oip.datatypes import parse_datatype
from wisp.oip.messages import (
    JSON_LENGTH,
    MAX_JSON_BYTES,
    Object,
    Tensor,
    encode_inference,
    parse_name,
    parse_object,
    parse_shape,
    parse_tensors,
    split,
)
from wisp.wire.meters import Metered
from wisp.wire.outbound import Inbound, Status
from wisp.wire.remote import decode_carried, encode_carried
from wisp.wire.tensors import MAX_TENSORS, TensorRef, TensorSpec

CONNECT_S: Final = 2.0
METADATA_S: Final = 10.0
REST_S: Final = 1.0
"""Without another attempt, after a server that could not be connected to."""
MAX_SOURCE_CHARS: Final = 1024
SEGMENT: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}", re.ASCII)
HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}|[0-9A-Fa-f:.]{2,45}", re.ASCII)
BINARY: Final = "binary_tensor_data"
NS: Final = 1_000_000_000

BUSY: Final = (429, 503)

BearerOf = Callable[[str, str], Awaitable[str]]
"""From model@version and its source; empty where there is none. Raises `RegistryUnavailable`."""

Hold = Callable[[int], None]
"""Told of a number of bytes before they are kept. Raises where there is no room."""


def not_counted(_bytes: int) -> None:
    """Where something else bounds them."""


class Unreachable(Exception):
    """Nothing was sent. The message is as `Broken`'s."""


class Broken(Exception):
    """Something was sent, and no answer came that is one. The message names no address and nothing of this node's."""


class Busy(Broken):
    """The answer says: not now."""


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
    """As one function may use it; `name` is model@version."""

    name: str
    source: Source
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_inferences: int
    max_time_ns: int
    binary: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """`binary`: its server takes tensors as bytes."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    binary: bool


class Remotes:
    """One for a node; belongs to one event loop."""

    def __init__(self, bearer_of: BearerOf) -> None:
        self._bearer_of = bearer_of
        self._transport = httpx.AsyncHTTPTransport(
            retries=0, limits=httpx.Limits(max_connections=None, max_keepalive_connections=0)
        )
        self._resting: dict[str, float] = {}
        """Authorities that could not be connected to, and until when nobody tries."""

    async def close(self) -> None:
        await self._transport.aclose()

    def open(self, models: tuple[RemoteModel | None, ...], limit_bytes: int) -> RemoteRequests:
        """For one invocation; `models` by their numbers in its binding."""
        return RemoteRequests(self, models, limit_bytes)

    async def describe(self, source: Source, bearer: str) -> Described:
        """Raises `InvalidModel`, naming what is wrong there."""
        try:
            async with asyncio.timeout(METADATA_S):
                _, body = await self._exchange(source, bearer, httpx.Request("GET", source.url), MAX_JSON_BYTES)
                _, about = await self._exchange(source, bearer, httpx.Request("GET", source.server), MAX_JSON_BYTES)
            found = parse_object(body, "its metadata")
            extensions = parse_object(about, "its server's metadata").get("extensions")
            return Described(
                inputs=_specs(found, "inputs"),
                outputs=_specs(found, "outputs"),
                binary=type(extensions) is list and BINARY in extensions,
            )
        except TimeoutError:
            raise InvalidModel(f"{source} does not answer") from None
        except (Unreachable, Broken) as error:
            raise InvalidModel(f"{source}: {error}") from error
        except (InvalidRequest, RequestTooLarge) as error:
            raise InvalidModel(f"{source}: {error.message}") from error

    async def ask_ready(self, model: RemoteModel) -> None:
        """Returns if its server says that it is. Raises `Unreachable`, `Broken`, `RegistryUnavailable`."""
        bearer = await self._bearer_of(model.name, str(model.source))
        request = httpx.Request("GET", f"{model.source.url}/ready")
        await self._exchange(model.source, bearer, request, MAX_JSON_BYTES)

    async def infer(
        self, model: RemoteModel, inputs: tuple[Tensor, ...], limit_bytes: int, hold: Hold = not_counted
    ) -> tuple[Tensor, ...]:
        """Its outputs, in the recorded order. `hold` is told of all bytes that are kept until it returns.

        Raises `Unreachable`, `Broken`, `RegistryUnavailable` where its bearer does not open, `InvalidRequest` for
        inputs that are too large for a server that takes JSON alone, and what `hold` raises."""
        bearer = await self._bearer_of(model.name, str(model.source))
        names = tuple(spec.name for spec in model.outputs)
        text, blobs = encode_inference(inputs, names, binary=model.binary)
        hold(len(text) + sum(map(len, blobs)))
        request = httpx.Request(
            "POST",
            f"{model.source.url}/infer",
            headers={JSON_LENGTH: str(len(text)), "content-type": "application/octet-stream"}
            if model.binary
            else {"content-type": "application/json"},
            content=b"".join((text, *blobs)),
        )
        headers, body = await self._exchange(model.source, bearer, request, limit_bytes, hold)
        length = headers.get(JSON_LENGTH)
        if length is not None and not (length.isascii() and length.isdigit() and len(length) < 11):
            raise Broken(f"an answer whose {JSON_LENGTH} is no number")
        try:
            head, rest = split(body, None if length is None else int(length), "the answer")
            outputs, rest = parse_tensors(parse_object(head, "the answer"), "outputs", rest)
        except (InvalidRequest, RequestTooLarge) as error:
            raise Broken(error.message) from error
        return _as_recorded(model, outputs, rest)

    async def _exchange(
        self, source: Source, bearer: str, request: httpx.Request, limit_bytes: int, hold: Hold = not_counted
    ) -> tuple[httpx.Headers, memoryview]:
        if time.monotonic() < self._resting.get(source.authority, 0.0):
            raise Unreachable("it could not be connected to a moment ago")
        request.extensions["timeout"] = {"connect": CONNECT_S}
        if bearer:
            request.headers["authorization"] = f"Bearer {bearer}"
        try:
            response = await self._connected(request)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self._resting[source.authority] = time.monotonic() + REST_S
            raise Unreachable("it cannot be connected to") from error
        except httpx.HTTPError as error:
            raise Broken(f"the connection broke: {type(error).__name__}") from error
        self._resting.pop(source.authority, None)
        body = bytearray()
        try:
            async for chunk in response.stream:  # type: ignore[union-attr]  # an async transport's stream is one
                if len(body) + len(chunk) > limit_bytes:
                    raise Broken(f"an answer of more than {limit_bytes} bytes")
                hold(len(chunk))
                body += chunk
        except httpx.HTTPError as error:
            raise Broken(f"the answer broke off: {type(error).__name__}") from error
        finally:
            await response.aclose()
        if response.status_code != 200:
            kind = Busy if response.status_code in BUSY else Broken
            raise kind(f"it answers {response.status_code}")
        return response.headers, memoryview(body)

    async def _connected(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._transport.handle_async_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout):  # nothing was sent
            return await self._transport.handle_async_request(request)


class RemoteRequests:
    """Those of one invocation."""

    def __init__(self, remotes: Remotes, models: tuple[RemoteModel | None, ...], limit_bytes: int) -> None:
        self._remotes = remotes
        self._models = models
        self._limit_bytes = limit_bytes
        self._spent = [0] * len(models)

    async def compute(self, message: bytes, deadline_ns: int) -> tuple[Inbound, Metered]:
        """What to tell the sandbox, and what to bill. Raises `InvalidFrame`. Cancelling it closes the connection."""
        carried = decode_carried(message)
        model = self._models[carried.model] if carried.model < len(self._models) else None
        if model is None:
            raise InvalidFrame("an inference of a model that is not remote")
        given = [(ref.index, ref.dtype, ref.dims) for ref in carried.tensors]
        if [index for index, _, _ in given] != list(range(len(model.inputs))) or not all(
            spec.accepts(dtype, dims) for spec, (_, dtype, dims) in zip(model.inputs, given, strict=True)
        ):
            return Inbound(status=Status.INVALID), Metered()
        if self._spent[carried.model] >= model.max_inferences:
            return Inbound(status=Status.EXHAUSTED), Metered()
        self._spent[carried.model] += 1
        inputs = tuple(
            Tensor(
                name=spec.name,
                dtype=ref.dtype,
                shape=ref.dims,
                data=carried.data[ref.offset : ref.offset + ref.length],
            )
            for spec, ref in zip(model.inputs, carried.tensors, strict=True)
        )
        began_ns = time.monotonic_ns()
        left_ns = deadline_ns - began_ns
        answer, outputs = await self._ask(model, inputs, min(left_ns, model.max_time_ns), left_ns)
        spent_ns = time.monotonic_ns() - began_ns
        if answer.status is Status.OK:
            refs = [
                TensorRef(index=index, dtype=one.dtype, dims=one.shape, offset=0, length=len(one.data))
                for index, one in enumerate(outputs)
            ]
            content = encode_carried(carried.model, spent_ns, refs, [one.data for one in outputs])
            answer = Inbound(status=Status.OK, content=content)
        size = sum(len(one.data) for one in (*inputs, *outputs))
        return answer, Metered(nn_ns=spent_ns, inferences=1, tensor_bytes=size)

    async def _ask(
        self, model: RemoteModel, inputs: tuple[Tensor, ...], most_ns: int, left_ns: int
    ) -> tuple[Inbound, tuple[Tensor, ...]]:
        try:
            async with asyncio.timeout(max(0, most_ns) / NS):
                return Inbound(status=Status.OK), await self._remotes.infer(model, inputs, self._limit_bytes)
        except TimeoutError:
            if most_ns >= left_ns:
                return Inbound(status=Status.DEADLINE), ()
            return _failed(Status.UNREACHABLE, "it took longer than max_time"), ()
        except Unreachable as error:
            return _failed(Status.UNREACHABLE, str(error)), ()
        except Broken as error:
            return _failed(Status.PROTOCOL, str(error)), ()
        except RegistryUnavailable:
            return _failed(Status.UNREACHABLE, "its bearer does not open with this node's WISP_SECRETS_KEY"), ()
        except InvalidRequest as error:
            return _failed(Status.TOO_LARGE, error.message), ()


def _failed(status: Status, words: str) -> Inbound:
    return Inbound(status=status, content=words.encode("utf-8", "backslashreplace"))


def _as_recorded(model: RemoteModel, outputs: tuple[Tensor, ...], rest: memoryview) -> tuple[Tensor, ...]:
    by_name = {output.name: output for output in outputs}
    if rest or by_name.keys() != {spec.name for spec in model.outputs}:
        raise Broken("an answer with other outputs than the recorded ones")
    for spec in model.outputs:
        if not spec.accepts(by_name[spec.name].dtype, by_name[spec.name].shape):
            raise Broken(f"output {spec.name!a} is of another type or shape than recorded")
    return tuple(by_name[spec.name] for spec in model.outputs)


def _specs(found: Object, key: str) -> tuple[TensorSpec, ...]:
    items = found.get(key)
    if type(items) is not list or not 0 < len(items) <= MAX_TENSORS or not all(type(item) is dict for item in items):
        raise InvalidRequest(f"its metadata has no list of {key}")
    specs = tuple(
        TensorSpec(
            name=parse_name(item, key),
            dtype=parse_datatype(item.get("datatype")),
            shape=parse_shape(item.get("shape"), key, least=-1),
        )
        for item in items
    )
    if len({spec.name for spec in specs}) != len(specs):
        raise InvalidRequest(f"its metadata names one of the {key} twice")
    return specs
