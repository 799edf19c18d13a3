"""Request bodies of the control plane: read under a cap and a deadline, and JSON checked strictly.

Nothing here trusts `Content-Length`: it can only refuse sooner.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import Receive

from wisp.errors import InvalidRequest, RequestTimeout, RequestTooLarge

JSON_BYTES: Final = 64 * 1024
SHOWN_FAULTS: Final = 5

MESSAGE_CHARS: Final = 500
BEARER: Final = "^[!-~]{1,4096}$"

T = TypeVar("T", bound=BaseModel)

Message = Annotated[str, Field(max_length=MESSAGE_CHARS)]
"""Why somebody changed something, for the history."""


class ClientGone(Exception):
    """The caller closed the connection: nobody is left to answer."""


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class NewTenant(Body):
    tenant: str
    class_name: str = Field("free", alias="class")


class TenantPatch(Body):
    class_name: str | None = Field(None, alias="class")
    suspended: bool | None = None


class NewKey(Body):
    role: Literal["deploy", "invoke"]
    functions: Annotated[list[str], Field(min_length=1, max_length=256)] | None = None


class ModelSource(Body):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    source: Annotated[str, Field(max_length=1024)]
    bearer: Annotated[str, Field(pattern=BEARER, repr=False)] = ""


class FunctionPatch(Body):
    suspended: bool


class Activation(Body):
    version: Annotated[int, Field(ge=1, le=2**53)]
    message: Message = ""


class TrafficShare(Body):
    version: Annotated[int, Field(ge=1, le=2**53)]
    percent: int


class Stickiness(Body):
    header: str | None = None
    key: bool | None = None


class GuardTerms(Body):
    max_error_rate: float
    min_requests: int
    window: str


class TrafficPlan(Body):
    """What it means is judged by `api.traffic`, with a fault for each field."""

    split: Annotated[list[TrafficShare], Field(max_length=256)]
    sticky: Stickiness | None = None
    guard: GuardTerms | None = None
    message: Message = ""


def content_length(values: list[bytes]) -> int | None:
    """None where the body is chunked. The server's parser has checked the form already."""
    if len(values) == 1 and values[0].isdigit() and len(values[0]) < 20:
        return int(values[0])
    return None


async def chunks(receive: Receive, *, total_s: float, idle_s: float) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises `RequestTimeout` and `ClientGone`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + total_s
    more = True
    while more:
        try:
            async with asyncio.timeout_at(min(end, loop.time() + idle_s)):
                message = await receive()
        except TimeoutError:
            raise RequestTimeout("the body did not arrive in time") from None
        if message["type"] != "http.request":
            raise ClientGone
        more = message.get("more_body", False)
        chunk = message.get("body", b"")
        if chunk:
            yield chunk


def refuse_longer(length: int | None, limit_bytes: int, what: str) -> None:
    if length is not None and length > limit_bytes:
        raise too_large(what, limit_bytes, length)


def too_large(what: str, limit_bytes: int, used: int) -> RequestTooLarge:
    return RequestTooLarge(f"{what} may have {limit_bytes} bytes", limit=limit_bytes, used=used)


async def read(receive: Receive, *, length: int | None, limit_bytes: int, what: str, time_s: float) -> bytes:
    """All of a small body. Raises `RequestTooLarge`, `RequestTimeout` and `ClientGone`."""
    refuse_longer(length, limit_bytes, what)
    body = bytearray()
    async for chunk in chunks(receive, total_s=time_s, idle_s=time_s):
        body += chunk
        if len(body) > limit_bytes:
            raise too_large(what, limit_bytes, len(body))
    return bytes(body)


def parse_json(text: bytes, kind: type[T]) -> T:
    """Raises `InvalidRequest`: no JSON, a key twice or unknown, a value of another type."""
    try:
        json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
        return kind.model_validate_json(text)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg']}" for each in error.errors()]
        raise InvalidRequest(_one_line("; ".join(found[:SHOWN_FAULTS]))) from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequest(f"the body is not JSON: {_one_line(reason)}") from error


def _one_line(text: str) -> str:
    """Keys are the caller's own text: shown back printable and bounded."""
    return text[:500] if text.isprintable() else ascii(text[:500])


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
