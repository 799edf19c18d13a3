"""One request and its answer, as ASGI speaks of them."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Final

from wisp.http1.answers import CONTINUE, Answer, refusal
from wisp.http1.bodies import Chunks, Counted
from wisp.http1.heads import Refused, RequestHead
from wisp.http1.stream import Stream

Message = MutableMapping[str, Any]

LINGER_S: Final = 1.0
LINGER_BYTES: Final = 1024 * 1024
"""What is still read, and thrown away, after something that was refused: a reset would lose the refusal."""
GONE: Final[Message] = {"type": "http.disconnect"}
FAILED: Final = ((b"content-length", b"0"), (b"connection", b"close"))


async def refuse(stream: Stream, status: int) -> None:
    """Says what is wrong, takes in a little of what follows, and closes."""
    await stream.write([refusal(status)])
    await stream.discard(LINGER_BYTES, LINGER_S)
    stream.transport.close()


class Exchange:
    """`framing_bytes`: the most of a chunked body's framing in a row. `last`: no request may follow."""

    __slots__ = ("_answer", "_at", "_body", "_fed", "_head", "_over", "_piece", "_stream", "_taken")

    def __init__(self, stream: Stream, head: RequestHead, framing_bytes: int, *, last: bool) -> None:
        self._stream = stream
        self._head = head
        self._body = Chunks(framing_bytes) if head.chunked else Counted(head.length)
        self._answer = Answer(head.method, head.version, closing=head.closing or last)
        self._piece, self._at = b"", 0
        """Of the body: what was taken last, and how far it is used."""
        self._fed = False
        self._taken = False
        """The application has been given all of the body."""
        self._over = False

    async def receive(self) -> Message:
        if self._over:
            return GONE
        if self._taken:
            await self._stream.left()
            return GONE
        try:
            part = await self._next_part()
        except Refused as refused:
            self._over = True
            if self._answer.sent:
                self._stream.transport.close()
            else:
                await refuse(self._stream, refused.status)
            return GONE
        self._taken = self._body.complete
        return {"type": "http.request", "body": part, "more_body": not self._taken}

    async def _next_part(self) -> bytes:
        """Nothing where the body is complete. Raises `Refused`, also where it will not be."""
        stream, body, part = self._stream, self._body, b""
        while not (part or body.complete):
            if self._piece:
                await stream.turn()
            else:
                await self._take_piece()
            part, self._at = body.feed(self._piece, self._at)
            if body.complete:
                stream.rest = self._piece[self._at :]
            if body.complete or self._at == len(self._piece):
                self._piece, self._at = b"", 0
        return part

    async def _take_piece(self) -> None:
        stream = self._stream
        self._piece, stream.rest = stream.rest, b""
        if not self._piece:
            if self._head.expects and not (self._fed or self._answer.sent or stream.lying_bytes):
                await stream.write([CONTINUE])
            self._piece = await stream.take()
            if not self._piece:
                raise Refused(400)
        self._fed = True

    async def send(self, message: Message) -> None:
        """What is sent after the caller has gone is dropped. Raises `ValueError` for headers that are none, and
        `RuntimeError` for what ASGI does not allow here."""
        answer, stream = self._answer, self._stream
        if self._over or stream.transport.is_closing():
            return
        kind = message["type"]
        if kind == "http.response.body" and answer.begun:
            await stream.write(answer.parts(message.get("body", b""), more=message.get("more_body", False)))
            self._over = answer.complete
        elif kind == "http.response.start" and not answer.begun:
            answer.begin(message["status"], message.get("headers", ()), message.get("lines", b""))
        else:
            raise RuntimeError(f"{kind}: not in its place")

    async def finish(self) -> bool:
        """Once the application has returned: whether another request may follow."""
        answer, stream, body = self._answer, self._stream, self._body
        if not (self._over or answer.sent or stream.transport.is_closing()):
            answer = Answer(self._head.method, self._head.version, closing=True)
            answer.begin(500, FAILED)
            await stream.write(answer.parts(b"", more=False))
        self._over = True
        if not answer.complete or answer.closing or stream.transport.is_closing():
            return False
        if body.complete:
            return True
        if isinstance(body, Counted) and body.left <= len(stream.rest):  # nobody wanted it, but it is here
            stream.rest = stream.rest[body.left :]
            return True
        return False
