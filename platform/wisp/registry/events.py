"""What changed, told to every node: a hint to forget, never the truth itself.

Publish/subscribe keeps nothing for a listener that was away. So a subscription says when it stands: what was read from
then on is covered by the events that follow, and all that was read before must be dropped.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from wisp.errors import RegistryUnavailable
from wisp.registry.connection import Connection, translated
from wisp.registry.keys import EVENTS

LISTEN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`kind`: tenant, key, function, secret or model, perhaps another of a newer wisp; what holds before anything is
    read is a kind of its own: tenant-suspended, function-suspended, function-deleted. `generation` counts the slot's
    changes; it is 0 for slots, which tells of none: a node lacks in-flight slots.

    `tenant` is None for what the operator shares.
    """

    tenant: str | None
    kind: str
    name: str
    generation: int


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The subscription stands: from here on no change goes untold."""


def parse_event(data: bytes) -> Event:
    """Raises `ValueError` for what is not an event."""
    try:
        fields = json.loads(data)
        return Event(
            tenant=str(fields["tenant"]) or None,
            kind=str(fields["kind"]),
            name=str(fields["name"]),
            generation=int(fields["generation"]),
        )
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError("not an event") from error


async def subscribe(connection: Connection, *, listen_s: float = LISTEN_S) -> AsyncGenerator[Subscribed | Event]:
    """`Subscribed`, then events until the connection is lost: then `RegistryUnavailable`, and the caller begins anew.

    A server that is silent for `listen_s` is asked whether it lives, and is taken for lost if it is silent again.
    """
    pubsub = connection.pubsub()
    try:
        with translated():
            await pubsub.subscribe(EVENTS)
        asked = False
        while True:
            message = await _next(pubsub, listen_s)
            if message is None:
                if asked:
                    raise RegistryUnavailable("the registry has fallen silent")
                asked = True
                with translated():
                    await pubsub.ping()
                continue
            asked = False
            if message["type"] == "subscribe":
                yield Subscribed()
            elif message["type"] == "message":
                yield read_event(message["data"])
    finally:
        with suppress(RedisError, OSError):  # a lost connection cannot be closed politely
            await pubsub.aclose()  # type: ignore[no-untyped-call]


async def _next(pubsub: Any, listen_s: float) -> dict[str, Any] | None:
    with translated():
        message: dict[str, Any] | None = await pubsub.get_message(timeout=listen_s)
    return message


def read_event(data: bytes) -> Event | Subscribed:
    """What cannot be read may have told of anything: the listener forgets all, as when it subscribes."""
    try:
        return parse_event(data)
    except ValueError:
        return Subscribed()
