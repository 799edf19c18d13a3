"""The node's own store of prepared models: what admission made of each, once, for every inference process to map.

Whoever can write into it chooses what runs in native code with tenants' tensors, so an entry counts only under this
node's HMAC, taken over the fingerprint (of onnxruntime, the processor and the way of preparing), the model's digest,
and the digests of both files; those are checked when an entry is first used, and again when a file is not what it was.

    <directory>/<name>/entry.json      facts, probe, digests, and the HMAC over them
    <directory>/<name>/model.onnx      the optimised model, and
    <directory>/<name>/weights.bin     its weights as the kernels pack them; both only where it pays
    <directory>/rooms/<number>/        what one inference process can reach, see `scheduling.rooms`
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import platform
import secrets
import shutil
import threading
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wisp.errors import InvalidFrame
from wisp.names import Digest
from wisp.wire.admissions import PREPARED_MODEL, PREPARED_WEIGHTS, ModelFacts, Refusal, decode_verdict, encode_verdict

PREPARATION = 1
"""Counts the ways of preparing: sessions' options, and what is written."""
MAX_BYTES = 8 << 30
ENTRY = "entry.json"
MAX_ENTRY_BYTES = 256 * 1024
FILES = (PREPARED_MODEL, PREPARED_WEIGHTS)
CHUNK_BYTES = 1 << 20
UNUSABLE = (ValueError, KeyError, TypeError, InvalidFrame)
"""What reading an entry raises that was not written so."""


def fingerprint(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What a prepared model depends on beside the model: kernels pack for the processor that they run on."""
    found = ""
    for line in cpuinfo.read_text().splitlines():
        if line.split(":")[0].strip() in ("flags", "Features", "model name"):
            found += line + "\n"
        elif not line and found:
            break
    return f"{PREPARATION} {version('onnxruntime')} {platform.machine()} {hashlib.sha256(found.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedModel:
    """`path`: of the directory with both files; None for a model that is opened as it was uploaded."""

    facts: ModelFacts
    path: Path | None


class ModelCache:
    """Bounded in bytes; what was used longest ago goes first. A process that has mapped an entry keeps what it has."""

    def __init__(self, directory: Path, key: bytes, *, max_bytes: int = MAX_BYTES, of: str | None = None) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self._key = key
        self._max_bytes = max_bytes
        self._fingerprint = fingerprint() if of is None else of
        self._checked: dict[str, tuple[tuple[int, ...], ...]] = {}
        """By an entry's name: its files when their digests were checked."""
        self._replacing = threading.Lock()
        """Held by whoever puts an entry in another's place, or takes one away: uploads of one model may be many."""
        for leftover in directory.glob(".new-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    async def find(self, digest: Digest) -> CachedModel | None:
        return await asyncio.to_thread(self._find, digest)

    async def put(self, digest: Digest, facts: ModelFacts, model_fd: int, weights_fd: int) -> CachedModel:
        """Copies what an admission child left in its memory files, which may still change: never mapped, read once."""
        return await asyncio.to_thread(self._put, digest, facts, model_fd, weights_fd)

    def _name(self, digest: Digest) -> str:
        return hashlib.sha256(f"{self._fingerprint}\n{digest}".encode()).hexdigest()

    def _mac(self, digest: Digest, body: str) -> str:
        return hmac.new(self._key, f"{self._fingerprint}\n{digest}\n{body}".encode(), hashlib.sha256).hexdigest()

    def _find(self, digest: Digest) -> CachedModel | None:
        path = self.directory / self._name(digest)
        try:
            try:
                return self._entry(digest, path)
            except UNUSABLE:
                with self._replacing:  # it may have been in the middle of that
                    return self._entry(digest, path)
        except FileNotFoundError:
            return None
        except UNUSABLE:  # of another key, or damaged: it is made again
            with self._replacing:
                self._remove(path)
            return None

    def _entry(self, digest: Digest, path: Path) -> CachedModel:
        """Raises `FileNotFoundError`, or one of `UNUSABLE`."""
        facts, files = self._read(digest, path)
        if files:
            self._check(path, files)
        os.utime(path)
        return CachedModel(facts=facts, path=path if files else None)

    def _read(self, digest: Digest, path: Path) -> tuple[ModelFacts, dict[str, str]]:
        """The facts, and the files' digests by name. Raises `ValueError` and its like for what was not written here."""
        with (path / ENTRY).open("rb") as file:
            entry = json.loads(file.read(MAX_ENTRY_BYTES))
        body = entry["body"]
        if not hmac.compare_digest(entry["mac"], self._mac(digest, body)):
            raise ValueError("an entry of another key")
        fields: dict[str, Any] = json.loads(body)
        facts = decode_verdict(fields["facts"].encode())
        if isinstance(facts, Refusal):
            raise TypeError("an entry without facts")
        return facts, fields["files"]

    def _check(self, path: Path, digests: dict[str, str]) -> None:
        """Raises `ValueError` unless both files hold what was written."""
        now = tuple(_state(path / file) for file in FILES)
        if self._checked.get(path.name) == now:
            return
        for file in FILES:
            with (path / file).open("rb") as source:
                if hashlib.file_digest(source, "sha256").hexdigest() != digests[file]:
                    raise ValueError("a file is not what was written")
        self._checked[path.name] = now

    def _put(self, digest: Digest, facts: ModelFacts, model_fd: int, weights_fd: int) -> CachedModel:
        name = self._name(digest)
        path, new = self.directory / name, self.directory / f".new-{secrets.token_hex(8)}"
        new.mkdir(mode=0o755)
        try:
            files = {}
            if facts.weights_bytes:
                for file, fd in zip(FILES, (model_fd, weights_fd), strict=True):
                    files[file] = _copy(fd, new / file)
            body = json.dumps({"facts": encode_verdict(facts).decode(), "files": files})
            (new / ENTRY).write_text(json.dumps({"mac": self._mac(digest, body), "body": body}))
            (new / ENTRY).chmod(0o400)
            with self._replacing:
                self._remove(path)
                new.rename(path)
                self._make_room(keep=name)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        return CachedModel(facts=facts, path=path if files else None)

    def _make_room(self, keep: str) -> None:
        entries = []
        for path in self.directory.iterdir():
            if len(path.name) == 2 * hashlib.sha256().digest_size:
                size = sum(file.stat().st_size for file in path.iterdir())
                entries.append((path.stat().st_mtime_ns, path, size))
        held = sum(size for _, _, size in entries)
        for _, path, size in sorted(entries):
            if held <= self._max_bytes:
                return
            if path.name != keep:
                self._remove(path)
                held -= size

    def _remove(self, path: Path) -> None:
        self._checked.pop(path.name, None)
        shutil.rmtree(path, ignore_errors=True)


def _state(path: Path) -> tuple[int, ...]:
    """Changes with every write to the file; a link to it more or less changes only its ctime."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _copy(fd: int, path: Path) -> str:
    """The SHA-256 of what was written. As many bytes as there are now; a file that shrinks meanwhile ends early."""
    left, at, hasher = os.fstat(fd).st_size, 0, hashlib.sha256()
    with path.open("xb") as file:
        while left and (piece := os.pread(fd, min(left, CHUNK_BYTES), at)):
            hasher.update(piece)
            file.write(piece)
            left, at = left - len(piece), at + len(piece)
        os.fchmod(file.fileno(), 0o444)
    return hasher.hexdigest()
