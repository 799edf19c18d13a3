"""The least policy under which a module runs: what its imports need, what its author's policy already says of that,
and no more. It parses, and the module is admitted under it, unless what stands against the module is no policy's doing.
"""

from __future__ import annotations

from typing import Final

from wisp.policy.capabilities import NN_MODULE
from wisp.policy.choices import Abi
from wisp.policy.facts import ExternKind, ModuleFacts
from wisp.policy.grants import Grants
from wisp.policy.narrowing import DEFAULT_ENTRYPOINT, narrow
from wisp.policy.offer import NOT_YET_OFFERED
from wisp.policy.quantity import PAGE_BYTES, print_size
from wisp.policy.schema import Ceiling, Policy, TenantClass
from wisp.policy.uses import is_known, is_used
from wisp.policy.written import Written, print_document, written

HEAP_BYTES: Final = 1024 * 1024
"""Room above what the module's memory begins with: most allocators grow it at their first use."""
_KEPT: Final = (
    *("inline_models", "files", "environment", "secrets", "allowed_outbound_hosts", "clock", "random"),
    *("on_violation", "access", "concurrency"),
)
"""Keys besides `abi`, `limits` and `models`, in a document's order."""


def least_policy(facts: ModuleFacts, policy: Policy | None, tenant_class: TenantClass, ceiling: Ceiling) -> str:
    """YAML text. Without a `policy` nothing is known of what the module is to be given beyond its imports."""
    asked = policy or Policy(wisp=1, abi=guess_abi(facts))
    said = {str(path[0]) for path in asked.positions.keys if len(path) == 1}
    granted = _offered(written(narrow(asked, tenant_class, ceiling).as_json()), asked)
    document: dict[str, Written] = {"wisp": 1, **_abi(facts, asked), "limits": _limits(facts, asked, granted)}
    allowed = min(tenant_class.limits.memory, ceiling.limits.memory)
    document["limits"] |= {"memory": _memory(facts, allowed)}  # type: ignore[operator]
    comments = [f"# its memory begins at {print_size(_begins_at(facts))}; the rest is for its heap"]
    kept = {
        key: granted[key] for key in _KEPT if key in said and granted.get(key) not in ([], {}, None, False)
    }
    document |= _models(facts, granted, comments, inline="inline_models" in kept or _only_loads_bytes(facts, ceiling))
    for key, value in kept.items():
        if is_used(key, facts.imports) if is_known(key) else True:
            document[key] = value
    if is_used("files", facts.imports) and "files" not in document:
        comments.append("# it can ask for files: whatever it opens is refused until files: mounts something")
    return "".join(f"{comment}\n" for comment in comments) + print_document(document)


def guess_abi(facts: ModuleFacts) -> Abi:
    exported = {export.name for export in facts.exports if export.kind is ExternKind.FUNC}
    return Abi.HANDLER if "wisp_handle" in exported or DEFAULT_ENTRYPOINT not in exported else Abi.COMMAND


def _abi(facts: ModuleFacts, asked: Policy) -> dict[str, Written]:
    """As asked where the module has that entry point, else what it looks like."""
    exported = {export.name for export in facts.exports if export.kind is ExternKind.FUNC}
    entrypoint = asked.entrypoint or DEFAULT_ENTRYPOINT
    if asked.abi is Abi.COMMAND and entrypoint in exported:
        return {"abi": "command"} | ({} if entrypoint == DEFAULT_ENTRYPOINT else {"entrypoint": entrypoint})
    return {"abi": guess_abi(facts).value}
