"""Models that guests bring themselves (wasi-nn `load`), judged once for each tenant and digest.

The bytes come from a sandbox and are neither parsed here nor there: an admission child judges them, apart from those of
uploads, and an inference host opens them under a name that holds the tenant's, so that no other tenant's request ever
meets the session, nor learns from its speed that somebody has the same model. A load that outlives the request which
asked for it goes on, and the next request finds it. Refused bytes are remembered, so that they cost a child once.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from wisp.errors import ChildLost, Exhausted, InvalidFrame, InvalidModel, Unavailable
from wisp.models import terms_of
from wisp.names import Digest, TenantName
from wisp.policy.ceilings import Ceilings
from wisp.policy.schema import ModelCeiling
from wisp.scheduling.admissions import Admissions
from wisp.scheduling.budget import ByteBudget
from wisp.scheduling.hosts import InferenceHost, OpenedModel
from wisp.scheduling.tenanthosts import TenantHosts
from wisp.wire.admissions import ModelFacts
from wisp.wire.inferences import BoundModel
from wisp.wire.invocations import ModelLink, encode_model
from wisp.wire.outbound import Inbound, Status
from wisp.wire.segments import create_frozen

MAX_BYTES = 256 << 20
"""Of all that is kept for opening it again; what was used longest ago goes first."""
MAX_PENDING = 2
"""Of one tenant's models being judged; each holds its bytes."""
MAX_PER_INVOCATION = 8
MAX_REFUSED = 1024
SEPARATOR = "/"


@dataclass(slots=True, eq=False)
class InlineModel:
    """Admitted bytes, in a segment that nobody can change."""

    fd: int
    size_bytes: int
    facts: ModelFacts

    def __del__(self) -> None:
        os.close(self.fd)


