"""The least policy under which a module runs: what its imports need, what its author's policy already says of that,
and no more. It parses, and the module is admitted under it, unless what stands against the module is no policy's doing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from wisp.policy.capabilities import CAPABILITIES, NN_MODULE
from wisp.policy.choices import Abi
from wisp.policy.facts import ExternKind, ModuleFacts
from wisp.policy.grants import Grants
from wisp.policy.narrowing import DEFAULT_ENTRYPOINT, LIMITS, narrow
from wisp.policy.offer import NOT_YET_OFFERED, unavailable
from wisp.policy.quantity import PAGE_BYTES, print_size
from wisp.policy.schema import Ceiling, Policy, TenantClass
from wisp.policy.uses import is_known, is_used
from wisp.policy.written import Written, print_document, written

MIB: Final = 1024 * 1024
HEAP_BYTES: Final = MIB
"""Room above what the module's memory begins with: most allocators grow it at their first use."""
NOTHING: Final[tuple[object, ...]] = ([], {}, None, False)
KEPT: Final = (
    *("inline_models", "files", "environment", "secrets", "allowed_outbound_hosts", "clock", "random"),
    *("on_violation", "access", "concurrency"),
)
"""What is taken over from a policy that says it, in a document's order; `abi`, `limits` and `models` apart."""


def least_policy(facts: ModuleFacts, policy: Policy | None, tenant_class: TenantClass, ceiling: Ceiling) -> str:
    """YAML text. Without a `policy` nothing is known of what the module is to be given beyond its imports."""
    asked = policy or bare_policy(facts)
    said = {path[0] for path in asked.positions.keys}
    granted = _offered(asked, narrow(asked, tenant_class, ceiling))
    allowed = min(tenant_class.limits.memory, ceiling.limits.memory)
    document: dict[str, Written] = {"wisp": 1} | _abi(facts, asked)
    document["limits"] = _limits(asked, granted) | {"memory": _memory(facts, allowed)}
    comments = [f"its memory begins at {print_size(_begins_at(facts))}; the rest is for its heap"]
    if is_used("models", facts.imports):
        document |= _models(facts, granted, ceiling)
    for key in KEPT:
        value = granted.get(key)
        if key in said and value not in NOTHING and (not is_known(key) or is_used(key, facts.imports)):
            document[key] = value  # type: ignore[assignment]  # None is nothing
    if "files" not in document and is_used("files", facts.imports):
        comments.append("it may ask for files: each is refused until files: mounts something")
    hints = list(_hints(facts, document))
    if hints:
        comments.append("at the end: examples of what it needs, to be filled in; they cannot be read from a module")
    lines = [*(f"# {comment}\n" for comment in comments), print_document(document), *(f"{hint}\n" for hint in hints)]
    return "".join(lines)


def bare_policy(facts: ModuleFacts) -> Policy:
    """It grants nothing; only how the module is spoken to is guessed."""
    return Policy.model_validate({"wisp": 1, "abi": guess_abi(facts).value})


def guess_abi(facts: ModuleFacts) -> Abi:
    exported = _functions(facts)
    return Abi.COMMAND if DEFAULT_ENTRYPOINT in exported and "wisp_handle" not in exported else Abi.HANDLER


def _functions(facts: ModuleFacts) -> set[str]:
    return {export.name for export in facts.exports if export.kind is ExternKind.FUNC}


def _abi(facts: ModuleFacts, asked: Policy) -> dict[str, Written]:
    """As asked where the module has that entry point, else what it looks like."""
    entrypoint = asked.entrypoint or DEFAULT_ENTRYPOINT
    if asked.abi is Abi.COMMAND and entrypoint in _functions(facts):
        return {"abi": "command"} if entrypoint == DEFAULT_ENTRYPOINT else {"abi": "command", "entrypoint": entrypoint}
    return {"abi": guess_abi(facts).value}


def _limits(asked: Policy, granted: dict[str, Written]) -> dict[str, Written]:
    """Those that the author chose, as far as they are allowed: what a module uses up cannot be read from it."""
    limits = granted["limits"]
    assert isinstance(limits, dict)
    return {key: limits[key] for key in LIMITS if getattr(asked.limits, key) is not None}


def _begins_at(facts: ModuleFacts) -> int:
    return max(facts.memory_min_pages, 1) * PAGE_BYTES


def _memory(facts: ModuleFacts, allowed: int) -> str:
    begins_at = _begins_at(facts)
    roomy = (begins_at + HEAP_BYTES + MIB - 1) // MIB * MIB
    if facts.memory_max_pages is not None:
        roomy = min(roomy, max(facts.memory_max_pages * PAGE_BYTES, begins_at))
    return print_size(roomy if roomy <= allowed else begins_at)


def _models(facts: ModuleFacts, granted: dict[str, Written], ceiling: Ceiling) -> dict[str, Written]:
    """What is granted already; else, for a module that only brings bytes of its own, leave to do that."""
    if granted["models"]:
        return {"models": granted["models"]}
    names = {one.name for one in facts.imports if one.module == NN_MODULE}
    only_bytes = "load" in names and not any(name.startswith("load_by_name") for name in names)
    if (
        only_bytes
        and ceiling.models.inline
        and not unavailable(Policy.model_validate({"wisp": 1, "abi": "handler", "inline_models": True}))
    ):
        return {"inline_models": True}
    return {}


def _hints(facts: ModuleFacts, document: dict[str, Written]) -> Iterator[str]:
    """A line for each capability that is imported and that nothing in the document gives."""
    imported = {one.module for one in facts.imports}
    for module, capability in CAPABILITIES.items():
        if module in imported and capability.needs and document.keys().isdisjoint(capability.needs):
            yield capability.hint


def _offered(asked: Policy, grants: Grants) -> dict[str, Written]:
    """What is granted as a document, without what this release does not do yet."""
    document = written(grants.as_json())
    assert isinstance(document, dict)
    for unoffered in NOT_YET_OFFERED:
        for path in unoffered.asked_at(asked):
            key = str(path[0])
            entries = document.get(key)
            if len(path) > 1 and isinstance(path[1], int) and isinstance(entries, list):
                name = asked.models[path[1]].name if key == "models" else asked.files[path[1]].mount
                document[key] = [
                    entry for entry in entries if not isinstance(entry, dict) or name not in entry.values()
                ]
            else:
                document.pop(key, None)
    return document
