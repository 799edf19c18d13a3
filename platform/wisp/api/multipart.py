"""An uploaded function as `multipart/form-data`: parsed as it streams, onto disk, every count and length bounded.

Callers' file names never become paths here: parts lie under numbers of our own, the name is data for the bundle.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from wisp.api.bodies import MESSAGE_CHARS
from wisp.errors import ExceedsCeiling, Fault, InvalidModule, InvalidPolicy, InvalidRequest, Rejected
from wisp.policy.paths import parse_glob

MAX_FILES: Final = 512
MAX_BOUNDARY: Final = 70
"""RFC 2046 §5.1.1."""
MAX_PART_HEADERS: Final = 8
MAX_HEADER_BYTES: Final = 2048
"""Room for the longest bundle path in UTF-8."""
MODULE: Final = "module"
POLICY: Final = "policy"
FILE: Final = "file"
MESSAGE: Final = "message"
WILDCARDS: Final = frozenset("*?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """In bytes; `bundle_bytes`: all files together."""

    module_bytes: int
    policy_bytes: int
    bundle_bytes: int

    @property
    def total_bytes(self) -> int:
        """With what the form itself adds."""
        framing = (MAX_FILES + 4) * (2 * MAX_HEADER_BYTES)
        return self.module_bytes + self.policy_bytes + self.bundle_bytes + framing


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """`bundle`: path in the bundle and the file that holds its bytes. All files go with the staging directory."""

    module: Path
    policy: bytes
    bundle: tuple[tuple[str, Path], ...]
    message: str = ""


@dataclass(slots=True)
class _Part:
    """One part while it arrives. `cap`: how many bytes it may still take, a message for what it was."""

    name: str
    file: BinaryIO | None
    cap: int
    size: int = 0
    data: bytearray = field(default_factory=bytearray)


def boundary_of(content_type: str) -> bytes:
    """Raises `InvalidRequest`."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= MAX_BOUNDARY:
        raise InvalidRequest("send multipart/form-data with a boundary: parts module and policy, any number of file")
    return boundary


def parse_bundle_path(name: bytes) -> str:
    """A relative path in one spelling, without wildcards. Raises `InvalidRequest`."""
    try:
        path = parse_glob(name.decode())
    except ValueError:  # UnicodeDecodeError is one
        path = ""
    if not path or not WILDCARDS.isdisjoint(path):
        raise InvalidRequest(
            f"file name {ascii(name[:80])[1:]}: a bundle path is relative, such as words/en.txt, of at most 256"
            " characters, without '.', '..', '//', wildcards, quotes or blanks"
        )
    return path


def _fault(part: str, message: str, *, asked: str | None = None, allowed: str | None = None) -> Rejected:
    fault = (Fault(field=part, message=message, asked=asked, allowed=allowed),)
    if part == FILE:
        return ExceedsCeiling(message, fault)
    return InvalidModule(message, fault) if part == MODULE else InvalidPolicy(message, fault)


def _message(text: bytes) -> str:
    try:
        message = text.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("part message is UTF-8 text") from error
    if len(message) > MESSAGE_CHARS:
        raise InvalidRequest(f"a message may have {MESSAGE_CHARS} characters", limit=MESSAGE_CHARS, used=len(message))
    return message


def _over_long(part: _Part) -> Rejected:
    what = "all files of the bundle together" if part.name == FILE else f"part {part.name}"
    allowed = f"{part.cap} bytes"
    return _fault(part.name, f"{what} may have {allowed}", asked=f"more than {allowed}", allowed=allowed)


