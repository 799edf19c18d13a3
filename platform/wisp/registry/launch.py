"""The moment between wisp and its own redis-server: takes the directory's lock, ties it to its parent, becomes it.

`python -I -m wisp.registry.launch <parent pid> <lock file> <seconds to wait> <redis-server> <argument>…`

The lock is an inherited descriptor: it is held exactly as long as a server lives, so two never write one append-only
file, not even when a platform was killed and its server is still ending.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time

from wisp.wire.confinement import die_with_parent

RETRY_S = 0.05


def take_lock(path: str, wait_s: float) -> bool:
    """Leaves the locked descriptor open across `exec`; False if another process kept it for `wait_s`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(descriptor, True)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(RETRY_S)
        else:
            return True


def main() -> None:
    parent_pid, lock, wait_s, server, *arguments = sys.argv[1:]
    os.umask(0o077)
    # The terminal's Ctrl-C reaches the whole process group; redis-server would shut down under requests in flight.
    os.setpgid(0, 0)
    die_with_parent(int(parent_pid), signal.SIGTERM)
    if not take_lock(lock, float(wait_s)):
        sys.exit("another redis-server still uses this directory")
    os.execv(server, [server, *arguments])  # noqa: S606  (no shell is the point)


if __name__ == "__main__":
    main()
