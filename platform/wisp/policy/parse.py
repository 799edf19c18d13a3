"""From a document's bytes to a validated value, or to all its faults at once, each with its line and column."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final, TypeVar

from pydantic import ValidationError

from wisp.errors import Fault, InvalidPolicy
from wisp.policy.coherence import Finding, ceiling_findings, class_findings, policy_findings
from wisp.policy.document import Positions, Value, read
from wisp.policy.faults import schema_faults
from wisp.policy.schema import Ceiling, Policy, Section, TenantClass
from wisp.policy.shown import shown

MAX_FAULTS = 100
REMEMBERED: Final = 1024
REMEMBERED_CHARS: Final = 4096
"""Longer ones are read again each time: what tenants store must not fill the memory."""

_S = TypeVar("_S", bound=Section)


def parse_policy(text: bytes) -> Policy:
    """A tenant's policy; its `positions` say where everything stands. Raises InvalidPolicy."""
    policy, positions = _parse(text, Policy, policy_findings)
    policy._positions = positions
    return policy


def stored_policy(text: str) -> Policy:
    """One that was accepted before: many functions have the same, and reading one takes a millisecond."""
    return _remembered(text) if len(text) <= REMEMBERED_CHARS else parse_policy(text.encode())


@lru_cache(REMEMBERED)
def _remembered(text: str) -> Policy:
    return parse_policy(text.encode())


def parse_ceiling(text: bytes) -> Ceiling:
    """The operator's `ceiling.yaml`. Raises InvalidPolicy."""
    return _parse(text, Ceiling, ceiling_findings)[0]


def parse_class(text: bytes) -> TenantClass:
    """An operator's `class-<name>.yaml`. Raises InvalidPolicy."""
    return _parse(text, TenantClass, class_findings)[0]


def _parse(text: bytes, kind: type[_S], findings: Callable[[Value], Iterator[Finding]]) -> tuple[_S, Positions]:
    document = read(text)
    if not isinstance(document.value, dict):
        at = document.positions.values[()]
        message = f"expected a mapping that begins with wisp: 1, not {shown(document.value)}"
        raise _invalid(kind, [Fault(field="document", message=message, line=at.line, column=at.column)])
    faults = list(document.faults)
    faults += [document.positions.fault(path, message) for path, message in findings(document.value)]
    try:
        value = kind.model_validate(document.value)
    except ValidationError as error:
        raise _invalid(kind, faults + schema_faults(error, document, kind)) from None
    if faults:
        raise _invalid(kind, faults)
    return value, document.positions


def _invalid(kind: type[Section], faults: list[Fault]) -> InvalidPolicy:
    assert faults, "an error without a fault would tell nobody what to mend"
    faults.sort(key=lambda fault: (fault.line or 0, fault.column or 0))
    first = faults[0]
    many = "1 fault" if len(faults) == 1 else f"{len(faults)} faults, the first"
    message = f"the {kind.kind_name} has {many}: line {first.line}, {first.field}: {first.message}"
    return InvalidPolicy(message, tuple(faults[:MAX_FAULTS]))
