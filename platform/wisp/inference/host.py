"""The inference host process: `python -I -m wisp.inference.host <confinement>`.

Options: `threads` that infer (2), `delay_ns` that an inference waits for others to share a batch (0), `patience_ns`
that one may run on which nobody waits for before the process ends with it (0: for ever), `arena_bytes`
that all running inferences share, `folding_bytes` for one constant computed while a model is opened, `models_fd`: a
directory in which prepared models appear, `gpu` (0): 1 to look for one, `cores` (1) that one run may have. Ends with
its channel, or with its parent.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading

from wisp.wire.confinement import enter
from wisp.wire.walls import ChildKind, raise_walls, shown

THREADS = 2


def end_with_thread(failure: threading.ExceptHookArgs) -> None:
    """A thread that dies of a defect would leave its slots without an answer: the router starts another host."""
    threading.__excepthook__(failure)
    os._exit(1)


def main() -> int:
    channel, options = enter()
    threading.excepthook = end_with_thread
    # Only now: it is imported under the limits that it will run under.
    from wisp.inference.loop import Host
    from wisp.inference.providers import providers_of
    from wisp.inference.sessions import ARENA_BYTES, FOLDING_BYTES, Sessions
    from wisp.inference.wide import Cores

    statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    idle = None
    with contextlib.suppress(OSError):
        idle = Cores()
    models_fd = options.get("models_fd")
    gpu = bool(options.get("gpu", 0))
    report = raise_walls(ChildKind.GPU_INFERENCE if gpu else ChildKind.INFERENCE, models_fd)
    # After the walls: CUDA starts threads, and a credential belongs to a thread.
    providers = providers_of(gpu=gpu)
    sessions = Sessions(
        arena_bytes=options.get("arena_bytes", ARENA_BYTES),
        folding_bytes=options.get("folding_bytes", FOLDING_BYTES),
        prepared=None if models_fd is None else shown(models_fd),
    )
    host = Host(
        channel,
        sessions,
        providers=providers,
        threads=options.get("threads", THREADS),
        statm=statm,
        delay_ns=options.get("delay_ns", 0),
        patience_ns=options.get("patience_ns", 0),
        cores=options.get("cores", 1),
        idle=idle,
    )
    if not host.serve(report):
        # A thread is inside a native call that nothing can end, and the interpreter would not survive it.
        sys.stderr.flush()
        os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
