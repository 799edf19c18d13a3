"""The thread that guests run on, and the one beside it that can stop them.

The router makes a thread whose guest runs long less urgent than everything else (`setpriority`, per thread on Linux).
No privilege is needed for that, but one would be needed to take it back; so the guest that was slowed down is the last
of its thread's, and the next runs on a fresh one, which is as urgent as the thread that started it. That is the main
thread, which does nothing else but wait: for the end of such a shift, and for the number of an invocation that nobody
wants to have answered any more.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable
from typing import Final, NoReturn

from wisp.wire.invocations import STOP

STACK_BYTES: Final = 8 * 1024 * 1024
"""What the main thread of a process usually has; the engine checks its own bound, far below."""


def slowed_down(urgency: int) -> bool:
    """Whether this thread is less urgent than it was."""
    return os.getpriority(os.PRIO_PROCESS, 0) > urgency


class Shifts:
    """`work` is called on a thread again and again: it returns True for another shift, False to end the process, which
    also ends with whatever it raises. `stop` is called, on the main thread, with what comes by `stop_fd` (`STOP`).
    `over_fd`: an eventfd, made before the walls were raised."""

    def __init__(
        self, work: Callable[[], bool], stop: Callable[[int, bool], None], *, stop_fd: int, over_fd: int
    ) -> None:
        self._work = work
        self._stop = stop
        self._stop_fd = stop_fd
        self._over_fd = over_fd
        threading.stack_size(STACK_BYTES)

    def run(self) -> NoReturn:
        waiting = select.poll()
        waiting.register(self._over_fd, select.POLLIN)
        if self._stop_fd >= 0:
            waiting.register(self._stop_fd, select.POLLIN)
        self._begin()
        while True:
            for fd, _ in waiting.poll():
                if fd == self._over_fd:
                    os.eventfd_read(fd)
                    self._begin()
                elif message := os.read(fd, STOP.size):
                    self._stop(*STOP.unpack(message))
                else:
                    os._exit(0)  # the router is gone

    def _begin(self) -> None:
        threading.Thread(target=self._shift, name="guest", daemon=True).start()

    def _shift(self) -> None:
        try:
            another = self._work()
        except BaseException:  # noqa: BLE001 - the child's main loop: whatever it was ends the process
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        if not another:
            # No close: the process ends here, and the kernel frees faster than a tidy engine would.
            os._exit(0)
        os.eventfd_write(self._over_fd, 1)
