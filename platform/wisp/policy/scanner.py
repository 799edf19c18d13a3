"""The subset of YAML that a policy may use, refused on its characters and tokens, before anything is built from them.

No anchors, aliases, tags, directives or second documents; no invisible characters; flow nesting bounded while it is
scanned. PyYAML's pure Python scanner does the reading: its C one overruns the stack on deep nesting.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NoReturn

from yaml.error import MarkedYAMLError, YAMLError
from yaml.events import DocumentEndEvent, DocumentStartEvent, Event, StreamEndEvent, StreamStartEvent
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from wisp.errors import Fault, InvalidPolicy

MAX_BYTES = 64 * 1024
MAX_DEPTH = 16

# Line breaks that editors do not show as such, and what YAML itself calls unprintable.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def refuse(message: str, line: int, column: int) -> NoReturn:
    """End the reading with one fault; `line` and `column` count from 1."""
    fault = Fault(field="document", message=message, line=line, column=column)
    raise InvalidPolicy(f"line {line}, column {column}: {message}", (fault,))


class _Restricted(Reader, Scanner, Parser):
    """PyYAML's scanner and parser with the doors closed that a policy has no use for."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)

    def _refuse(self, message: str) -> NoReturn:
        refuse(message, self.line + 1, self.column + 1)

    def fetch_anchor(self) -> None:
        self._refuse("'&' begins a YAML anchor, which a policy may not have; quote the text if '&' is meant")

    def fetch_alias(self) -> None:
        self._refuse("'*' begins a YAML alias, which a policy may not have; quote the text if '*' is meant: \"*.txt\"")

    def fetch_tag(self) -> None:
        self._refuse("'!' begins a YAML tag, which a policy may not have; quote the text if '!' is meant")

    def fetch_directive(self) -> None:
        self._refuse("'%' begins a YAML directive, which a policy may not have")

    def fetch_flow_collection_start(self, TokenClass: object) -> None:  # noqa: N803  (the base class's name)
        if self.flow_level >= MAX_DEPTH:
            self._refuse(f"nested deeper than {MAX_DEPTH} levels")
        super().fetch_flow_collection_start(TokenClass)


def decode(text: bytes) -> str:
    """Bytes to text: at most 64 KiB of UTF-8 with no invisible characters. Raises InvalidPolicy."""
    if len(text) > MAX_BYTES:
        refuse(f"larger than {MAX_BYTES // 1024} KiB", 1, 1)
    try:
        decoded = text.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        before = text[: error.start].decode("utf-8", "replace")
        refuse("not UTF-8 text", *_position(before))
    forbidden = _FORBIDDEN.search(decoded)
    if forbidden is not None:
        refuse(f"the character U+{ord(forbidden[0]):04X} may not be here", *_position(decoded[: forbidden.start()]))
    return decoded


def scan(text: str) -> Iterator[Event]:
    """The events of the one document in `text`, without the stream's and document's own. Raises InvalidPolicy."""
    source = _Restricted(text)
    documents = 0
    while True:
        event = _next(source)
        if isinstance(event, StreamEndEvent):
            break
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1:
                mark = event.start_mark
                assert mark is not None
                refuse("a second document begins here; a policy is one document", mark.line + 1, mark.column + 1)
        elif not isinstance(event, StreamStartEvent | DocumentEndEvent):
            yield event
    if documents == 0:
        refuse("the document is empty", 1, 1)


def _next(source: _Restricted) -> Event:
    try:
        event: Event | None = source.get_event()  # type: ignore[no-untyped-call]
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        refuse(_explain(str(error.problem or error.context)), line, column)
    except (YAMLError, ValueError, OverflowError):
        # PyYAML lets "\UFFFFFFFF" through to chr().
        refuse("not valid YAML: an escape that names no character", source.line + 1, source.column + 1)
    assert event is not None
    return event


def _explain(problem: str) -> str:
    if "'\\t'" in problem:
        return "a tab stands where YAML allows only spaces"
    return f"not valid YAML: {ascii(problem[:120])[1:-1]}"


def _position(before: str) -> tuple[int, int]:
    """Line and column, from 1, of the character behind `before`."""
    lines = before.replace("\r\n", "\n").replace("\r", "\n")
    return lines.count("\n") + 1, len(lines) - (lines.rfind("\n") + 1) + 1
