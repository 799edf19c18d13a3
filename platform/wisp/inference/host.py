"""The inference host process: `python -I -m wisp.inference.host <confinement>`.

Options: `threads` that infer (2), `arena_bytes` that all running inferences share, `folding_bytes` for one constant
computed while a model is opened, `models_fd`: a directory in which prepared models appear. Ends with its channel, or
with its parent.
"""

from __future__ import annotations

import os
import sys

from wisp.wire.confinement import enter
from wisp.wire.walls import ChildKind, raise_walls, shown

THREADS = 2


def main() -> int:
    channel, options = enter()
    # Only now: it is imported under the limits that it will run under.
    from wisp.inference.loop import Host
    from wisp.inference.sessions import ARENA_BYTES, FOLDING_BYTES, Sessions

    models_fd = options.get("models_fd")
    report = raise_walls(ChildKind.INFERENCE, models_fd)
    sessions = Sessions(
        arena_bytes=options.get("arena_bytes", ARENA_BYTES),
        folding_bytes=options.get("folding_bytes", FOLDING_BYTES),
        prepared=None if models_fd is None else shown(models_fd),
    )
    if not Host(channel, sessions, threads=options.get("threads", THREADS)).serve(report):
        # A thread is inside a native call that nothing can end, and the interpreter would not survive it.
        sys.stderr.flush()
        os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
