"""What changes between two documents of a kind, or two grants, field by field, and for whom it is good.

Entries of lists are told apart by what they are called (a model's name, a mount's place), not by where they stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from wisp.policy.choices import Clock
from wisp.policy.grants import Grants
from wisp.policy.hostrules import METHODS
from wisp.policy.quantity import parse_amount, parse_time_ns
from wisp.policy.schema import Ceiling, Policy, TenantClass
from wisp.policy.written import Written, print_flow, written

_NAMES = {"models": "name", "files": "mount", "allowed_outbound_hosts": "host"}
"""The key that tells the entries of a list apart."""
_NARROWING = frozenset({"blocked_networks"})
"""Lists of what is not allowed."""
_NEUTRAL = frozenset(
    {"abi", "entrypoint", "on_violation", "access", "environment", "model", "from", "path", "kind", "batch"}
)
"""Keys whose values are neither more nor less than one another."""
_ORDERED: dict[str, tuple[str, ...]] = {
    "clock": (Clock.FROZEN, Clock.COARSE, Clock.REAL),
    "random": ("frozen", "real"),
}


class Effect(StrEnum):
    """For whoever stands under the document."""

    GAINS = "gains"
    LOSES = "loses"
    CHANGES = "changes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`before` and `after` as a document writes them; None where nothing stands there."""

    field: str
    before: str | None
    after: str | None
    effect: Effect

    def as_json(self) -> dict[str, object]:
        return {"field": self.field, "from": self.before, "to": self.after, "effect": self.effect.value}


def document_changes(
    before: Policy | Ceiling | TenantClass, after: Policy | Ceiling | TenantClass
) -> tuple[Change, ...]:
    """Of two documents of one kind. A limit that a policy leaves out is whatever the class gives, so its coming and
    going is neither gain nor loss."""
    return _changes(written(before), written(after))


def grants_changes(before: Grants, after: Grants) -> tuple[Change, ...]:
    """Between two grants of one function."""
    return _changes(written(before.as_json()), written(after.as_json()))


def _changes(before: Written, after: Written) -> tuple[Change, ...]:
    return tuple(_walk(before, after, "", ""))


def _walk(old: Written | None, new: Written | None, field: str, key: str) -> Iterator[Change]:
    """`key`: the word of the vocabulary that says what kind of thing stands at `field`."""
    if isinstance(old, list) or isinstance(new, list):
        yield from _walk_entries(_entries(old, key), _entries(new, key), field, key)
    elif isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys((*old, *new)):
            inner = key if key == "environment" else name
            yield from _walk(old.get(name), new.get(name), f"{field}.{name}" if field else name, inner)
    elif old != new:
        yield Change(field=field, before=_shown(old), after=_shown(new), effect=_effect(key, old, new))


def _entries(value: Written | None, key: str) -> dict[str, Written]:
    """A list by what its entries are called."""
    items = value if isinstance(value, list) else []
    return {str(item[_NAMES[key]] if isinstance(item, dict) else item): item for item in items}


def _walk_entries(old: dict[str, Written], new: dict[str, Written], field: str, key: str) -> Iterator[Change]:
    for name in dict.fromkeys((*old, *new)):
        former, latter, place = old.get(name), new.get(name), f"{field}[{name}]"
        if former is not None and latter is not None:
            yield from _walk(_spelled_out(former, key), _spelled_out(latter, key), place, key)
        else:
            gains = (former is None) != (key in _NARROWING)
            effect = Effect.GAINS if gains else Effect.LOSES
            yield Change(field=place, before=_shown(former), after=_shown(latter), effect=effect)


def _spelled_out(entry: Written, key: str) -> Written:
    """A host alone allows every method: as a mapping, it can be told which of them come and go."""
    if key == "allowed_outbound_hosts" and isinstance(entry, str):
        return {"host": entry, "methods": [method.value for method in METHODS]}
    return entry


def _effect(key: str, old: Written | None, new: Written | None) -> Effect:
    more = None if key in _NEUTRAL else _compare(key, old, new)
    return Effect.CHANGES if more is None else Effect.GAINS if more else Effect.LOSES


def _compare(key: str, old: Written | None, new: Written | None) -> bool | None:
    """Whether the new value allows more; None if that cannot be said."""
    if old is None or new is None:
        return None
    if isinstance(old, bool) and isinstance(new, bool):
        return new
    order = _ORDERED.get(key)
    if order is not None and old in order and new in order:
        return order.index(str(new)) > order.index(str(old))
    if key == "target" and "any" in (old, new):
        return new == "any"
    former, latter = _amount(old), _amount(new)
    return None if former is None or latter is None else latter > former


def _amount(value: Written) -> int | None:
    if isinstance(value, int):
        return value
    for parse in (parse_amount, parse_time_ns):
        try:
            return parse(str(value))
        except ValueError:
            continue
    return None


def _shown(value: Written | None) -> str | None:
    return None if value is None else print_flow(value)
