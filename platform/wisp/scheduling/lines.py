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
from wisp.scheduling.jobs import Job
from wisp.scheduling.measures import Measure
from wisp.scheduling.tenanthosts import TenantHosts
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
        self._unclosed: int | None = None
        """An invocation that has ended, without a word to the host."""

    def open(
        self, child: Child, host: InferenceHost, tenant: TenantName, binding: Binding, number: int, deadline_ns: int
    ) -> None:
        """Vouches for one invocation. Raises `ChildLost` if either end is gone."""
        if self.host is not host:
            self.settle()
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
        self._unclosed = None  # the host ends what was open when it opens another
        host.open(self._slot, number, binding, deadline_ns)

    def close(self, number: int) -> None:
        """The invocation has ended, whether or not it had this line. `settle` must follow before anything awaits."""
        if self._is_open:
            self._is_open = False
            if self.host is not None:
                self._unclosed = number
                with contextlib.suppress(ChildLost):
                    self.host.hear()

    def settle(self) -> None:
        """Tells the host that the invocation has ended, if no other was opened in this very moment: where requests
        wait, that is half the frames to it, and as many times less that it wakes."""
        number, self._unclosed = self._unclosed, None
        if number is not None and self.host is not None:
            with contextlib.suppress(ChildLost):
                self.host.close(self._slot, number)

    def detach(self) -> None:
        """The next guest that infers gets a new one: the host was replaced, or may still be writing to the old one."""
        self._measure.drop_meter(self._own)
        self.host = self._unclosed = None
        if self._tensors >= 0:
            os.close(self._tensors)
            self._tensors = -1


class Lines:
    """A slot's two, and what keeps loaded what its guest may infer with."""

    def __init__(self, slot: int, measure: Measure, own_hosts: TenantHosts) -> None:
        self.shared = Line(slot, measure, own=False)
        self.own = Line(slot, measure, own=True)
        self._own_hosts = own_hosts
        self._number = 0
        self.leases: contextlib.ExitStack | None = None
        """Of the models that the invocation may use, those that the guest brought among them."""

    def open(
        self, child: Child, job: Job, host: InferenceHost, binding: Binding, number: int, deadline_ns: int
    ) -> None:
        """`host`: of the job's `models`. What it may infer with stays loaded until `close`."""
        self.leases, self._number = contextlib.ExitStack(), number
        # A host that is gone is no reason to refuse: the guest gets an errno if it infers before the next is there.
        with contextlib.suppress(ChildLost):
            if job.models or job.remote is not None or (job.inline is not None and not job.needs_own):
                self.shared.open(child, host, job.tenant, binding, number, deadline_ns)
            own = self._own_hosts.get(job.tenant) if job.needs_own else None
            if own is not None:
                self.own.open(child, own, job.tenant, binding, number, deadline_ns)
        self.leases.enter_context(host.lease(job.models))
        if job.needs_own:
            self.leases.enter_context(self._own_hosts.lease(job.tenant, job.own_models))

    def close(self) -> None:
        """The invocation has ended, whether or not it could infer."""
        if self.leases is not None:
            self.shared.close(self._number)
            self.own.close(self._number)
            self.leases.close()
            self.leases = None

    def settle(self) -> None:
        """After `close`, and what may have begun since."""
        self.shared.settle()
        self.own.settle()

    def detach(self, host: InferenceHost | None = None) -> None:
        """From this host, or from all: the next guest that infers gets a new line."""
        for line in (self.shared, self.own):
            if host is None or line.host is host:
                line.detach()
