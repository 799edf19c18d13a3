"""Which walls stand round which kind of child, as the children themselves report before they read anything hostile.

The router logs it, shows it, and, where the operator requires all of them, ends a child that lacks one.
"""

from __future__ import annotations

import json
import logging

from wisp.errors import InvalidFrame
from wisp.wire.walls import ChildKind, Report, Wall, WallState, decode_report, encode_report

log = logging.getLogger(__name__)


class WallWatch:
    """The last report of each kind. `enforced`: from now on a child without all its walls breaks the protocol."""

    def __init__(self) -> None:
        self.reports: dict[ChildKind, Report] = {}
        self.enforced = False

    def note(self, kind: ChildKind, ready: bytes) -> dict[str, object]:
        """The fields of a READY frame, whose report is kept. Raises `InvalidFrame`."""
        try:
            fields = json.loads(ready)
        except (ValueError, RecursionError) as error:
            raise InvalidFrame("a child's first frame is no JSON") from error
        if not isinstance(fields, dict):
            raise InvalidFrame("a child's first frame is no JSON object")
        report = decode_report(fields.pop("walls", None))
        if self.reports.get(kind) != report:
            self.reports[kind] = report
            self._tell(kind, report)
        down = [wall for wall, state in report.items() if not state.up]
        if self.enforced and down:
            raise InvalidFrame(f"it has no {down[0]} wall: {report[down[0]].detail}")
        return fields

    def forget(self, kind: ChildKind) -> None:
        """There is no such child any more."""
        self.reports.pop(kind, None)

    def _tell(self, kind: ChildKind, report: Report) -> None:
        up = ", ".join(_named(wall, state) for wall, state in report.items() if state.up)
        down = "; ".join(_named(wall, state) for wall, state in report.items() if not state.up)
        if down:
            log.warning("walls round %s children: %s; NOT UP: %s", kind, up or "none", down)
        else:
            log.info("walls round %s children: %s", kind, up)

    def missing(self) -> list[str]:
        """Each wall that is not up, with the kind of child and the reason."""
        return [
            f"the {kind} children have no {wall} wall: {state.detail}"
            for kind, report in self.reports.items()
            for wall, state in report.items()
            if not state.up
        ]

    def shown(self) -> dict[str, dict[str, object]]:
        """For `/readyz?verbose`."""
        return {kind.value: encode_report(report) for kind, report in self.reports.items()}

    def levels(self) -> tuple[tuple[str, str, bool], ...]:
        """(kind, wall, up) of all that is known, for metrics."""
        return tuple(
            (k.value, wall.value, state.up) for k, report in self.reports.items() for wall, state in report.items()
        )


def _named(wall: Wall, state: WallState) -> str:
    return f"{wall} ({state.detail})" if state.detail else wall.value
