"""One sandbox's line to an inference host: a socket and a tensor segment that both ends hold, and the host's meter.

A sandbox has two: to the node's shared host, and to the host of the tenant whose guest it runs. A line is made when a
guest first needs it, again when its host is another, and given up when a kernel may still write to its segment.
"""

from __future__ import annotations

import contextlib
import json
import os

from wisp.errors import ChildLost
from wisp.names import TenantName
from wisp.scheduling.children import Child
from wisp.scheduling.hosts import TENSOR_BYTES, InferenceHost
from wisp.scheduling.measures import Measure
from wisp.wire.inferences import Binding
from wisp.wire.invocations import Kind
from wisp.wire.segments import clear


class Line:
    """`own`: to a tenant's host, else to the shared one."""

    def __init__(self, slot: int, measure: Measure, *, own: bool) -> None:
        self.host: InferenceHost | None = None
        """Which the segment is shared with; None while there is no line."""
        self._slot = slot
        self._measure = measure
        self._own = own
        self._tensors = -1
        self._tenant: TenantName | None = None
        self._is_open = False

    def open(
        self, child: Child, host: InferenceHost, tenant: TenantName, binding: Binding, number: int, deadline_ns: int
    ) -> None:
        """Vouches for one invocation. Raises `ChildLost` if either end is gone."""
        if self.host is not host:
            self.detach()
            socket_fd, self._tensors = host.attach(self._slot, self._measure.renew_meter(self._own).fd)
            self.host = host
            try:
                child.send(Kind.ATTACH, json.dumps({"own": self._own}).encode(), (socket_fd, self._tensors))
            finally:
                os.close(socket_fd)
        elif self._tenant != tenant:
            clear(self._tensors, TENSOR_BYTES)
        self._tenant = tenant
        self._is_open = True
        host.open(self._slot, number, binding, deadline_ns)

    def close(self, number: int) -> None:
        """The invocation has ended, whether or not it had this line."""
        if self._is_open:
            self._is_open = False
            if self.host is not None:
                with contextlib.suppress(ChildLost):
                    self.host.close(self._slot, number)

    def detach(self) -> None:
        """The next guest that infers gets a new one: the host was replaced, or may still be writing to the old one."""
        self._measure.drop_meter(self._own)
        self.host = None
        if self._tensors >= 0:
            os.close(self._tensors)
            self._tensors = -1
