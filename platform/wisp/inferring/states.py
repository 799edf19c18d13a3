"""Whether models can be asked, for listings of them: those elsewhere as their machines said a moment ago.

A listing must not wait for other machines unless its caller wants that. So what they say is remembered for a few
seconds, for all tenants (only the operator names such models), and is asked for by one request a model however many
callers want to know it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from wisp.egress.remote import Remotes
from wisp.egress.remotemodels import Broken, Unreachable
from wisp.errors import RegistryUnavailable
from wisp.inferring.remote import remote_model
from wisp.registry.records import Model

log = logging.getLogger(__name__)

REMEMBERED_S: Final = 5.0
WAIT_S: Final = 2.0
"""For a listing, all of its models together."""
ANSWER_S: Final = 1.5
"""For a machine to answer, and before that for its turn to be asked."""
AT_ONCE: Final = 16
"""Requests at a time."""
CAPACITY: Final = 4096
NS_PER_S: Final = 1_000_000_000


class Readiness(StrEnum):
    """As Triton's model repository extension names it."""

    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class State:
    readiness: Readiness
    reason: str = ""


READY: Final = State(Readiness.READY)
"""What is here is, being loaded when it is asked for."""
NOT_ASKED: Final = State(Readiness.UNKNOWN, "on another machine, which was not asked")


class RemoteStates:
    """Belongs to one event loop."""

    def __init__(self, remotes: Remotes) -> None:
        self._remotes = remotes
        self._heard: OrderedDict[Model, tuple[float, State]] = OrderedDict()
        """The latest last, with when they were heard."""
        self._asking: dict[Model, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def close(self) -> None:
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def of(self, model: Model) -> State:
        """From memory."""
        heard = self._heard.get(model)
        return NOT_ASKED if heard is None or time.monotonic() - heard[0] > REMEMBERED_S else heard[1]

    async def ask(self, models: Iterable[Model]) -> None:
        """Returns when it is known of all of them what their machines say, or after `WAIT_S`."""
        asking = [self._asked(model) for model in models if self.of(model) is NOT_ASKED]
        if asking:
            await asyncio.wait(asking, timeout=WAIT_S)

    def _asked(self, model: Model) -> asyncio.Task[None]:
        """Goes on when a caller leaves: others may wait for it."""
        task = self._asking.get(model)
        if task is None:
            task = self._asking[model] = asyncio.get_running_loop().create_task(self._ask(model))
            task.add_done_callback(_note_end)
        return task

    async def _ask(self, model: Model) -> None:
        loop, asked = asyncio.get_running_loop(), False
        try:
            async with asyncio.timeout(ANSWER_S) as left, self._turns:
                left.reschedule(loop.time() + ANSWER_S)
                asked = True
                await self._remotes.ask_ready(remote_model(model, int(ANSWER_S * NS_PER_S)))
            state = READY
        except TimeoutError:
            if not asked:  # no turn in time
                return
            state = State(Readiness.UNKNOWN, f"on another machine, which did not answer within {ANSWER_S:g} s")
        except (Unreachable, Broken) as error:
            state = State(Readiness.UNAVAILABLE, f"on another machine: {error}")
        except RegistryUnavailable:
            state = State(Readiness.UNKNOWN, "on another machine, for which the credential cannot be read now")
        finally:
            del self._asking[model]
        self._heard[model] = time.monotonic(), state
        self._heard.move_to_end(model)
        if len(self._heard) > CAPACITY:
            self._heard.popitem(last=False)


def _note_end(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.error("asking for a model's readiness failed by a defect", exc_info=error)
