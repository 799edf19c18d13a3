"""The platform's blobs: the store that a URL names, guarded against removing what somebody is about to refer to.

Before a blob is put, or named by a new version of something that has it already, it is *claimed* in Redis; a collector
*condemns* it there before it removes it, which fails while a claim is young. Whoever claims a condemned blob waits
until it is gone, and puts it then. Both are one script on one server's clock, so one of them comes first.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from wisp.errors import BlobDamaged, BlobMissing, BlobUnavailable, InvalidSettings
from wisp.names import Digest
from wisp.registry.blobs import Blobs, DirectoryBlobs, RemoteBlobs, digest_of, missing
from wisp.registry.cachedblobs import CachedBlobs
from wisp.registry.connection import Connection, Script
from wisp.registry.keys import BLOB_CLAIMS, BLOBS_CONDEMNED
from wisp.registry.objectblobs import SCHEMES, ObjectBlobs
from wisp.registry.redisblobs import RedisBlobs

log = logging.getLogger(__name__)

CONDEMNED_S: Final = 120
"""After this long a removal is taken for given up: several times `REMOVE_S`."""
REMOVE_S: Final = 30.0
CLAIM_S: Final = 20.0
CLAIM_PAUSE_S: Final = 0.05
KEPT_CLAIM_S: Final = 86_400
CACHE_BYTES: Final = 4 << 30

CLAIM = Script("""
-- KEYS: claims, condemned
-- ARGV: digest, seconds after which a condemnation is void
-- ok | condemned
local now = redis.call('TIME')[1]
redis.call('HSET', KEYS[1], ARGV[1], now)
local since = redis.call('HGET', KEYS[2], ARGV[1])
if since and now - since < tonumber(ARGV[2]) then return {'condemned'} end
redis.call('HDEL', KEYS[2], ARGV[1])
return {'ok'}
""")

CONDEMN = Script("""
-- KEYS: claims, condemned
-- ARGV: digest, seconds for which a claim holds, seconds after which a condemnation is void
-- ok | claimed | condemned
local now = redis.call('TIME')[1]
local claimed = redis.call('HGET', KEYS[1], ARGV[1])
if claimed and now - claimed < tonumber(ARGV[2]) then return {'claimed'} end
local since = redis.call('HGET', KEYS[2], ARGV[1])
if since and now - since < tonumber(ARGV[3]) then return {'condemned'} end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], now)
return {'ok'}
""")

TIDY_CLAIMS = Script("""
-- KEYS: claims
-- ARGV: seconds after which a claim is forgotten
-- ok
local now = redis.call('TIME')[1]
local claims = redis.call('HGETALL', KEYS[1])
for index = 1, #claims, 2 do
  if now - claims[index + 1] > tonumber(ARGV[1]) then redis.call('HDEL', KEYS[1], claims[index]) end
end
return {'ok'}
""")

T = TypeVar("T")


def open_blobs(url: str, *, connection: Connection, cache: Path, cache_bytes: int = CACHE_BYTES) -> BlobStore:
    """The store that a URL names; `InvalidSettings` for those that are not offered. `cache`: this node's copies."""
    parts = urlsplit(url)
    faults = BlobFaults()

    def cached(remote: RemoteBlobs) -> CachedBlobs:
        return CachedBlobs(remote, cache, budget_bytes=cache_bytes, on_damaged=lambda: faults.note("damaged"))

    blobs: Blobs
    if parts.scheme == "file":
        blobs = DirectoryBlobs(directory_of(url))
    elif url == "redis:":
        blobs = cached(RedisBlobs(connection))
    elif parts.scheme in SCHEMES:
        blobs = cached(ObjectBlobs(url))
    else:
        raise InvalidSettings(
            "--blobs: offered are file:///<directory>, s3://, gs://, az:// and redis: (the registry's own server), "
            f"not {parts.scheme[:16]!a}"
        )
    return BlobStore(blobs, connection, faults=faults)


