"""Models that another machine serves by the Open Inference Protocol: what they are, whether they are ready, inference.

Only the operator names such sources, so their addresses are not judged. One fresh connection for each inference: what
fails before it is connected is tried once more, what fails later never is, since the server may have begun. What comes
back must be the recorded outputs, in type, shape and bytes, within a bound.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import httpx

from wisp.egress.remotemodels import Broken, Busy, RemoteModel, Source, Unreachable
from wisp.egress.remoterequests import RemoteRequests
from wisp.errors import InvalidModel, InvalidRequest, RequestTooLarge
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
from wisp.wire.tensors import MAX_TENSORS, TensorSpec

CONNECT_S: Final = 2.0
METADATA_S: Final = 10.0
REST_S: Final = 1.0
"""Without another attempt, after a server that could not be connected to."""
BINARY: Final = "binary_tensor_data"
BUSY: Final = (429, 503)

BearerOf = Callable[[str, str], Awaitable[str]]
"""From model@version and its source; empty where there is none. Raises `RegistryUnavailable`."""

Hold = Callable[[int], None]
"""Told of a number of bytes before they are kept. Raises where there is no room."""


def not_counted(_bytes: int) -> None:
    """Where something else bounds them."""


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
        """For one invocation."""
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
