"""What takes two keys to see: repeated names, keys that do not go together, defaults above limits.

Judged on plain values, before and beside the schema, so that one upload shows all its faults. Whatever has the wrong
shape is passed over here: the schema has said so.
"""

from __future__ import annotations

from collections.abc import Iterator

from wisp.policy.document import Path, Value
from wisp.policy.hostrules import DEFAULT_REQUESTS
from wisp.policy.quantity import parse_amount, parse_time_ns

Finding = tuple[Path, str]

_REPEATED = "this stands in the list already"


def policy_findings(value: Value) -> Iterator[Finding]:
    yield from _repeated(value, "models", "name")
    yield from _repeated(value, "files", "mount")
    yield from _repeated(value, "secrets")
    yield from _outbound_hosts(value)
    for index, mount in enumerate(_items(value, "files")):
        yield from _mount(mount, ("files", index))
    if _get(value, "abi") == "handler" and _get(value, "entrypoint") is not None:
        yield ("entrypoint",), "only abi: command has an entrypoint; a handler's is wisp_handle"
    environment = _get(value, "environment")
    for index, secret in enumerate(_items(value, "secrets")):
        if isinstance(environment, dict) and isinstance(secret, str) and secret in environment:
            yield ("secrets", index), "environment sets this name already"


def ceiling_findings(value: Value) -> Iterator[Finding]:
    yield from _outbound_hosts(value)
    yield from _repeated(value, "blocked_networks")


def class_findings(value: Value) -> Iterator[Finding]:
    limits, defaults = _get(value, "limits"), _get(value, "defaults")
    if not isinstance(limits, dict) or not isinstance(defaults, dict):
        return
    limits = {"outbound_requests": DEFAULT_REQUESTS} | limits
    for key, default in defaults.items():
        most, asked = _quantity(limits.get(key)), _quantity(default)
        if most is not None and asked is not None and asked > most:
            yield ("defaults", key), f"expected at most this class's limits.{key}, which is {limits[key]}"


def _mount(mount: Value, path: Path) -> Iterator[Finding]:
    source = _get(mount, "from")
    if source not in ("bundle", "host", "scratch", "log"):
        return
    if source == "host" and _get(mount, "path") is None:
        yield path, "from: host needs a path, the operator's directory"
    for key, sources in (("path", ("host",)), ("quota", ("scratch",)), ("allow", ("bundle", "host"))):
        if source not in sources and _get(mount, key) is not None:
            yield (*path, key), f"this key goes with from: {' or '.join(sources)} only"


def _outbound_hosts(value: Value) -> Iterator[Finding]:
    """An entry is a host's text, or a mapping with one; two for one host would leave open which holds."""
    key = "allowed_outbound_hosts"
    hosts: set[str] = set()
    for index, item in enumerate(_items(value, key)):
        host = _get(item, "host") if isinstance(item, dict) else item
        if isinstance(host, str):
            if host in hosts:
                yield (key, index, "host") if isinstance(item, dict) else (key, index), _REPEATED
            hosts.add(host)
        for path, message in _repeated(item, "methods"):
            yield (key, index, *path), message


def _repeated(value: Value, key: str, name: str | None = None) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, item in enumerate(_items(value, key)):
        text = item if name is None else _get(item, name)
        if not isinstance(text, str):
            continue
        if text in seen:
            yield (key, index) if name is None else (key, index, name), _REPEATED
        seen.add(text)


def _items(value: Value, key: str) -> tuple[Value, ...]:
    items = _get(value, key)
    return items if isinstance(items, tuple) else ()


def _get(value: Value | None, key: str) -> Value | None:
    return value.get(key) if isinstance(value, dict) else None


def _quantity(value: Value | None) -> int | None:
    if type(value) is int:
        return value
    if not isinstance(value, str):
        return None
    for parse in (parse_amount, parse_time_ns):
        try:
            return parse(value)
        except ValueError:
            continue
    return None
