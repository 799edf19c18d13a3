"""What a module's imports make of a policy: which imports a line gives something to, and which lines give to none.

An import that links may still find nothing: `path_open` is there for everybody, and refuses each path while nothing is
mounted. That is what `SERVED` says beyond the capabilities' own needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from wisp.policy.capabilities import CAPABILITIES, WASI_MODULE
from wisp.policy.facts import Import

SERVED: Final[Mapping[str, frozenset[str]]] = {
    "files": frozenset(
        name for name in CAPABILITIES[WASI_MODULE].functions if name.startswith("path_") or name == "fd_readdir"
    ),
    "environment": frozenset({"environ_get"}),
    "secrets": frozenset({"environ_get"}),
    "clock": frozenset({"clock_time_get", "clock_res_get", "poll_oneoff"}),
    "random": frozenset({"random_get"}),
}
"""Policy key to the functions of WASI that serve what it grants."""


def needs_of(one: Import) -> tuple[str, ...]:
    """The policy keys, any of which gives this import something to do; none where everybody has it."""
    capability = CAPABILITIES.get(one.module)
    if capability is None or one.name not in capability.functions:
        return ()
    if one.module == WASI_MODULE and one.name in SERVED["files"]:
        return ("files",)
    return capability.needs


def is_used(key: str, imports: Iterable[Import]) -> bool:
    """Whether anything that a policy grants at `key` can reach a module with these imports."""
    givers = {module for module, capability in CAPABILITIES.items() if key in capability.needs}
    served = SERVED.get(key, frozenset())
    return any(one.module in givers or (one.module == WASI_MODULE and one.name in served) for one in imports)


def is_known(key: str) -> bool:
    """Whether imports tell anything about this key."""
    return key in SERVED or any(key in capability.needs for capability in CAPABILITIES.values())


def users_of(key: str) -> str:
    """For a message: what would have to be imported for `key` to matter."""
    modules = [module for module, capability in CAPABILITIES.items() if key in capability.needs]
    if key == "files":
        return f"{WASI_MODULE}.path_open"
    return " or ".join([*modules, *(f"{WASI_MODULE}.{name}" for name in sorted(SERVED.get(key, ())))])
