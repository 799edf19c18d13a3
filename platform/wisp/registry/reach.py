"""Whether the registry can be reached, since when, and how old what is remembered of it may be."""

from __future__ import annotations

import time

from wisp.errors import RegistryUnavailable


class Reach:
    """One node's belief. It holds `reachable` until somebody has failed to ask."""

    def __init__(self) -> None:
        self.reachable = True
        self.since = time.time()
        """Unix seconds of the last change."""
        self._confirmed_s: float | None = None

    @property
    def stale_s(self) -> float | None:
        """Seconds since what is remembered was last compared with the registry; None if it never was."""
        return None if self._confirmed_s is None else time.monotonic() - self._confirmed_s

    def met(self) -> bool:
        """It has just answered; whether that is news."""
        self._confirmed_s = time.monotonic()
        return self._turn(reachable=True)

    def lost(self) -> bool:
        return self._turn(reachable=False)

    def check(self) -> None:
        """Raises `RegistryUnavailable` while there is no use in asking: nobody waits for a server that is away."""
        if not self.reachable:
            raise RegistryUnavailable("the registry cannot be reached; what this node does not remember has to wait")

    def _turn(self, *, reachable: bool) -> bool:
        turned = self.reachable is not reachable
        if turned:
            self.reachable, self.since = reachable, time.time()
        return turned

    def as_json(self) -> dict[str, object]:
        stale_s = self.stale_s
        return {
            "reachable": self.reachable,
            "mode": "normal" if self.reachable else "read_only",
            "since": int(self.since),
            "stale_s": None if stale_s is None else round(stale_s, 1),
        }
