"""The child that judges one uploaded model: `python -I -m wisp.inference.admission <confinement>`.

It parses a stranger's file in native code and opens a session on it, which cannot be cancelled: the limits that it was
started with, and its parent's patience, end it. It answers once and exits. Options: `arena_bytes`, `folding_bytes`, as
for the host that will run the model.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from dataclasses import replace

from wisp.errors import InvalidModel
from wisp.wire.admissions import Kind, ModelFacts, Refusal, Terms, encode_verdict
from wisp.wire.channel import MAX_FRAME_BYTES
from wisp.wire.confinement import enter
from wisp.wire.walls import ChildKind, encode_report, raise_walls

ARENA_BYTES = 256 << 20


def judge(
    fd: int, terms: Terms, options: dict[str, int], statm: int, prepared: tuple[int, int] | None = None
) -> ModelFacts:
    """`prepared`: the memory files for the optimised model and its weights. Raises `InvalidModel`. The descriptors stay
    open."""
    size_bytes = os.fstat(fd).st_size
    if size_bytes > terms.max_bytes:
        raise InvalidModel(f"the file has {size_bytes} bytes, at most {terms.max_bytes} are allowed")
    from wisp.inference.inspection import inspect
    from wisp.inference.preparation import prepare
    from wisp.inference.probe import probe
    from wisp.inference.sessions import FOLDING_BYTES, Sessions

    inspect(os.pread(fd, size_bytes, 0), terms)
    sessions = Sessions(
        arena_bytes=options.get("arena_bytes", ARENA_BYTES), folding_bytes=options.get("folding_bytes", FOLDING_BYTES)
    )
    before_bytes = resident_bytes(statm)
    model = sessions.open("", fd)
    memory_bytes = max(0, resident_bytes(statm) - before_bytes)
    if memory_bytes > terms.max_memory_bytes:
        raise InvalidModel(
            f"the model takes {memory_bytes} bytes of memory once it is open; "
            f"at most {terms.max_memory_bytes} are allowed"
        )
    high_bytes = peak_bytes()
    found = probe(model)
    peak = max(memory_bytes, resident_bytes(statm) - before_bytes)
    if peak_bytes() > high_bytes:  # while it ran; otherwise something before was the highest
        peak = max(peak, peak_bytes() - before_bytes)
    facts = ModelFacts(
        inputs=model.inputs,
        outputs=model.outputs,
        memory_bytes=memory_bytes,
        probe=replace(found, peak_bytes=peak),
    )
    if prepared is None:
        return facts
    del model
    try:
        return replace(facts, weights_bytes=prepare(sessions, fd, *prepared))
    except (InvalidModel, OSError, MemoryError):
        return facts  # it is opened as it is


def peak_bytes() -> int:
    """The most that this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes(statm: int) -> int:
    """See proc(5), /proc/pid/statm: the second field, in pages. Read anew at each call."""
    return int(os.pread(statm, 128, 0).split()[1]) * resource.getpagesize()


def main() -> int:
    channel, options = enter()
    # Only now: they are imported under the limits; and before the walls, past which no file can be opened.
    import wisp.inference.preparation
    import wisp.inference.probe  # noqa: F401

    statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    channel.send(Kind.READY, json.dumps({"walls": encode_report(raise_walls(ChildKind.ADMISSION))}).encode())
    frame = channel.receive()
    if frame is None:
        return 0
    verdict: ModelFacts | Refusal
    try:
        fd, *files = frame.fds
        prepared = (files[0], files[1]) if files else None
        verdict = judge(fd, Terms.decode(frame.payload), options, statm, prepared)
    except InvalidModel as error:
        verdict = Refusal(reason=error.message)
    except MemoryError:
        verdict = Refusal(reason="the model needs more memory than admission allows")
    payload = encode_verdict(verdict)
    if len(payload) >= MAX_FRAME_BYTES:
        payload = encode_verdict(Refusal(reason="the names of the model's inputs and outputs are too long together"))
    channel.send(Kind.VERDICT, payload)
    return 0


if __name__ == "__main__":
    sys.exit(main())
