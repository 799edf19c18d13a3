"""The ahead-of-time cache: compiled code on disk, authenticated, and in frozen segments while it is in use.

Whoever can write native code into this cache owns every sandbox, so an entry is only as good as its HMAC, taken over
the engine's fingerprint, the module's digest and the code. It is checked on the bytes that go into the segment, and the
segment can never change again; sandboxes map it and hold no key.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
import tempfile
from collections import OrderedDict
from pathlib import Path

from wisp.errors import InvalidFrame
from wisp.names import Digest
from wisp.wire.segments import create_frozen

MAC_BYTES = 32
KEY_BYTES = 32
MAX_SEGMENTS = 512
MAX_SEGMENT_BYTES = 512 * 1024 * 1024


def load_key(path: Path) -> bytes:
    """This node's own key, made on first use. Entries under a lost key are compiled again."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = secrets.token_bytes(KEY_BYTES)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(key)
    if len(key) != KEY_BYTES:
        raise ValueError(f"{path} holds {len(key)} bytes, not the {KEY_BYTES} of a key; remove it")
    return key


class CodeSegment:
    """A frozen segment of authentic code. Its descriptor is open for as long as anybody refers to it: a request that
    waits in a queue must not find the number reused for something else."""

    __slots__ = ("fd", "size_bytes")

    def __init__(self, code: bytes) -> None:
        self.fd = create_frozen("code", [code])
        self.size_bytes = len(code)

    def __del__(self) -> None:
        os.close(self.fd)


class CodeCache:
    """Bounded in number and bytes; what was used longest ago is let go."""

    def __init__(self, directory: Path, key: bytes) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._key = key
        self._segments: OrderedDict[Digest, CodeSegment] = OrderedDict()
        self._held_bytes = 0
        self.fingerprint = ""

    def set_fingerprint(self, fingerprint: str) -> None:
        """Of the engine, as the sandboxes report it before they run anything; known before the first use.

        Raises `InvalidFrame` for another than the first: the process that says so is not what was started.
        """
        if self.fingerprint not in ("", fingerprint):
            raise InvalidFrame(f"a sandbox has another engine: {fingerprint[:200]!a}")
        self.fingerprint = fingerprint

    def peek(self, digest: Digest) -> CodeSegment | None:
        """The segment if it is in memory."""
        held = self._segments.get(digest)
        if held is not None:
            self._segments.move_to_end(digest)
        return held

    async def segment(self, digest: Digest) -> CodeSegment | None:
        """The segment from memory or from disk; None if there is no authentic entry."""
        held = self.peek(digest)
        if held is None:
            code = await asyncio.to_thread(self._read, digest)
            held = self.peek(digest)  # another request may have brought it meanwhile
            if held is None and code is not None:
                held = self._hold(digest, code)
        return held

    async def put(self, digest: Digest, code: bytes) -> CodeSegment:
        """Stores authentic code, that is, what a compile child has just made of that module."""
        await asyncio.to_thread(self._write, digest, code)
        self.drop(digest)
        return self._hold(digest, code)

    def drop(self, digest: Digest) -> None:
        held = self._segments.pop(digest, None)
        if held is not None:
            self._held_bytes -= held.size_bytes

    def close(self) -> None:
        for digest in list(self._segments):
            self.drop(digest)

    def _hold(self, digest: Digest, code: bytes) -> CodeSegment:
        while self._segments and (
            len(self._segments) >= MAX_SEGMENTS or self._held_bytes + len(code) > MAX_SEGMENT_BYTES
        ):
            self.drop(next(iter(self._segments)))
        held = self._segments[digest] = CodeSegment(code)
        self._held_bytes += len(code)
        return held

    def _path(self, digest: Digest) -> Path:
        name = hashlib.sha256(f"{self.fingerprint}\n{digest}".encode()).hexdigest()
        return self._directory / f"{name}.cwasm"

    def _mac(self, digest: Digest, code: bytes) -> bytes:
        head = f"{self.fingerprint}\n{digest}\n{len(code)}\n".encode()
        mac = hmac.new(self._key, head, hashlib.sha256)
        mac.update(code)
        return mac.digest()

    def _read(self, digest: Digest) -> bytes | None:
        path = self._path(digest)
        try:
            entry = path.read_bytes()
        except FileNotFoundError:
            return None
        mac, code = entry[:MAC_BYTES], entry[MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(digest, code)):
            path.unlink(missing_ok=True)
            return None
        return code

    def _write(self, digest: Digest, code: bytes) -> None:
        path = self._path(digest)
        with tempfile.NamedTemporaryFile(dir=self._directory, prefix=".new-", delete=False) as file:
            try:
                file.write(self._mac(digest, code))
                file.write(code)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
