"""The types of single policy fields: what each reads, its range, and the sentence that says what was expected.

Amounts become whole numbers, times whole nanoseconds. `type(x) is int` throughout: to Python, `true` is a number.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from wisp.policy.choices import Abi, Access, Batch, Clock, ControlFlow, Method, MountSource, OnViolation, Random, Target
from wisp.policy.hostrules import MAX_REQUESTS
from wisp.policy.hosts import HostPattern, parse_host_pattern
from wisp.policy.modelref import ModelRef, parse_model_ref
from wisp.policy.paths import MAX_PATH, parse_glob, parse_mount_point
from wisp.policy.quantity import (
    AMOUNT_RULE,
    NS_PER_MS,
    NS_PER_S,
    PAGE_BYTES,
    TIME_RULE,
    parse_amount,
    parse_time_ns,
    print_amount,
    print_size,
    print_time,
)

MAX_FUEL = 10**18
MAX_MEMORY_BYTES = 2**32
MAX_SIZE_BYTES = 2**40
MAX_DAILY_BYTES = 2**50
MAX_BODY_BYTES = 2**30
MAX_LOG_BYTES = 16 * 2**20
MAX_TIME_NS = 3600 * NS_PER_S
MAX_INFERENCES = 1_000_000
MAX_MODELS = 64
MAX_MOUNTS = 32
MAX_GLOBS = 64
MAX_VARIABLES = 128
MAX_VALUE = 8_192
MAX_HOSTS = 128

# What the platform itself tells a guest, by CGI/1.1; a policy may not speak in its name.
_CGI = frozenset(
    {
        *("AUTH_TYPE", "CONTENT_LENGTH", "CONTENT_TYPE", "GATEWAY_INTERFACE", "PATH_INFO", "PATH_TRANSLATED"),
        *("QUERY_STRING", "REMOTE_ADDR", "REMOTE_HOST", "REMOTE_IDENT", "REMOTE_USER", "REQUEST_METHOD"),
        *("SCRIPT_NAME", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL", "SERVER_SOFTWARE"),
    }
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_GRAPH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_EXPORT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}", re.ASCII)


def _within(number: int, low: int, high: int, show: Callable[[int], str]) -> int:
    if not low <= number <= high:
        raise ValueError(f"expected {show(low)} to {show(high)}")
    return number


def _amount(low: int, high: int, show: Callable[[int], str] = print_amount) -> BeforeValidator:
    def check(value: object) -> int:
        if type(value) is int:
            return _within(value, low, high, show)
        if type(value) is not str:
            raise ValueError(f"expected {AMOUNT_RULE}")
        return _within(parse_amount(value), low, high, show)

    return BeforeValidator(check)


def _time(low_ns: int, high_ns: int = MAX_TIME_NS) -> BeforeValidator:
    def check(value: object) -> int:
        if type(value) is not str:
            raise ValueError(f"expected {TIME_RULE}")
        return _within(parse_time_ns(value), low_ns, high_ns, print_time)

    return BeforeValidator(check)


def _count(low: int, high: int) -> BeforeValidator:
    def check(value: object) -> int:
        if type(value) is not int:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return _within(value, low, high, str)

    return BeforeValidator(check)


def _text(parse: Callable[[str], Any]) -> BeforeValidator:
    def check(value: object) -> object:
        if type(value) is not str:
            raise ValueError("expected text; quote it if it is meant")
        return parse(value)

    return BeforeValidator(check)


def _word(kind: type[StrEnum], *members: StrEnum) -> BeforeValidator:
    """One of a closed set, or of those of its `members` that are named."""
    words = {str(member): member for member in (members or kind)}

    def check(value: object) -> StrEnum:
        if type(value) is not str or value not in words:
            raise ValueError(f"expected {'one of ' if len(words) > 1 else ''}{', '.join(words)}")
        return words[value]

    return BeforeValidator(check)


def _spelled(pattern: re.Pattern[str], rule: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if pattern.fullmatch(text) is None:
            raise ValueError(f"expected {rule}")
        return text

    return parse


def parse_variable(text: str) -> str:
    if _VARIABLE.fullmatch(text) is None:
        raise ValueError("expected a variable's name: letters, digits and '_', no digit first, at most 128")
    if text in _CGI or text.startswith(("HTTP_", "WISP_")):
        raise ValueError("this name is the platform's own (CGI, HTTP_* and WISP_*)")
    return text


def _value(text: str) -> str:
    if len(text) > MAX_VALUE:
        raise ValueError(f"expected at most {MAX_VALUE} characters")
    return text


def _network(text: str) -> str:
    if text == "private":
        return text
    try:
        return str(ipaddress.ip_network(text[:64]))
    except ValueError:
        raise ValueError("expected 'private' or a network such as 10.0.0.0/8 or fd00::/8") from None


def _version(value: object) -> int:
    if type(value) is not int or value != 1:
        raise ValueError("expected 1, the one version of this vocabulary there is")
    return value


_AMOUNT_SCHEMA = WithJsonSchema(
    {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+(k|M|G|T|Ki|Mi|Gi|Ti)?$"}]}
)
_TIME_SCHEMA = WithJsonSchema({"type": "string", "pattern": "^[0-9]+(ms|s)$"})
_TEXT_SCHEMA = WithJsonSchema({"type": "string"})


def _counted(low: int, high: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "integer", "minimum": low, "maximum": high})


Vocabulary = Annotated[int, BeforeValidator(_version), WithJsonSchema({"const": 1})]
Fuel = Annotated[int, _amount(1, MAX_FUEL), _AMOUNT_SCHEMA]
Memory = Annotated[int, _amount(PAGE_BYTES, MAX_MEMORY_BYTES, print_size), _AMOUNT_SCHEMA]
Timeout = Annotated[int, _time(NS_PER_MS), _TIME_SCHEMA]
QueueTimeout = Annotated[int, _time(NS_PER_MS, 60 * NS_PER_S), _TIME_SCHEMA]
BodySize = Annotated[int, _amount(0, MAX_BODY_BYTES, print_size), _AMOUNT_SCHEMA]
Scratch = Annotated[int, _amount(1, MAX_SIZE_BYTES, print_size), _AMOUNT_SCHEMA]
LogSize = Annotated[int, _amount(0, MAX_LOG_BYTES, print_size), _AMOUNT_SCHEMA]
Size = Annotated[int, _amount(0, MAX_SIZE_BYTES, print_size), _AMOUNT_SCHEMA]
DailyBytes = Annotated[int, _amount(0, MAX_DAILY_BYTES, print_size), _AMOUNT_SCHEMA]
DailyFuel = Annotated[int, _amount(0, MAX_FUEL), _AMOUNT_SCHEMA]
Inferences = Annotated[int, _count(1, MAX_INFERENCES), _counted(1, MAX_INFERENCES)]
InferenceCap = Annotated[int, _count(0, MAX_INFERENCES), _counted(0, MAX_INFERENCES)]
OutboundRequests = Annotated[int, _count(0, MAX_REQUESTS), _counted(0, MAX_REQUESTS)]
Count = Annotated[int, _count(0, 1_000_000), _counted(0, 1_000_000)]
Positive = Annotated[int, _count(1, 1_000_000), _counted(1, 1_000_000)]
DailySeconds = Annotated[int, _count(0, 10**9), _counted(0, 10**9)]

Graph = Annotated[str, _text(_spelled(_GRAPH, "letters, digits, '.', '_' and '-', at most 128")), _TEXT_SCHEMA]
ExportName = Annotated[str, _text(_spelled(_EXPORT, "an export's name, such as _start or run")), _TEXT_SCHEMA]
Model = Annotated[ModelRef, _text(parse_model_ref), _TEXT_SCHEMA]
MountPoint = Annotated[str, _text(parse_mount_point), _TEXT_SCHEMA]
Glob = Annotated[str, _text(parse_glob), WithJsonSchema({"type": "string", "maxLength": MAX_PATH})]
Variable = Annotated[str, _text(parse_variable), _TEXT_SCHEMA]
VariableValue = Annotated[str, _text(_value), WithJsonSchema({"type": "string", "maxLength": MAX_VALUE})]
Host = Annotated[HostPattern, _text(parse_host_pattern), _TEXT_SCHEMA]
Network = Annotated[str, _text(_network), _TEXT_SCHEMA]

AbiWord = Annotated[Abi, _word(Abi)]
AccessWord = Annotated[Access, _word(Access)]
ClockWord = Annotated[Clock, _word(Clock)]
MethodWord = Annotated[Method, _word(Method)]
SourceWord = Annotated[MountSource, _word(MountSource)]
ViolationWord = Annotated[OnViolation, _word(OnViolation)]
RandomWord = Annotated[Random, _word(Random)]
ControlFlowWord = Annotated[ControlFlow, _word(ControlFlow)]
TargetWord = Annotated[Target, _word(Target)]
BatchWord = Annotated[Batch, _word(Batch)]
PlaceWord = Annotated[
    Target, _word(Target, Target.CPU, Target.GPU), WithJsonSchema({"type": "string", "enum": ["cpu", "gpu"]})
]
CeilingKind = Annotated[str, _text(_spelled(re.compile("ceiling"), "ceiling")), WithJsonSchema({"const": "ceiling"})]
ClassKind = Annotated[str, _text(_spelled(re.compile("class"), "class")), WithJsonSchema({"const": "class"})]
