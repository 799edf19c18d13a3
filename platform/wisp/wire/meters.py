"""What a slot's inference used, as the inference host counts it and the router bills it.

A meter is a sealed segment that the router makes for each slot and only the host writes: a sandbox never holds it, so
nothing that a sandbox says changes what its tenant is charged. The host adds an inference before it answers it; whoever
has seen the answer, or anything that followed from it, finds it counted.

The layout is one structure, `METER`: a version that is odd while the host writes, the invocation, nanoseconds spent,
inferences, bytes of their tensors, since when one is running (CLOCK_MONOTONIC, ns; 0: none) and on how many threads.
"""

from __future__ import annotations

import struct
import threading
import time
from dataclasses import dataclass
from typing import Final, Self

from wisp.wire.segments import Segment

METER_BYTES: Final = 4096
METER: Final = struct.Struct("<QQQQQQQ")
VERSION: Final = struct.Struct("<Q")
_COUNTS: Final = struct.Struct("<QQQQQQ")
"""What `METER` has behind the version."""
TRIES: Final = 64
"""To read between two writes; a host that writes on and on is believed as it is then, within the router's bounds."""
MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """Of one invocation. `nn_ns`: in the sessions' runs, on each of their threads; one that is not over yet counts."""

    nn_ns: int = 0
    inferences: int = 0
    tensor_bytes: int = 0

    def __add__(self, other: Metered) -> Metered:
        return Metered(
            nn_ns=self.nn_ns + other.nn_ns,
            inferences=self.inferences + other.inferences,
            tensor_bytes=self.tensor_bytes + other.tensor_bytes,
        )


NOTHING: Final = Metered()


class Meter:
    """One slot's. The host's threads share it, the router only reads. Owns its segment."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._versions = segment.view[: VERSION.size].cast("Q")
        """Written in one piece, which `pack_into` is not: it clears its room first."""
        self._lock = threading.Lock()
        self._version = 0
        self._invocation = self._nn_ns = self._inferences = self._tensor_bytes = self._since_ns = 0
        self._threads = 1

    @classmethod
    def create(cls) -> Self:
        return cls(Segment.create("meter", METER_BYTES))

    @property
    def fd(self) -> int:
        return self.segment.fd

    def begin(self, invocation: int) -> None:
        """From now on this invocation is counted, from nothing."""
        with self._lock:
            self._invocation = invocation
            self._nn_ns = self._inferences = self._tensor_bytes = self._since_ns = 0
            self._write()

    def start(self, invocation: int, since_ns: int, threads: int = 1) -> None:
        """One of its inferences runs, on so many threads."""
        with self._lock:
            if invocation == self._invocation:
                self._since_ns, self._threads = since_ns, threads
                self._write()

    def add(self, invocation: int, nn_ns: int, tensor_bytes: int) -> None:
        """One of its inferences has ended, or was given up. What ends after its invocation has nobody to be billed to:
        the router read the meter when that ended, with what was running then."""
        with self._lock:
            if invocation == self._invocation:
                self._nn_ns += nn_ns
                self._inferences += 1
                self._tensor_bytes += tensor_bytes
                self._since_ns = 0
                self._write()

    def _write(self) -> None:
        self._version += 2
        self._versions[0] = self._version - 1
        _COUNTS.pack_into(
            self.segment.view, VERSION.size, self._invocation, self._nn_ns, self._inferences, self._tensor_bytes,
            self._since_ns, self._threads,
        )  # fmt: skip
        self._versions[0] = self._version

    def read(self, invocation: int) -> Metered:
        """What this invocation used so far; nothing, if the host has not heard of it or has forgotten it."""
        view = self.segment.view
        for _ in range(TRIES):
            version, counted, nn_ns, inferences, tensor_bytes, since_ns, threads = METER.unpack_from(view)
            if not version & 1 and VERSION.unpack_from(view)[0] == version:
                break
        if counted != invocation:
            return NOTHING
        if since_ns:
            nn_ns += max(0, time.monotonic_ns() - since_ns) * threads
            inferences += 1
        return Metered(nn_ns=min(nn_ns, MAX), inferences=min(inferences, MAX), tensor_bytes=min(tensor_bytes, MAX))

    def close(self) -> None:
        with self._lock:
            self._versions.release()
            self.segment.close()
