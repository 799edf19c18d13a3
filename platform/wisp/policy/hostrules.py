"""Where requests may go, and by which methods: a host pattern with the methods that are allowed there.

Two lists meet as the patterns meet, and their methods intersect. Several rules that cover one host add up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from wisp.policy.choices import Method
from wisp.policy.hosts import HostPattern, parse_host_pattern
from wisp.policy.plain import Plain, check_list, check_text

METHODS: Final = tuple(Method)
"""Of an entry that names none."""
MAX_REQUESTS: Final = 64
DEFAULT_REQUESTS: Final = 8
"""Of one invocation, where nobody says how many."""

_LONGEST = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRule:
    """`methods`: in the order of `Method`, each once."""

    pattern: HostPattern
    methods: tuple[Method, ...] = METHODS

    def __str__(self) -> str:
        return str(self.pattern) if self.methods == METHODS else f"{self.pattern} ({', '.join(self.methods)})"

    def as_json(self) -> str | dict[str, object]:
        """As a document writes it: text where all methods are allowed."""
        if self.methods == METHODS:
            return str(self.pattern)
        return {"host": str(self.pattern), "methods": [method.value for method in self.methods]}

    @classmethod
    def from_json(cls, value: object) -> HostRule:
        """What `as_json` made. Raises ValueError for anything else."""
        where = "allowed_outbound_hosts"
        if not isinstance(value, dict):
            return cls(pattern=parse_host_pattern(check_text(value, where, _LONGEST)))
        plain = Plain(value, where)
        pattern = plain.parsed("host", _LONGEST, parse_host_pattern)
        words = check_list(plain.items("methods", len(METHODS)), where, len(METHODS))
        methods = in_order(Method(check_text(word, f"{where}.methods", 16)) for word in words)
        if not methods:
            raise ValueError(f"{where}.methods: expected at least one")
        plain.close()
        return cls(pattern=pattern, methods=methods)


def in_order(methods: Iterable[Method]) -> tuple[Method, ...]:
    allowed = frozenset(methods)
    return tuple(method for method in METHODS if method in allowed)


def methods_for(place: HostPattern, rules: Iterable[HostRule]) -> tuple[Method, ...]:
    """What `rules` together allow for all of `place`."""
    return in_order(method for rule in rules if rule.pattern.covers(place) for method in rule.methods)


def meet_all(asked: Iterable[HostRule], allowed: Iterable[HostRule]) -> tuple[HostRule, ...]:
    """What both lists allow, one rule for a pattern. A rule of `asked` that is covered whole stays as it is."""
    ceiling = tuple(allowed)
    met: dict[HostPattern, frozenset[Method]] = {}
    for rule in asked:
        wanted = frozenset(rule.methods)
        whole = wanted & frozenset(methods_for(rule.pattern, ceiling))
        if whole:
            met[rule.pattern] = met.get(rule.pattern, frozenset()) | whole
        for other in ceiling:
            common, rest = other.pattern.meet(rule.pattern), wanted & frozenset(other.methods)
            if common is not None and not rest <= whole:
                met[common] = met.get(common, frozenset()) | rest
    return tuple(HostRule(pattern=pattern, methods=in_order(methods)) for pattern, methods in met.items())
