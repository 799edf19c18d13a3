"""The names that tenants, functions, models and blobs go by, and the only parsers that make them.

A value of one of these types has passed its grammar, so it may stand in a Redis key, a file name or a metric label.
Nothing else may: `cast`ing a string to a name anywhere else is a defect.
"""

from __future__ import annotations

import itertools
import re
import secrets
from typing import Final, NewType

from wisp.errors import Fault, InvalidName

TenantName = NewType("TenantName", str)
FunctionName = NewType("FunctionName", str)
ModelName = NewType("ModelName", str)
ClassName = NewType("ClassName", str)
KeyId = NewType("KeyId", str)
Digest = NewType("Digest", str)
"""`sha256:` and 64 lower-case hexadecimal digits."""
RequestId = NewType("RequestId", str)

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
KEY_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)

NAME_RULE = "1 to 63 of a-z, 0-9 and '-', neither first nor last a '-'"
RESERVED_FUNCTIONS = frozenset({"v2"})
"""`/t/<tenant>/v2/` belongs to the Open Inference Protocol."""


def _parse(kind: str, text: str) -> str:
    if NAME.fullmatch(text) is None:
        shown = ascii(text[:80])
        raise InvalidName(f"{kind} name {shown} is not {NAME_RULE}", (Fault(field=kind, message=NAME_RULE),))
    return text


def parse_tenant(text: str) -> TenantName:
    return TenantName(_parse("tenant", text))


def parse_function(text: str) -> FunctionName:
    if text in RESERVED_FUNCTIONS:
        raise InvalidName(f"a function may not be called {text!r}", (Fault(field="function", message="reserved"),))
    return FunctionName(_parse("function", text))


def parse_account(text: str) -> FunctionName:
    """As usage is kept: a function, or a reserved name, for what runs without one."""
    return FunctionName(text) if text in RESERVED_FUNCTIONS else parse_function(text)


def parse_model(text: str) -> ModelName:
    return ModelName(_parse("model", text))


def parse_class(text: str) -> ClassName:
    return ClassName(_parse("class", text))


def parse_key_id(text: str) -> KeyId:
    if KEY_ID.fullmatch(text) is None:
        raise InvalidName("a key id is 16 hexadecimal digits", (Fault(field="key", message="16 hexadecimal digits"),))
    return KeyId(text)


def parse_digest(text: str) -> Digest:
    if DIGEST.fullmatch(text) is None:
        message = "a digest is 'sha256:' and 64 lower-case hexadecimal digits"
        raise InvalidName(message, (Fault(field="digest", message=message),))
    return Digest(text)


_PROCESS = secrets.token_hex(8)
"""So that no two processes, and no two lives of one, give the same request id."""
_requests = itertools.count(1)


def request_id(offered: str | None) -> RequestId:
    """The caller's `x-request-id` if it is sane, else a new one."""
    if offered is not None and REQUEST_ID.fullmatch(offered) is not None:
        return RequestId(offered)
    return RequestId(f"{_PROCESS}{next(_requests):08x}")


LINES: Final = "wisp.lines"
"""An extension of ASGI that a server announces: with `http.response.start` the application may send as `lines` headers
in the form in which they stand on the wire. They are not looked at: nothing in them is a caller's or a guest's."""
