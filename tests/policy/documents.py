"""Strategies for policies, classes and ceilings as plain values, as `document.read` makes them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from wisp.policy.choices import Method
from wisp.policy.hosts import HostPattern, parse_host_pattern
from wisp.policy.schema import Ceiling, Policy, TenantClass

_SIZES = st.integers(0, 2**30)
_TIMES = st.integers(1, 60_000).map(lambda ms: f"{ms}ms")
_NAMES = ("a", "b", "c", "d")
_PATHS = ("/srv", "/srv/data", "/srv/data/x", "/srv/database", "/opt")
_CLOCKS = st.sampled_from(["real", "coarse", "frozen"])
_HOSTS = st.builds(
    "{}://{}:{}".format,
    st.sampled_from(["http", "https", "*"]),
    st.sampled_from(["*", "*.a.org", "*.b.a.org", "a.org", "x.a.org", "x.b.a.org", "192.0.2.1", "[2001:db8::1]"]),
    st.sampled_from(["80", "443", "*"]),
)
_LIMITS: dict[str, st.SearchStrategy[Any]] = {
    "fuel": st.integers(1, 10**11),
    "memory": st.integers(64 * 1024, 2**30),
    "timeout": _TIMES,
    "request_body": _SIZES,
    "response_body": _SIZES,
    "logs": st.integers(0, 2**20),
}
_REQUESTS = {"outbound_requests": st.integers(0, 64)}
_METHODS = st.lists(st.sampled_from([method.value for method in Method]), min_size=1, unique=True).map(tuple)


def host_patterns() -> st.SearchStrategy[HostPattern]:
    return _HOSTS.map(parse_host_pattern)


def _unique(items: st.SearchStrategy[Any], most: int = 4) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(items, max_size=most, unique=True).map(tuple)


def _host_of(entry: Any) -> str:
    return str(entry["host"] if isinstance(entry, dict) else entry)


def _outbound_hosts() -> st.SearchStrategy[tuple[Any, ...]]:
    mapping = st.fixed_dictionaries({"host": _HOSTS}, optional={"methods": _METHODS})
    return st.lists(_HOSTS | mapping, max_size=4, unique_by=_host_of).map(tuple)


def _limits() -> st.SearchStrategy[Any]:
    """All of them; the one that may be left out sometimes is."""
    return st.fixed_dictionaries(_LIMITS, optional=_REQUESTS)


def _models() -> st.SearchStrategy[Any]:
    entry = st.fixed_dictionaries(
        {"model": st.sampled_from(["m", "m@2", "sha256:" + "0" * 64])},
        optional={
            "target": st.sampled_from(["cpu", "gpu", "any"]),
            "max_inferences": st.integers(1, 100),
            "max_time": _TIMES,
            "batch": st.sampled_from(["shared", "isolate"]),
        },
    )
    return st.dictionaries(st.sampled_from(_NAMES), entry, max_size=3).map(
        lambda entries: tuple({"name": name, **entry} for name, entry in entries.items())
    )


def _files() -> st.SearchStrategy[Any]:
    allow = _unique(st.sampled_from(["*.txt", "**", "a/b"]))
    mount = st.one_of(
        st.fixed_dictionaries({"from": st.just("bundle")}, optional={"allow": allow}),
        st.fixed_dictionaries({"from": st.just("host"), "path": st.sampled_from(_PATHS)}, optional={"allow": allow}),
        st.fixed_dictionaries({"from": st.just("scratch")}, optional={"quota": st.integers(1, 2**20)}),
        st.just({"from": "log"}),
    )
    return st.dictionaries(st.sampled_from(["/a", "/b", "/c/d"]), mount, max_size=3).map(
        lambda mounts: tuple({"mount": place, **mount} for place, mount in mounts.items())
    )


def policies() -> st.SearchStrategy[Policy]:
    required = {"wisp": st.just(1), "abi": st.sampled_from(["handler", "command"])}
    optional = {
        "limits": st.fixed_dictionaries({}, optional=_LIMITS | _REQUESTS),
        "models": _models(),
        "inline_models": st.booleans(),
        "files": _files(),
        "environment": st.dictionaries(st.sampled_from(["A", "B_1"]), st.text("aé\n🦀'\"", max_size=5)),
        "secrets": _unique(st.sampled_from(["S", "T"])),
        "allowed_outbound_hosts": _outbound_hosts(),
        "clock": _CLOCKS,
        "random": st.sampled_from(["real", "frozen"]),
        "on_violation": st.sampled_from(["trap", "errno"]),
        "access": st.sampled_from(["key", "public"]),
        "concurrency": st.fixed_dictionaries(
            {}, optional={"max_inflight": st.integers(1, 50), "max_queue": st.integers(0, 9), "queue_timeout": _TIMES}
        ),
    }
    return st.fixed_dictionaries(required, optional=optional).map(Policy.model_validate)


def ceilings() -> st.SearchStrategy[Ceiling]:
    required = {
        "wisp": st.just(1),
        "kind": st.just("ceiling"),
        "limits": _limits(),
        "compile": st.just({"cpu": "30s", "memory": "1536Mi", "module": "16Mi"}),
    }
    models = {
        "max_inferences": st.integers(0, 100),
        "max_time": _TIMES,
        "inline": st.booleans(),
        "targets": _unique(st.sampled_from(["cpu", "gpu"])),
    }
    files = {
        "bundle": st.integers(0, 2),
        "scratch": st.integers(0, 2**20),
        "host": _unique(st.sampled_from(_PATHS)),
    }
    optional = {
        "models": st.fixed_dictionaries({}, optional=models),
        "files": st.fixed_dictionaries({}, optional=files),
        "allowed_outbound_hosts": _outbound_hosts(),
        "clock": _CLOCKS,
    }
    return st.fixed_dictionaries(required, optional=optional).map(Ceiling.model_validate)


def classes() -> st.SearchStrategy[TenantClass]:
    quota = {
        "requests_per_second": st.just(1),
        "burst": st.just(1),
        "max_inflight": st.integers(1, 50),
        "fuel_per_day": st.just(0),
        "nn_seconds_per_day": st.just(0),
        "storage": st.just(0),
        "functions": st.just(0),
        "models": st.just(0),
    }
    required = {
        "wisp": st.just(1),
        "kind": st.just("class"),
        "limits": _limits(),
        "quota": st.fixed_dictionaries(quota),
    }
    return st.fixed_dictionaries(
        required, optional={"defaults": st.fixed_dictionaries({}, optional=_LIMITS | _REQUESTS)}
    ).map(TenantClass.model_validate)
