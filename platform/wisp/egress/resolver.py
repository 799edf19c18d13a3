"""Names to addresses, by the system's resolver, on threads of its own: one that hangs delays nobody but its like."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor

from wisp.egress.addresses import Address

THREADS = 8


class UnknownHost(Exception):
    """The name does not resolve."""


class Resolver:
    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="resolver")

    async def resolve(self, host: str) -> tuple[Address, ...]:
        """Each once, in the resolver's order. Raises `UnknownHost`."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._threads, _look_up, host)
        except (OSError, UnicodeError) as error:
            raise UnknownHost(host) from error
        return tuple(dict.fromkeys(found))

    def close(self) -> None:
        """Without waiting for those that hang."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str) -> list[Address]:
    rows = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in rows]
