"""Who has which sandbox, since when, and what it is taken for: the books behind the queue.

A turn begins when a sandbox is granted and ends when it is free again, however that comes about. Its time is what its
tenant is charged, and what the next turn of its function is expected to take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from wisp.scheduling.idleness import Idleness
from wisp.scheduling.runtimes import ABUSE_NS, ABUSE_OWN_NS, BRIEF_NS, OVERSTAY_NS, RunTime
from wisp.scheduling.shares import Shares

GUESS_NS: Final = 2_000_000
"""What a turn of which nothing is known is charged beforehand."""


class Turn:
    """`brief`: counted as such at present. `began`: its guest was started. `by_clock`: all the time that it held its
    sandbox is its own, since it was cut off before it had used what it would, or its answer is so large that the router
    needs a while to take it out. `idleness`: once it was looked at. `abandoned`: its caller has gone."""

    __slots__ = (
        "abandoned", "began", "brief", "by_clock", "charged_ns", "granted_ns", "idleness", "overstays", "runtime",
        "tenant",
    )  # fmt: skip

    def __init__(self, tenant: str, runtime: RunTime, *, brief: bool, granted_ns: int) -> None:
        self.tenant = tenant
        self.runtime = runtime
        self.brief = brief
        self.overstays = False
        self.idleness: Idleness | None = None
        self.charged_ns = runtime.low_ns or GUESS_NS
        self.granted_ns = granted_ns
        self.began = False
        self.by_clock = False
        self.abandoned = False

    def left_ns(self, now_ns: int) -> int:
        """How much longer it is expected to take, at least."""
        return max(0, self.runtime.low_ns - (now_ns - self.granted_ns))

    def own_ns(self, cpu_ns: int, nn_ns: int = 0) -> int:
        """What it has used itself: its process' CPU, and its inference or whatever it was idle for."""
        idle_ns = 0 if self.idleness is None else self.idleness.idle_ns
        return cpu_ns + (idle_ns if idle_ns > nn_ns else nn_ns)


class Turns:
    """Opens and closes turns. `charge` is the queue's."""

    def __init__(self, shares: Shares, charge: Callable[[str, int], None], clock_ns: Callable[[], int]) -> None:
        self.shares = shares
        self._charge = charge
        self._clock_ns = clock_ns

    def open(self, tenant: str, runtime: RunTime, *, brief: bool) -> Turn:
        turn = Turn(tenant, runtime, brief=brief, granted_ns=self._clock_ns())
        self.shares.take(tenant, brief=brief)
        self._charge(tenant, turn.charged_ns)
        return turn

    def close(self, turn: Turn, *, whole: bool, own_ns: int | None = None) -> None:
        """`whole`: the guest ended by itself or by its limits, so that its time says what its function takes; else only
        that it takes no less. `own_ns`: what it used itself, where that is known."""
        took_ns = self._clock_ns() - turn.granted_ns
        self.shares.give_back(turn.tenant, brief=turn.brief)
        self._charge(turn.tenant, took_ns - turn.charged_ns)
        if turn.began and (whole or took_ns > max(turn.runtime.mean_ns, BRIEF_NS)):
            turn.runtime.note(took_ns, own_ns)

    def watch(self, turn: Turn, own_ns: int) -> None:
        """Called now and then: a run that was taken for a brief one and is not counts as long from here on. If it goes
        on for too long, so do its tenant's for some time. `own_ns`: what it has used itself so far; one that others
        keep from the cores stays what it is."""
        took_ns = self._clock_ns() - turn.granted_ns
        if turn.brief and took_ns > OVERSTAY_NS and own_ns > BRIEF_NS:
            turn.brief, turn.overstays = False, True
            self.shares.take_long(turn.tenant)
        if turn.overstays and took_ns > ABUSE_NS and own_ns > ABUSE_OWN_NS:
            turn.overstays = False
            self.shares.distrust(turn.tenant)

    def first_ns(self, tenant: str, held: Iterable[Turn | None], *, brief: bool) -> int:
        """Until the first sandbox that this tenant may have is expected to come free; None in `held`: now, for all that
        is known."""
        now_ns, narrowed = self._clock_ns(), self.shares.waits_for(tenant, brief=brief)
        left = [
            0 if turn is None else turn.left_ns(now_ns)
            for turn in held
            if turn is None or narrowed(turn.tenant, turn.brief)
        ]
        return min(left, default=0)
