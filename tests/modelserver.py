"""A server of the Open Inference Protocol on loopback that does what a test tells it to, right or wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

VALUES = bytes.fromhex("0000803f0000004000004040")
"""1, 2, 3 as FP32."""
SPEC: dict[str, object] = {"name": "x", "datatype": "FP32", "shape": [-1]}
METADATA = {"name": "m", "platform": "p", "versions": ["1"], "inputs": [SPEC], "outputs": [SPEC | {"name": "y"}]}


@dataclass(slots=True)
class Peer:
    """Another machine, on loopback: gives back what it is given, unless it is told to do otherwise."""

    port: int = 0
    behaviour: str = "echo"
    readiness: bytes = b"200 OK"
    """Empty: it never says."""
    readinesses: int = 0
    may_answer: asyncio.Event | None = None
    """What it waits for before it says whether it is ready."""
    metadata: object = field(default_factory=lambda: METADATA)
    extensions: tuple[str, ...] = ("binary_tensor_data",)
    inferences: int = 0
    hung: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Whoever it made wait has closed the connection."""

    @property
    def source(self) -> str:
        return f"oip+http://127.0.0.1:{self.port}/some/prefix/m@1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            body = await reader.readexactly(int(fields.get("content-length", "0")))
            path = head.split(" ")[1]
            if path == "/some/prefix/v2":
                await self.send(writer, json.dumps({"name": "peer", "extensions": self.extensions}).encode())
                return
            assert path.startswith("/some/prefix/v2/models/m/versions/1")
            if head.startswith("GET"):
                if path.endswith("/ready"):
                    self.readinesses += 1
                    if not self.readiness:
                        await self.hang(reader)
                        return
                    if self.may_answer is not None:
                        await self.may_answer.wait()
                    await self.send(writer, b"{}", status=self.readiness)
                else:
                    await self.send(writer, json.dumps(self.metadata).encode())
                return
            self.inferences += 1
            if "inference-header-content-length" not in fields:
                (tensor,) = json.loads(body)["inputs"]
                await self.send(writer, json.dumps({"outputs": [tensor | {"name": "y"}]}).encode())
                return
            data = body[int(fields["inference-header-content-length"]) :]
            await self.infer(reader, writer, data)
        finally:
            writer.close()

    async def hang(self, reader: asyncio.StreamReader) -> None:
        self.hung.set()
        await reader.read()
        self.left.set()

    async def infer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self.behaviour == "slow":
            await self.hang(reader)
            return
        output: dict[str, object] = SPEC | {
            "name": "y",
            "shape": [len(data) // 4],
            "parameters": {"binary_data_size": len(data)},
        }
        match self.behaviour:
            case "shape":
                output["shape"] = [len(data) // 4 + 1]
            case "rank":
                output["shape"] = [1, len(data) // 4]
            case "datatype":
                output["datatype"] = "INT32"
            case "name":
                output["name"] = "z"
            case "short":
                data = data[:-1]
            case "long":
                data += b"!"
            case "huge":
                data = bytes(64 << 20)
            case "json":
                output = SPEC | {"name": "y", "shape": [3], "data": [1, 2, 3]}
                await self.send(writer, json.dumps({"outputs": [output]}).encode())
                return
            case "garbage":
                await self.send(writer, b"\0" * 300)
                return
            case "error":
                await self.send(writer, b'{"error": "no"}', status=b"500 No")
                return
            case "busy":
                await self.send(writer, b'{"error": "later"}', status=b"503 Later")
                return
            case "no http":
                writer.write(b"hello\r\n\r\n")
                return
        text = json.dumps({"outputs": [output]}).encode()
        await self.send(writer, text + data, length=len(text), cut=20 if self.behaviour == "closes" else None)

    async def send(
        self,
        writer: asyncio.StreamWriter,
        body: bytes,
        *,
        length: int | None = None,
        cut: int | None = None,
        status: bytes = b"200 OK",
    ) -> None:
        head = b"HTTP/1.1 %s\r\ncontent-length: %d\r\n" % (status, len(body))
        if length is not None:
            head += b"inference-header-content-length: %d\r\n" % length
        writer.write(head + b"\r\n" + body[:cut])
        with contextlib.suppress(ConnectionError):  # it has read enough
            await writer.drain()


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[tuple[Peer, asyncio.Server]]:
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer, server
    finally:
        server.close()
