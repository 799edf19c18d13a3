"""Whether an operator allows what a policy line would ask for: told to a tenant beside each denial."""

from __future__ import annotations

from wisp.errors import InvalidPolicy
from wisp.policy.narrowing import check
from wisp.policy.offer import unavailable
from wisp.policy.parse import parse_policy
from wisp.policy.schema import Ceiling, TenantClass

PLACEHOLDER, STAND_IN = "…", "any"
"""A line may leave a value for its author to choose; whichever it is, the ceiling does not mind."""


class Allowance:
    """Each line is judged once."""

    def __init__(self, tenant_class: TenantClass, ceiling: Ceiling) -> None:
        self._tenant_class = tenant_class
        self._ceiling = ceiling
        self._judged: dict[str, bool | None] = {}

    def allows(self, line: str) -> bool | None:
        """None for what is no line of a tenant's policy: the operator's own, or words about one."""
        if line not in self._judged:
            self._judged[line] = self._judge(line)
        return self._judged[line]

    def _judge(self, line: str) -> bool | None:
        text = f"wisp: 1\nabi: handler\n{line.replace(PLACEHOLDER, STAND_IN)}\n"
        try:
            policy = parse_policy(text.encode())
        except InvalidPolicy:
            return None
        return not unavailable(policy) and not check(policy, self._tenant_class, self._ceiling)
