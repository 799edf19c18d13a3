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
OUTCOME_HEADERS: Final = {outcome: (b"wisp-outcome", outcome.value.encode()) for outcome in CODES}


def receipt_headers(outcome: Outcome, version: int, receipt: Receipt, request: RequestId) -> RawHeaders:
    (
        fuel, nn_fuel, memory_peak_bytes, cpu_ns, queue_ns, store_ns, guest_ns, nn_ns, host_calls, inferences,
        tensor_bytes, _, _,
    ) = receipt  # fmt: skip
    return [
        OUTCOME_HEADERS[outcome],
        (b"wisp-version", b"%d" % version),
        (b"wisp-fuel-used", b"%d" % fuel),
        (b"wisp-nn-fuel", b"%d" % nn_fuel),
        (b"wisp-memory-peak", b"%d" % memory_peak_bytes),
        (b"wisp-host-calls", b"%d" % host_calls),
        (b"wisp-inferences", b"%d" % inferences),
        (b"wisp-tensor-bytes", b"%d" % tensor_bytes),
        (b"wisp-request-id", request.encode()),
        (
            b"server-timing",
            b"queue;dur=%.3f, store;dur=%.3f, guest;dur=%.3f, nn;dur=%.3f, cpu;dur=%.3f"
            % (
                queue_ns / NS_PER_MS,
                store_ns / NS_PER_MS,
                guest_ns / NS_PER_MS,
                nn_ns / NS_PER_MS,
                cpu_ns / NS_PER_MS,
            ),
        ),
    ]


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
