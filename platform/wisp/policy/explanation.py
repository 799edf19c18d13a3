"""Why a module may run under a policy, or may not: each import with the line that gives it, what is refused, what is
granted for nothing, and the least policy that would do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wisp.errors import Fault
from wisp.policy.admission import admit
from wisp.policy.facts import Import, ModuleFacts
from wisp.policy.grants import Grants
from wisp.policy.narrowing import check, narrow
from wisp.policy.offer import unavailable
from wisp.policy.proposal import bare_policy, least_policy
from wisp.policy.schema import Ceiling, Policy, TenantClass
from wisp.policy.shown import shown_text
from wisp.policy.uses import is_known, is_used, needs_of, users_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedImport:
    """`name`: `wasi_ephemeral_nn.load`. `needs`: policy keys, any of which gives it; none means that everybody has it.
    `by`: the key that does give it, `line`: where that stands in the policy."""

    name: str
    needs: tuple[str, ...]
    granted: bool
    by: str | None = None
    line: int | None = None

    def as_json(self) -> dict[str, object]:
        return {
            "import": self.name,
            "needs": list(self.needs),
            "granted": self.granted,
            "by": self.by,
            "line": self.line,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`refused`: what an upload would be refused for; `unused`: what the policy grants and the module cannot use."""

    imports: tuple[ExplainedImport, ...]
    unused: tuple[Fault, ...]
    refused: tuple[Fault, ...]
    least_policy: str

    def as_json(self) -> dict[str, object]:
        return {
            "imports": [one.as_json() for one in self.imports],
            "unused": [fault.as_json() for fault in self.unused],
            "refused": [fault.as_json() for fault in self.refused],
            "least_policy": self.least_policy,
        }


def explain(facts: ModuleFacts, policy: Policy | None, tenant_class: TenantClass, ceiling: Ceiling) -> Explanation:
    """Without a `policy`: as under one that grants nothing."""
    judged = policy or bare_policy(facts)
    grants = narrow(judged, tenant_class, ceiling)
    faults = admit(facts, grants)
    unlinkable = {fault.field for fault in faults}
    return Explanation(
        imports=tuple(_explained(one, judged, grants, unlinkable) for one in dict.fromkeys(facts.imports)),
        unused=tuple(_unused(judged, facts)),
        refused=(*unavailable(judged), *check(judged, tenant_class, ceiling), *faults),
        least_policy=least_policy(facts, policy, tenant_class, ceiling),
    )


def _explained(one: Import, policy: Policy, grants: Grants, unlinkable: set[str]) -> ExplainedImport:
    name, needs = f"{shown_text(one.module)}.{shown_text(one.name)}", needs_of(one)
    if f"imports.{name}" in unlinkable:
        return ExplainedImport(name=name, needs=needs, granted=False)
    by = next((key for key in needs if getattr(grants, key)), None)
    key = by or next((key for key in needs if (key,) in policy.positions.keys), None)
    position = None if key is None else policy.positions.keys.get((key,))
    return ExplainedImport(
        name=name,
        needs=needs,
        granted=by is not None or not needs,
        by=by,
        line=None if position is None else position.line,
    )


def _unused(policy: Policy, facts: ModuleFacts) -> Iterator[Fault]:
    for path in policy.positions.keys:
        key = str(path[0])
        if len(path) == 1 and is_known(key) and getattr(policy, key) and not is_used(key, facts.imports):
            yield policy.positions.fault(path, f"the module does not import {users_of(key)}", at_key=True)
