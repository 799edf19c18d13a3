"""What an ending comes to: a response, decoded as the hostile bytes that it is, the tenant's log, the bill."""

from __future__ import annotations

from typing import Final

from wisp.denials import Denials
from wisp.errors import Overloaded, TooManyInflight
from wisp.ledger import Ledger
from wisp.names import RequestId
from wisp.resolution import Target
from wisp.scheduling.answers import SLICE_BYTES
from wisp.scheduling.budget import ByteBudget
from wisp.tenantlog import Stream, TenantLog
from wisp.wire.exchange import MalformedExchange, Response
from wisp.wire.outcome import Ending, Outcome, Receipt

NS_PER_MS: Final = 1_000_000


class Answer:
    """How an invocation ended. `response` is there if, and only if, the outcome is ok; `close` once it is sent."""

    __slots__ = ("_budget", "_held", "_owner", "outcome", "receipt", "response", "version")

    def __init__(
        self,
        outcome: Outcome,
        receipt: Receipt,
        response: Response | None,
        *,
        version: int,
        budget: ByteBudget,
        owner: str,
    ) -> None:
        """Raises `Overloaded` if the response's bytes do not fit the node's budget, `TooManyInflight` where they are
        more than its owner's share."""
        self.outcome = outcome
        self.version = version
        self.receipt = receipt
        self.response = response
        self._budget = budget
        self._owner = owner
        self._held = 0
        if response is not None:
            budget.take(receipt.bytes_out, owner)
            self._held = receipt.bytes_out

    def close(self) -> None:
        self._budget.give_back(self._held, self._owner)
        self._held = 0


class Answers:
    def __init__(self, budget: ByteBudget, tenantlog: TenantLog, denials: Denials, ledger: Ledger) -> None:
        self._budget = budget
        self._tenantlog = tenantlog
        self._denials = denials
        self._ledger = ledger

    def make(self, target: Target, request_id: RequestId, ending: Ending, *, queue_ns: int, bytes_in: int) -> Answer:
        """It is in the ledger before it is told. Raises `Overloaded` and `TooManyInflight`, as `Answer` does."""
        outcome, detail, response, bytes_out = ending.outcome, ending.detail, None, 0
        if outcome is Outcome.OK:
            try:
                message = ending.response
                if len(message) <= SLICE_BYTES:  # to copy sixteen mebibytes would stop everybody for ten milliseconds
                    message = bytes(message)
                response = target.plan.answers.decode(message)
            except MalformedExchange as error:
                outcome, detail = Outcome.INVALID_GUEST_RESPONSE, str(error)
            else:
                bytes_out, allowed = len(response.body), target.plan.grants.response_body_bytes
                if bytes_out > allowed:
                    outcome = Outcome.RESPONSE_TOO_LARGE
                    detail = f"a response body of {bytes_out} bytes, limits.response_body is {allowed}"
                    response, bytes_out = None, 0
        if ending.logs:
            self._note(target, request_id, Stream.STDERR, ending.logs.decode("utf-8", "replace"))
        if ending.lines:
            self._note(target, request_id, Stream.LOG, ending.lines.decode("utf-8", "replace"))
        for denial in ending.denials:
            self._denials.add(
                target.tenant, target.function, request_id=request_id, version=target.version, denial=denial
            )
        if detail or outcome is not Outcome.OK:  # a refusal that was only an errno leaves a good ending its detail
            self._note(target, request_id, Stream.PLATFORM, f"{outcome} ({_told(ending.receipt)}): {detail}")
        receipt = ending.receipt.answered(queue_ns=queue_ns, bytes_in=bytes_in, bytes_out=bytes_out)
        tenant, function = target.tenant, target.function
        try:
            answer = Answer(outcome, receipt, response, version=target.plan.version, budget=self._budget, owner=tenant)
        except (Overloaded, TooManyInflight) as refused:  # it ran, but there is no room for what it said
            self._ledger.record(tenant, function, refused.code, receipt._replace(bytes_out=0))
            raise
        self._ledger.record(tenant, function, outcome, receipt)
        return answer

    def _note(self, target: Target, request_id: RequestId, stream: Stream, text: str) -> None:
        self._tenantlog.add(
            target.tenant,
            target.function,
            request_id=request_id,
            version=target.version,
            stream=stream,
            text=text,
        )


def _told(receipt: Receipt) -> str:
    """A receipt as a tenant's log has it beside a failure."""
    return (
        f"fuel {receipt.fuel}, memory {receipt.memory_peak_bytes} bytes, {receipt.host_calls} host calls, "
        f"{receipt.inferences} inferences, guest {receipt.guest_ns / NS_PER_MS:.3f} ms, "
        f"nn {receipt.nn_ns / NS_PER_MS:.3f} ms, cpu {receipt.cpu_ns / NS_PER_MS:.3f} ms"
    )
