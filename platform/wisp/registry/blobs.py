"""Modules, bundle files and models, by the SHA-256 of their bytes.

`Blobs` is what the platform asks of an object store; `DirectoryBlobs` is the one on a file system. A blob appears whole
or not at all, and is checked against its name whenever it is read.
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
from urllib.parse import unquote, urlsplit

from wisp.errors import InvalidSettings, RegistryUnavailable
from wisp.names import DIGEST, Digest

CHUNK_BYTES = 1 << 20
ABANDONED_S = 3600
"""A temporary file this old is of a process that died."""


class Blobs(Protocol):
    """Every method may wait for the store and raises `RegistryUnavailable` when that fails."""

    async def put_file(self, path: Path) -> Digest:
        """Stores a copy; `path` stays the caller's. Storing what is there again makes it new for `delete`."""

    async def put_bytes(self, data: bytes) -> Digest: ...

    async def open(self, digest: Digest) -> int:
        """A read-only descriptor at the start of a seekable file, whose bytes were checked; the caller closes it."""

    async def exists(self, digest: Digest) -> bool: ...

    async def list(self) -> tuple[Digest, ...]: ...

    async def delete(self, digest: Digest, *, unless_put_within_s: float = 0) -> bool:
        """Removes it if it is there and was not put within that time; says whether it did."""


def open_blobs(url: str) -> DirectoryBlobs:
    """The store that a URL names; `InvalidSettings` for those that are not offered."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        raise InvalidSettings(f"--blobs: only file:///<directory> is offered, not {parts.scheme[:16]!a}")
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.query or parts.fragment:
        raise InvalidSettings("--blobs: a file URL is file:// and an absolute path")
    return DirectoryBlobs(Path(unquote(parts.path)))


class DirectoryBlobs:
    """`<root>/sha256/ab/<the other 62 digits>`, written beside it, synced, then renamed into place."""

    def __init__(self, root: Path) -> None:
        self.root = root
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

    def _path(self, digest: Digest) -> Path:
        digits = digest.removeprefix("sha256:")
        return self.root / "sha256" / digits[:2] / digits[2:]

    def _put_file(self, path: Path) -> Digest:
        with translated("a blob could not be stored"), path.open("rb") as source:
            return self._put(chunks(source))

    def _put(self, pieces: Iterator[bytes]) -> Digest:
        with translated("a blob could not be stored"):
            descriptor, name = tempfile.mkstemp(dir=self.temporary)
            try:
                hasher = hashlib.sha256()
                with os.fdopen(descriptor, "wb") as target:
                    for piece in pieces:
                        hasher.update(piece)
                        target.write(piece)
                    target.flush()
                    os.fchmod(target.fileno(), 0o400)
                    os.fsync(target.fileno())
                digest = Digest(f"sha256:{hasher.hexdigest()}")
                place = self._path(digest)
                place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with self._locked(fcntl.LOCK_SH):
                    Path(name).replace(place)  # over an equal one too: it is young again, and whole if it was not
                sync_directory(place.parent)
                sync_directory(place.parent.parent)
            except BaseException:
                with suppress(FileNotFoundError):
                    Path(name).unlink()
                raise
            return digest

    def _open(self, digest: Digest) -> int:
        with translated(f"blob {digest} is missing or cannot be read"):
            descriptor = os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                check(descriptor, digest)
                os.lseek(descriptor, 0, os.SEEK_SET)
            except BaseException:
                os.close(descriptor)
                raise
            return descriptor

    def _list(self) -> tuple[Digest, ...]:
        with translated("the blobs could not be listed"):
            names = [f"sha256:{path.parent.name}{path.name}" for path in (self.root / "sha256").glob("??/*")]
            return tuple(Digest(name) for name in sorted(names) if DIGEST.fullmatch(name))

    def _delete(self, digest: Digest, unless_put_within_s: float) -> bool:
        path = self._path(digest)
        with translated(f"blob {digest} could not be removed"), self._locked(fcntl.LOCK_EX):
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
        raise RegistryUnavailable(f"blob {digest} is damaged: upload it again")


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
def translated(message: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RegistryUnavailable(message) from error