def directory_of(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.query or parts.fragment:
        raise InvalidSettings("--blobs: a file URL is file:// and an absolute path")
    return Path(unquote(parts.path))


class BlobFaults:
    """How often blobs could not be had, by what was wrong."""

    def __init__(self) -> None:
        self.counts = {"missing": 0, "damaged": 0, "unavailable": 0}

    def note(self, fault: str) -> None:
        self.counts[fault] += 1


class BlobStore:
    """`Blobs` over another, with claims, and with every fault counted and logged. Belongs to one event loop."""

    def __init__(self, blobs: Blobs, connection: Connection, *, faults: BlobFaults | None = None) -> None:
        self.blobs = blobs
        self.faults = BlobFaults() if faults is None else faults
        self._connection = connection

    @property
    def cached_bytes(self) -> int:
        """Of this node's copies; 0 where the store itself is at hand."""
        return self.blobs.held_bytes if isinstance(self.blobs, CachedBlobs) else 0

    async def put_file(self, path: Path) -> Digest:
        digest = await asyncio.to_thread(digest_of, path)
        return await self._put(digest, lambda: self.blobs.put_file(path))

    async def put_bytes(self, data: bytes) -> Digest:
        digest = Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")
        return await self._put(digest, lambda: self.blobs.put_bytes(data))

    async def renew(self, digest: Digest) -> None:
        """To be called before something new refers to a blob that is not put again; raises `BlobMissing`."""
        await self._claim(digest)
        if not await self.blobs.exists(digest):
            raise missing(digest)

    async def open(self, digest: Digest) -> int:
        return await self._noted(digest, self.blobs.open(digest))

    async def exists(self, digest: Digest) -> bool:
        return await self.blobs.exists(digest)

    async def list(self) -> tuple[Digest, ...]:
        return await self.blobs.list()

    async def delete(self, digest: Digest, *, unless_put_within_s: float = 0) -> bool:
        """Spares what was claimed within that time, too, and what another node is removing."""
        answer = await self._connection.run(
            CONDEMN, [BLOB_CLAIMS, BLOBS_CONDEMNED], digest, str(unless_put_within_s), CONDEMNED_S
        )
        if answer[0] != b"ok":
            return False
        try:
            async with asyncio.timeout(REMOVE_S):
                removed = await self.blobs.delete(digest, unless_put_within_s=unless_put_within_s)
        except TimeoutError as error:  # it may yet happen: the condemnation stands until it is void
            raise BlobUnavailable(f"blob {digest} could not be removed within {REMOVE_S:.0f} s") from error
        await self._connection.command("HDEL", BLOBS_CONDEMNED, digest)
        return removed

    async def tidy(self) -> None:
        """Forgets claims that nothing can need any more."""
        await self._connection.run(TIDY_CLAIMS, [BLOB_CLAIMS], KEPT_CLAIM_S)

    async def aclose(self) -> None:
        await self.blobs.aclose()

    async def _put(self, digest: Digest, put: Callable[[], Awaitable[Digest]]) -> Digest:
        await self._claim(digest)
        stored = await self._noted(digest, put())
        if stored != digest:
            raise BlobUnavailable("a blob changed while it was stored")
        return stored

    async def _claim(self, digest: Digest) -> None:
        try:
            async with asyncio.timeout(CLAIM_S):
                while True:
                    answer = await self._connection.run(CLAIM, [BLOB_CLAIMS, BLOBS_CONDEMNED], digest, CONDEMNED_S)
                    if answer[0] == b"ok":
                        return
                    await asyncio.sleep(CLAIM_PAUSE_S)
        except TimeoutError as error:
            raise BlobUnavailable(f"blob {digest} is being removed: try again later") from error

    async def _noted(self, digest: Digest, result: Awaitable[T]) -> T:
        try:
            return await result
        except BlobUnavailable as error:
            fault = (
                "missing"
                if isinstance(error, BlobMissing)
                else "damaged"
                if isinstance(error, BlobDamaged)
                else "unavailable"
            )
            self.faults.note(fault)
            log.error("%s", error.message)  # noqa: TRY400  (the cause may name the account's hosts)
            raise
