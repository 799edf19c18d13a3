"""Where the slots' frames arrive: whoever has nothing to run waits here, on all sockets at once.

One thread at a time reads a slot: its socket is silent from the moment in which it is heard until it is armed again.
"""

from __future__ import annotations

import os
import select

from wisp.inference.slots import Slot

READ_ONCE = select.EPOLLIN | select.EPOLLONESHOT


class Ears:
    """`slots` by their sockets' descriptors; whoever changes them holds the desk's lock."""

    def __init__(self) -> None:
        self.slots: dict[int, Slot] = {}
        self._epoll = select.epoll()
        # Edge-triggered: each write wakes one thread, and nobody has to read it.
        self._poke = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._poke, select.EPOLLIN | select.EPOLLET)

    def fileno(self) -> int:
        """Readable while a slot's socket is, and nobody has looked."""
        return self._epoll.fileno()

    def add(self, slot: Slot) -> None:
        self.slots[slot.channel.fileno()] = slot
        self._epoll.register(slot.channel, READ_ONCE)

    def remove(self, slot: Slot) -> None:
        fd = slot.channel.fileno()
        self._epoll.unregister(fd)
        del self.slots[fd]

    def arm(self, fd: int) -> None:
        try:  # noqa: SIM105 - suppressing it so would cost more than the call
            self._epoll.modify(fd, READ_ONCE)
        except OSError:
            pass  # closed in this very moment

    def wait(self, seconds: float, most: int) -> list[int]:
        """Descriptors that may be read, and perhaps the one that `poke` writes to; -1 s: until there is one."""
        return [fd for fd, _ in self._epoll.poll(seconds, most)]

    def poke(self) -> None:
        """Wakes one thread that waits."""
        os.eventfd_write(self._poke, 1)
