"""Blobs in the registry's own Redis, for platforms small enough to keep them in its memory.

A blob is a head and chunks of at most `CHUNK_BYTES`, in one slot. The chunks of an unfinished upload expire by
themselves; a script that sees all of them at once writes the head, and only what has a head is a blob.
"""

from __future__ import annotations

import asyncio
from typing import BinaryIO, Final

from wisp.errors import BlobDamaged, BlobUnavailable, RegistryUnavailable
from wisp.names import DIGEST, Digest
from wisp.registry.blobs import missing
from wisp.registry.connection import Connection, Script
from wisp.registry.keys import BLOB_HEADS, blob_key

CHUNK_BYTES: Final = 1 << 20
MAX_CHUNKS: Final = 2048
"""2 GiB: more than anybody should keep in a server's memory, and few enough keys for one script."""
UNFINISHED_S: Final = 3600

PUT_CHUNK = Script("""
-- KEYS: head, chunk
-- ARGV: bytes, seconds after which a chunk without a head goes
-- ok
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('SET', KEYS[2], ARGV[1])
else redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2]) end
return {'ok'}
""")

FINISH = Script("""
-- KEYS: head, then each chunk
-- ARGV: size of the blob, size of every chunk but the last
-- ok | incomplete
local left = tonumber(ARGV[1])
for index = 2, #KEYS do
  local wanted = math.min(left, tonumber(ARGV[2]))
  if redis.call('STRLEN', KEYS[index]) ~= wanted then return {'incomplete'} end
  left = left - wanted
end
if left ~= 0 then return {'incomplete'} end
for index = 2, #KEYS do redis.call('PERSIST', KEYS[index]) end
redis.call('HSET', KEYS[1], 'size', ARGV[1], 'chunk', ARGV[2], 'put', redis.call('TIME')[1])
return {'ok'}
""")

REMOVE = Script("""
-- KEYS: head, then each chunk
-- ARGV: seconds since it was put for which it is spared
-- removed | young | none
local put = redis.call('HGET', KEYS[1], 'put')
if not put then return {'none'} end
if redis.call('TIME')[1] - put < tonumber(ARGV[1]) then return {'young'} end
for index = 1, #KEYS do redis.call('UNLINK', KEYS[index]) end
return {'removed'}
""")


class RedisBlobs:
    """Each command has the connection's deadline."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def put(self, digest: Digest, source: BinaryIO, size_bytes: int) -> None:
        count = -(-size_bytes // CHUNK_BYTES)
        if count > MAX_CHUNKS:
            raise BlobUnavailable(f"a blob of {size_bytes} bytes is larger than Redis is to keep", used=size_bytes)
        try:
            for index in range(count):
                piece = await asyncio.to_thread(source.read, CHUNK_BYTES)
                await self.connection.run(PUT_CHUNK, [blob_key(digest), blob_key(digest, index)], piece, UNFINISHED_S)
            answer = await self.connection.run(FINISH, all_keys(digest, count), size_bytes, CHUNK_BYTES)
        except BlobUnavailable:
            raise
        except RegistryUnavailable as error:
            raise BlobUnavailable(f"blob {digest} could not be stored") from error
        if answer[0] != b"ok":
            raise BlobUnavailable(f"blob {digest} could not be stored: it was removed meanwhile, try again")

    async def fetch(self, digest: Digest, target: BinaryIO) -> None:
        try:
            size_bytes, chunk_bytes = await self._head(digest)
            for index in range(-(-size_bytes // chunk_bytes)):
                piece = await self.connection.get(blob_key(digest, index))
                if piece is None:
                    raise BlobDamaged(f"blob {digest} is damaged: upload it again")
                await asyncio.to_thread(target.write, piece)
        except BlobUnavailable:
            raise
        except RegistryUnavailable as error:
            raise BlobUnavailable(f"blob {digest} cannot be read") from error

    async def exists(self, digest: Digest) -> bool:
        return bool(await self.connection.command("EXISTS", blob_key(digest)))

    async def list(self) -> tuple[Digest, ...]:
        found = set()
        async for name in self.connection.scan(BLOB_HEADS):
            digest = "sha256:" + name[name.index("/") + 1 : name.index("}")]
            if DIGEST.fullmatch(digest):
                found.add(Digest(digest))
        return tuple(sorted(found))

    async def delete(self, digest: Digest, *, unless_put_within_s: float = 0) -> bool:
        found = await self.connection.hash_all(blob_key(digest))
        if not found:
            return False
        size_bytes, chunk_bytes = shape(digest, found)
        count = -(-size_bytes // chunk_bytes)
        answer = await self.connection.run(REMOVE, all_keys(digest, count), str(unless_put_within_s))
        return bool(answer[0] == b"removed")

    async def aclose(self) -> None:
        """The connection is the registry's."""

    async def _head(self, digest: Digest) -> tuple[int, int]:
        found = await self.connection.hash_all(blob_key(digest))
        if not found:
            raise missing(digest)
        return shape(digest, found)


def all_keys(digest: Digest, count: int) -> list[str]:
    return [blob_key(digest), *(blob_key(digest, index) for index in range(count))]


def shape(digest: Digest, head: dict[str, bytes]) -> tuple[int, int]:
    """Bytes of the blob and of its chunks, within bounds."""
    size, chunk = head.get("size", b""), head.get("chunk", b"")
    if not (size.isdigit() and chunk.isdigit() and 0 < int(chunk) <= 16 * CHUNK_BYTES):
        raise BlobDamaged(f"blob {digest} is damaged: upload it again")
    if int(size) > MAX_CHUNKS * int(chunk):
        raise BlobDamaged(f"blob {digest} is damaged: upload it again")
    return int(size), int(chunk)