class FunctionForm:
    """`write` what arrives (in any thread, one at a time), then `finish`; `close` in any case."""

    def __init__(self, boundary: bytes, directory: Path, caps: Caps) -> None:
        self.directory = directory
        self.caps = caps
        self.module: Path | None = None
        self.policy: bytes | None = None
        self.message: bytes | None = None
        self.bundle: dict[str, Path] = {}
        self.bundle_bytes = 0
        self.complete = False
        self._part: _Part | None = None
        self._header = (bytearray(), bytearray())
        self._disposition: bytes | None = None
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._open,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )

    def write(self, data: bytes) -> None:
        """Raises `InvalidRequest`, and `Rejected` for a part that is too long."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequest("the form is malformed: a boundary, or a part's header") from error

    def finish(self) -> Upload:
        """Raises `InvalidRequest` if the form ended early, `Rejected` if it lacks a part."""
        if not self.complete:
            raise InvalidRequest("the form ends before its last boundary")
        if self.module is None or self.policy is None:
            missing = MODULE if self.module is None else POLICY
            raise _fault(missing, f"the form has no part {missing}; parts are module, policy and any number of file")
        return Upload(
            module=self.module,
            policy=self.policy,
            bundle=tuple(self.bundle.items()),
            message=_message(self.message or b""),
        )

    def close(self) -> None:
        if self._part is not None and self._part.file is not None:
            self._part.file.close()

    def _begin(self) -> None:
        self._disposition = None

    def _end_header(self) -> None:
        name, value = self._header
        if bytes(name).lower() == b"content-disposition":
            if self._disposition is not None:
                raise InvalidRequest("a part has two Content-Disposition headers")
            self._disposition = bytes(value)
        name.clear()
        value.clear()

    def _open(self) -> None:
        kind, options = parse_options_header((self._disposition or b"").decode("latin-1"))
        name = options.get(b"name", b"")
        if kind != b"form-data":
            raise InvalidRequest("each part needs Content-Disposition: form-data; name=...")
        if name == MODULE.encode() and self.module is None:
            self.module = self.directory / "module.wasm"
            self._part = _Part(MODULE, self.module.open("xb"), self.caps.module_bytes)
        elif name == POLICY.encode() and self.policy is None:
            self._part = _Part(POLICY, None, self.caps.policy_bytes)
            self.policy = b""
        elif name == MESSAGE.encode() and self.message is None:
            self._part = _Part(MESSAGE, None, 4 * MESSAGE_CHARS)
            self.message = b""
        elif name == FILE.encode():
            self._part = _Part(FILE, self._new_file(options.get(b"filename")), self.caps.bundle_bytes)
            self._part.size = self.bundle_bytes
        elif name in (MODULE.encode(), POLICY.encode(), MESSAGE.encode()):
            raise InvalidRequest(f"the form has two parts {name.decode()}")
        else:
            raise InvalidRequest(f"there is no part {ascii(name[:80])[1:]}; parts are module, policy, message and file")

    def _new_file(self, name: bytes | None) -> BinaryIO:
        if name is None:
            raise InvalidRequest("a part file needs a file name: its path in the bundle")
        path = parse_bundle_path(name)
        if len(self.bundle) >= MAX_FILES:
            raise InvalidRequest(f"a bundle may have {MAX_FILES} files")
        if path in self.bundle:
            raise InvalidRequest(f"the bundle has two files {path!a}")
        place = self.directory / f"file-{len(self.bundle):04}"
        self.bundle[path] = place
        return place.open("xb")

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        assert part is not None
        part.size += end - start
        if part.size > part.cap:
            if part.name == MESSAGE:
                raise InvalidRequest(f"a message may have {MESSAGE_CHARS} characters", limit=MESSAGE_CHARS)
            raise _over_long(part)
        if part.file is None:
            part.data += data[start:end]
        else:
            part.file.write(memoryview(data)[start:end])

    def _end(self) -> None:
        part, self._part = self._part, None
        assert part is not None
        if part.file is not None:
            part.file.close()
        if part.name == POLICY:
            self.policy = bytes(part.data)
        elif part.name == MESSAGE:
            self.message = bytes(part.data)
        elif part.name == FILE:
            self.bundle_bytes = part.size

    def _finish(self) -> None:
        self.complete = True
