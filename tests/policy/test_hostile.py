"""Each file under `hostile/` is a policy that is refused, with exactly the faults that its head foretells."""

from __future__ import annotations

from pathlib import Path

import pytest

from wisp.errors import InvalidPolicy
from wisp.policy.parse import parse_policy

FILES = sorted(Path(__file__).with_name("hostile").glob("*.yaml"))
EXPECT = b"# expect: "


def test_there_are_files() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_hostile(path: Path) -> None:
    text = path.read_bytes()
    expected = [line.removeprefix(EXPECT).decode().strip() for line in text.splitlines() if line.startswith(EXPECT)]
    with pytest.raises(InvalidPolicy) as caught:
        parse_policy(text)
    found = [f"{fault.line}:{fault.column} {fault.field}: {fault.message}" for fault in caught.value.faults]
    assert len(found) == len(expected), found
    for actual, beginning in zip(found, expected, strict=True):
        assert actual.startswith(beginning)
    for fault in caught.value.faults:
        assert len(fault.message) < 300
        assert fault.message.isascii()
        assert fault.message.isprintable()
