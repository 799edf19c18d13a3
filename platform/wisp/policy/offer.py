"""What the vocabulary can say and this release does not do yet.

Such a policy is refused when it is uploaded, with its line, instead of being granted in word only. To offer one of
these is to delete its entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wisp.errors import Fault

if TYPE_CHECKING:
    from wisp.policy.document import Path
    from wisp.policy.schema import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Unoffered:
    """`what`, and where in a policy it is asked for."""

    what: str
    asked_at: Callable[[Policy], Iterator[Path]]


NOT_YET_OFFERED: tuple[Unoffered, ...] = ()


def unavailable(policy: Policy) -> tuple[Fault, ...]:
    """What `policy` asks for and this release cannot give; the caller refuses the upload with InvalidPolicy."""
    return tuple(
        policy.positions.fault(path, f"this release does not offer {unoffered.what} yet")
        for unoffered in NOT_YET_OFFERED
        for path in unoffered.asked_at(policy)
    )
