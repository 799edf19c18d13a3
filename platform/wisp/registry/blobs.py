"""Modules, bundle files and models, by the SHA-256 of their bytes.

`Blobs` is what the platform asks of a store; `DirectoryBlobs` is the one on a file system. `RemoteBlobs` is what a
store elsewhere has to offer: `cachedblobs` makes `Blobs` of it. A blob appears whole or not at all, and is checked
against its name whenever it is read.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from wisp.errors import BlobDamaged, BlobMissing, BlobUnavailable, InvalidSettings
from wisp.names import DIGEST, Digest

CHUNK_BYTES = 1 << 20
ABANDONED_S = 3600
"""A temporary file this old is of a process that died."""


class Blobs(Protocol):
    """Every method may wait for the store, for a bounded time, and raises `BlobUnavailable` when that fails."""

    async def put_file(self, path: Path) -> Digest:
        """Stores a copy; `path` stays the caller's. Storing what is there again makes it new for `delete`, and whole
        if it was not."""

    async def put_bytes(self, data: bytes) -> Digest: ...

    async def open(self, digest: Digest) -> int:
        """A read-only descriptor at the start of a seekable file, whose bytes were checked; the caller closes it.

        Raises `BlobMissing`, and `BlobDamaged` where the store's own bytes are not those that were put.
        """

    async def exists(self, digest: Digest) -> bool: ...

    async def list(self) -> tuple[Digest, ...]: ...

    async def delete(self, digest: Digest, *, unless_put_within_s: float = 0) -> bool:
        """Removes it if it is there and was not put within that time; says whether it did."""

    async def aclose(self) -> None: ...


class RemoteBlobs(Protocol):
    """A store that another machine keeps. Bounded waits; `BlobUnavailable` when it fails; it checks no digest."""

    async def put(self, digest: Digest, source: BinaryIO, size_bytes: int) -> None:
        """Stores what `source` still has to read; nothing is seen of it before it is whole."""

    async def fetch(self, digest: Digest, target: BinaryIO) -> None:
        """Writes the blob, piece by piece; raises `BlobMissing`."""

    async def exists(self, digest: Digest) -> bool: ...

    async def list(self) -> tuple[Digest, ...]: ...

    async def delete(self, digest: Digest, *, unless_put_within_s: float = 0) -> bool: ...

    async def aclose(self) -> None: ...


class DirectoryBlobs:
    """`<root>/sha256/ab/<the other 62 digits>`, written beside it, synced, then renamed into place."""

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        """Not `durable`: a blob may be gone or damaged after a power cut, as copies may."""
        self.root = root
        self.durable = durable
        self.temporary = root / "tmp"
        try:
            self.temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
        except OSError as error:
            raise InvalidSettings(f"the blob directory cannot be used: {error.strerror}") from error

    async def put_file(self, path: Path) -> Digest:
        return await asyncio.to_thread(self._put_file, path)

    async def put_bytes(self, data: bytes) -> Digest:
        return await asyncio.to_thread(self._put, iter((data,)))

    async def open(self, digest: Digest) -> int:
        return await asyncio.to_thread(self._open, digest)

    async def exists(self, digest: Digest) -> bool:
        return await asyncio.to_thread(self._path(digest).exists)

    async def list(self) -> tuple[Digest, ...]:
        return await asyncio.to_thread(self._list)

    async def delete(self, digest: Digest, *, unless_put_within_s: float = 0) -> bool:
        return await asyncio.to_thread(self._delete, digest, unless_put_within_s)

    async def adopt(self, path: Path, digest: Digest) -> int:
        """Takes over a file from `temporary`, returns its size; raises `BlobDamaged` if it is not that blob."""
        return await asyncio.to_thread(self._adopt, path, digest)

    def by_age(self) -> dict[Digest, int]:
        """Digest and size of each blob, the one that was put longest ago first."""
        found = []
        for digest in self._list():
            with suppress(FileNotFoundError):
                status = self._path(digest).stat()
                found.append((status.st_mtime, digest, status.st_size))
        return {digest: size_bytes for _, digest, size_bytes in sorted(found)}

    async def aclose(self) -> None:
        """Nothing is kept open."""

    def _adopt(self, path: Path, digest: Digest) -> int:
        with translated(BlobUnavailable(f"blob {digest} could not be stored")):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                check(descriptor, digest)
                os.fchmod(descriptor, 0o400)
                size_bytes = os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)
            self._place(path, digest)
            return size_bytes

    def _place(self, path: Path, digest: Digest) -> None:
        place = self._path(digest)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked(fcntl.LOCK_SH):
            path.replace(place)  # over an equal one too: it is young again, and whole if it was not
        if self.durable:
            sync_directory(place.parent)
            sync_directory(place.parent.parent)

    def _path(self, digest: Digest) -> Path:
        digits = digest.removeprefix("sha256:")
        return self.root / "sha256" / digits[:2] / digits[2:]

    def _put_file(self, path: Path) -> Digest:
        with translated(BlobUnavailable("a blob could not be stored")), path.open("rb") as source:
            return self._put(chunks(source))

    def _put(self, pieces: Iterator[bytes]) -> Digest:
        with translated(BlobUnavailable("a blob could not be stored")):
            descriptor, name = tempfile.mkstemp(dir=self.temporary)
            try:
                hasher = hashlib.sha256()
                with os.fdopen(descriptor, "wb") as target:
                    for piece in pieces:
                        hasher.update(piece)
                        target.write(piece)
                    target.flush()
                    os.fchmod(target.fileno(), 0o400)
                    if self.durable:
                        os.fsync(target.fileno())
                digest = Digest(f"sha256:{hasher.hexdigest()}")
                self._place(Path(name), digest)
            except BaseException:
                with suppress(FileNotFoundError):
                    Path(name).unlink()
                raise
            return digest

    def _open(self, digest: Digest) -> int:
        with translated(BlobUnavailable(f"blob {digest} cannot be read")):
            try:
                descriptor = os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError as error:
                raise missing(digest) from error
            try:
                check(descriptor, digest)
                os.lseek(descriptor, 0, os.SEEK_SET)
            except BaseException:
                os.close(descriptor)
                raise
            return descriptor

    def _list(self) -> tuple[Digest, ...]:
        with translated(BlobUnavailable("the blobs could not be listed")):
            names = [f"sha256:{path.parent.name}{path.name}" for path in (self.root / "sha256").glob("??/*")]
            return tuple(Digest(name) for name in sorted(names) if DIGEST.fullmatch(name))

    def _delete(self, digest: Digest, unless_put_within_s: float) -> bool:
        path = self._path(digest)
        with translated(BlobUnavailable(f"blob {digest} could not be removed")), self._locked(fcntl.LOCK_EX):
            try:
                if time.time() - path.stat().st_mtime < unless_put_within_s:
                    return False
                path.unlink()
            except FileNotFoundError:
                return False
            return True

    def _sweep(self) -> None:
        for path in self.temporary.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > ABANDONED_S:
                    path.unlink()

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Puts beside each other, a removal alone: between its look at the age and the unlink nothing is put."""
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)


def chunks(source: BinaryIO) -> Iterator[bytes]:
    while piece := source.read(CHUNK_BYTES):
        yield piece


def check(descriptor: int, digest: Digest) -> None:
    with os.fdopen(descriptor, "rb", closefd=False) as source:
        found = hashlib.file_digest(source, "sha256").hexdigest()
    if digest != f"sha256:{found}":
        raise BlobDamaged(f"blob {digest} is damaged: upload it again")


def missing(digest: Digest) -> BlobMissing:
    return BlobMissing(f"blob {digest} is missing: upload it again")


def digest_of(path: Path) -> Digest:
    with translated(BlobUnavailable("a blob could not be stored")), path.open("rb") as source:
        return Digest(f"sha256:{hashlib.file_digest(source, 'sha256').hexdigest()}")


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot sync a directory
            raise
    finally:
        os.close(descriptor)


@contextmanager
def translated(as_error: BlobUnavailable) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise as_error from error
