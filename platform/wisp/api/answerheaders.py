"""The headers of an answer under `/t/`: its receipt, and those of a guest's that are a guest's to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from wisp.api.problems import RawHeaders
from wisp.api.requesthead import HOP_BY_HOP, OWN
from wisp.names import RequestId
from wisp.wire.outcome import CODES, Outcome, Receipt

NS_PER_MS: Final = 1e6
NOT_FROM_GUESTS: Final = HOP_BY_HOP | {b"content-length", b"date", b"server", b"server-timing"}
OUTCOME_NAMES: Final = {outcome: outcome.value.encode() for outcome in CODES}
RECEIPT: Final = b"".join(
    line + b"\r\n"
    for line in (
        b"wisp-outcome: %b",
        b"wisp-version: %d",
        b"wisp-fuel-used: %d",
        b"wisp-nn-fuel: %d",
        b"wisp-memory-peak: %d",
        b"wisp-host-calls: %d",
        b"wisp-inferences: %d",
        b"wisp-tensor-bytes: %d",
        b"wisp-request-id: %b",
        b"server-timing: queue;dur=%.3f, store;dur=%.3f, guest;dur=%.3f, nn;dur=%.3f, cpu;dur=%.3f",
    )
)


def receipt_lines(outcome: Outcome, version: int, receipt: Receipt, request: RequestId) -> bytes:
    """As they stand on the wire, in HTTP/1.1: numbers, and the request's id, which was found sane."""
    (
        fuel, nn_fuel, memory_peak_bytes, cpu_ns, queue_ns, store_ns, guest_ns, nn_ns, host_calls, inferences,
        tensor_bytes, _, _,
    ) = receipt  # fmt: skip
    return RECEIPT % (
        OUTCOME_NAMES[outcome],
        version,
        fuel,
        nn_fuel,
        memory_peak_bytes,
        host_calls,
        inferences,
        tensor_bytes,
        request.encode(),
        queue_ns / NS_PER_MS,
        store_ns / NS_PER_MS,
        guest_ns / NS_PER_MS,
        nn_ns / NS_PER_MS,
        cpu_ns / NS_PER_MS,
    )


def receipt_headers(outcome: Outcome, version: int, receipt: Receipt, request: RequestId) -> RawHeaders:
    lines = receipt_lines(outcome, version, receipt, request).split(b"\r\n")[:-1]
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]


def guest_headers(headers: Sequence[tuple[bytes, bytes]]) -> RawHeaders:
    """A guest's response headers, without those that are the connection's or the platform's."""
    kept = [pair for pair in headers if not (pair[0] in NOT_FROM_GUESTS or pair[0].startswith(OWN))]
    if len(kept) != len(headers):
        nominated = {
            token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")
        }
        if nominated:
            kept = [pair for pair in kept if pair[0] not in nominated]
    return kept
