"""The compile child: one module in, its facts and then its native code out, under hard limits; then it ends.

It is started for one upload and dies by RLIMIT_CPU or RLIMIT_AS if the module is a bomb; the router sees end of file.
Run as `python -I -m wisp.sandbox.compiler`.
"""

from __future__ import annotations

import json
import os

from wisp.sandbox.engine import Engine
from wisp.sandbox.sections import MalformedModule, read_facts
from wisp.sandbox.traps import EngineError
from wisp.wire.channel import Channel
from wisp.wire.compilations import LENGTH, MAX_FACTS_BYTES, MAX_REASON_BYTES, Kind
from wisp.wire.confinement import enter
from wisp.wire.segments import FIXED, require_seals
from wisp.wire.walls import ChildKind, encode_report, raise_walls


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    at = 0
    while at < len(view):
        at += os.pwrite(fd, view[at:], at)


def _refuse(channel: Channel, reason: str) -> None:
    channel.send(Kind.REFUSED, reason.encode("utf-8", "replace")[:MAX_REASON_BYTES])


def serve(channel: Channel) -> None:
    """One compilation. Returns early when the module was refused or the router went away."""
    frame = channel.receive()
    if frame is None:
        return
    module_fd, output_fd = frame.fds
    (most,) = LENGTH.unpack(frame.payload)
    room = require_seals(output_fd, FIXED)
    size = os.fstat(module_fd).st_size
    if size > most:
        _refuse(channel, f"the module has {size} bytes, at most {most} are allowed")
        return
    wasm = os.pread(module_fd, most, 0)
    try:
        facts = json.dumps(read_facts(wasm).to_json()).encode()
    except MalformedModule as error:
        _refuse(channel, str(error))
        return
    if len(facts) > min(room, MAX_FACTS_BYTES):
        _refuse(channel, "the module's imports and exports take too much room")
        return
    _write(output_fd, facts)
    channel.send(Kind.FACTS, LENGTH.pack(len(facts)))
    if channel.receive() is None:
        return
    try:
        code = Engine().compile(wasm)
    except EngineError as error:
        _refuse(channel, str(error))
        return
    if len(code) > room:
        _refuse(channel, f"the compiled module has {len(code)} bytes, at most {room} are allowed")
        return
    _write(output_fd, code)
    channel.send(Kind.CODE, LENGTH.pack(len(code)))


def main() -> None:
    channel, _ = enter()
    channel.send(Kind.READY, json.dumps({"walls": encode_report(raise_walls(ChildKind.COMPILER))}).encode())
    serve(channel)


if __name__ == "__main__":
    main()
