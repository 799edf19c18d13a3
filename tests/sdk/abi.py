"""The `handler` ABI from the platform's side, on a bare engine: messages, and one instance of a guest."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from urllib.parse import urlsplit

import wasmtime


def text(value: str) -> bytes:
    return struct.pack("<I", len(value.encode())) + value.encode()


def encode(method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    parts, pairs = urlsplit(target), (headers or {}).items()
    head = [struct.pack("<I", 1), text(method), text(parts.path), text(parts.query), struct.pack("<I", len(pairs))]
    return b"".join([*head, *(text(part) for pair in pairs for part in pair), body])


def status_of(response: bytes) -> int:
    version, status = struct.unpack_from("<II", response)
    assert version == 1
    return int(status)


def body_of(response: bytes) -> bytes:
    count, at = struct.unpack_from("<I", response, 8)[0], 12
    for _ in range(2 * count):
        at += 4 + struct.unpack_from("<I", response, at)[0]
    return response[at:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """One instance of a guest."""

    store: wasmtime.Store
    exports: wasmtime._instance.InstanceExports

    @property
    def memory(self) -> wasmtime.Memory:
        memory = self.exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        return memory

    def call(self, name: str, *arguments: int) -> int:
        function = self.exports[name]
        assert isinstance(function, wasmtime.Func)
        result = function(self.store, *arguments)
        return 0 if result is None else int(result)

    def read(self, at: int, length: int) -> bytes:
        return bytes(self.memory.read(self.store, at, at + length))

    def write(self, at: int, content: bytes) -> None:
        self.memory.write(self.store, content, at)

    def handle(self, message: bytes) -> bytes:
        at = self.call("wisp_alloc", len(message))
        self.write(at, message)
        answer = self.call("wisp_handle", at, len(message)) & (2**64 - 1)
        return self.read(answer >> 32, answer & (2**32 - 1))