class InlineModels:
    """Those of one node, by `tenant/digest`. `ceilings` is called for the policies in force."""

    def __init__(self, admissions: Admissions, ceilings: Callable[[], Ceilings], budget: ByteBudget) -> None:
        """`budget` is what the bytes count against while they are judged."""
        self._budget = budget
        self.host: InferenceHost
        self.own_hosts: TenantHosts
        self._admissions = admissions
        self._ceilings = ceilings
        self._held: OrderedDict[Digest, InlineModel] = OrderedDict()
        self._held_bytes = 0
        self._refused: OrderedDict[Digest, str] = OrderedDict()
        self._judging: dict[Digest, asyncio.Task[None]] = {}
        self._judged_under = ""

    @property
    def limits(self) -> ModelCeiling:
        return self._ceilings().ceiling.models

    def serve(self, tenant: TenantName, models: int, *, own: bool) -> InlineRequests:
        """For one invocation, whose binding has that many models already; `own`: in the tenant's inference host."""
        return InlineRequests(self, tenant, models, own=own)

    def open(self, scoped: Digest) -> OpenedModel | None:
        """What the inference host needs; None for a digest that is no tenant's inline model, or that was let go."""
        held = self._held.get(scoped)
        return None if held is None else OpenedModel(fd=os.dup(held.fd))

    async def ready(self, scoped: Digest, data: bytes, tenant: TenantName, *, own: bool) -> InlineModel:
        """Admitted and open in the host. Raises `InvalidModel`, `Unavailable`; `Busy` where the tenant has too many
        under way. Cancelling it leaves the work to go on."""
        self._forget_former_policies()
        if scoped in self._refused:
            raise InvalidModel(self._refused[scoped])
        if scoped not in self._held:
            await asyncio.shield(self._judge(scoped, data))
        if scoped in self._refused:
            raise InvalidModel(self._refused[scoped])
        held = self._held.get(scoped)
        if held is None:
            raise Busy("it could not be kept; try again")
        self._held.move_to_end(scoped)
        await (self.own_hosts.ensure(tenant, (scoped,)) if own else self.host.ensure((scoped,)))
        return held

    def revise(self) -> None:
        """The operator's policies may have changed: what was judged under others is closed."""
        self._forget_former_policies()

    def forget(self, tenant: TenantName) -> None:
        """None of its functions brings models any more."""
        for scoped in [scoped for scoped in self._held if scoped.startswith(tenant + SEPARATOR)]:
            self._let_go(scoped)

    def _let_go(self, scoped: Digest) -> None:
        """Its session goes too, wherever it is; one in use goes when it has to make room."""
        self._held_bytes -= self._held.pop(scoped).size_bytes
        self.host.drop(scoped)
        self.own_hosts.drop(TenantName(scoped.partition(SEPARATOR)[0]), scoped)

    def _forget_former_policies(self) -> None:
        """What was judged under another ceiling is judged again."""
        digest = self._ceilings().digest
        if digest != self._judged_under:
            self._judged_under = digest
            self._refused.clear()
            for scoped in list(self._held):
                self._let_go(scoped)

    def _judge(self, scoped: Digest, data: bytes) -> asyncio.Task[None]:
        judging = self._judging.get(scoped)
        if judging is None:
            owner = scoped.partition(SEPARATOR)[0] + SEPARATOR
            if sum(other.startswith(owner) for other in self._judging) >= MAX_PENDING:
                raise Busy(f"{MAX_PENDING} models of the tenant's guests are being admitted")
            judging = self._judging[scoped] = asyncio.get_running_loop().create_task(self._admit(scoped, data))
            judging.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may be left to ask
        return judging

    async def _admit(self, scoped: Digest, data: bytes) -> None:
        try:
            self._budget.take(len(data), scoped.partition(SEPARATOR)[0])
        except BaseException:
            del self._judging[scoped]
            raise
        try:
            await self._judge_bytes(scoped, data)
        finally:
            self._budget.give_back(len(data), scoped.partition(SEPARATOR)[0])
            del self._judging[scoped]

    async def _judge_bytes(self, scoped: Digest, data: bytes) -> None:
        fd = await asyncio.to_thread(create_frozen, "inline-model", [data])
        try:
            facts = await self._admissions.judge(
                fd, terms_of(self._ceilings()), on_behalf_of=scoped.partition(SEPARATOR)[0]
            )
        except (InvalidModel, InvalidFrame) as error:
            os.close(fd)
            self._refused[scoped] = error.message
            while len(self._refused) > MAX_REFUSED:
                self._refused.popitem(last=False)
        except BaseException:
            os.close(fd)
            raise
        else:
            self._keep(scoped, InlineModel(fd, len(data), facts))

    def _keep(self, scoped: Digest, model: InlineModel) -> None:
        self._held[scoped] = model
        self._held_bytes += model.size_bytes
        while self._held_bytes > MAX_BYTES and len(self._held) > 1:
            self._let_go(next(iter(self._held)))

    async def close(self) -> None:
        tasks = list(self._judging.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._held.clear()


class Busy(Unavailable):
    """The tenant's guests bring more models than are admitted at a time."""


class InlineRequests:
    """Those of one invocation. A model that it brings twice has one number."""

    def __init__(self, models: InlineModels, tenant: TenantName, number: int, *, own: bool) -> None:
        self._models = models
        self._own = own
        self._tenant = tenant
        self._next = number
        self._numbers: dict[Digest, int] = {}

    async def load(self, data: bytes, deadline_ns: int) -> tuple[Inbound, BoundModel | None]:
        """What to tell the sandbox, and what to tell the inference host first."""
        limits = self._models.limits
        if len(data) > limits.size:
            words = f"the model has {len(data)} bytes, the ceiling's models.size is {limits.size}"
            return _failed(Status.TOO_LARGE, words)
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        scoped = Digest(f"{self._tenant}{SEPARATOR}sha256:{digest}")
        if scoped not in self._numbers and len(self._numbers) >= MAX_PER_INVOCATION:
            return _failed(Status.EXHAUSTED, f"a request brings {MAX_PER_INVOCATION} models at most")
        try:
            async with asyncio.timeout((deadline_ns - time.monotonic_ns()) / 1e9):
                model = await self._models.ready(scoped, data, self._tenant, own=self._own)
        except TimeoutError:
            return _failed(Status.DEADLINE, "")
        except InvalidModel as error:
            return _failed(Status.INVALID, error.message)
        except ChildLost as error:
            return _failed(Status.UNREACHABLE, error.message)
        except (Unavailable, Exhausted) as error:
            return _failed(Status.EXHAUSTED, error.message)
        bound = None
        known = self._numbers.get(scoped)
        if known is None:
            known = self._numbers[scoped] = self._next
            self._next += 1
            bound = BoundModel(digest=scoped, max_inferences=limits.max_inferences, max_time_ns=limits.max_time)
        link = ModelLink(
            name="inline",
            target="cpu",
            max_inferences=limits.max_inferences,
            max_time_ns=limits.max_time,
            inputs=model.facts.inputs,
            outputs=model.facts.outputs,
            own=self._own,
        )
        return Inbound(status=Status.OK, content=encode_model(known, link)), bound


def _failed(status: Status, words: str) -> tuple[Inbound, BoundModel | None]:
    return Inbound(status=status, content=words.encode()), None
