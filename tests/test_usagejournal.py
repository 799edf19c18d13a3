"""The journal of usage: what was written is found again by the next life, whatever ended the one before."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wisp.names import parse_function, parse_tenant
from wisp.registry.usage import METRICS, Use
from wisp.usagejournal import HALF_BYTES, HEAD, KEPT_S, RECORD, Full, Journal, Key, left_behind

KEY: Key = (490_000, parse_tenant("acme"), parse_function("classify"))
TEXT = b"acme classify ok"
SUMS = list(range(1, len(METRICS) + 1))


def test_what_one_life_wrote_the_next_one_finds(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "one")
    journal.begin(1)
    journal.append(KEY[0], TEXT, 1, SUMS)
    journal.append(KEY[0], b"acme classify guest_trap", 2, SUMS)
    journal.begin(2)
    journal.append(KEY[0] + 1, TEXT, 1, SUMS)
    journal.close()
    first, second = left_behind(tmp_path)
    assert (first.life, first.sequence, second.sequence) == ("one", 1, 2)
    assert first.used[KEY].outcomes == {"ok": 1, "guest_trap": 2}
    assert first.used[KEY].sums == [2 * value for value in SUMS]
    assert list(second.used) == [(KEY[0] + 1, *KEY[1:])]
    assert (first.file, second.file) == (None, journal.path)


def test_a_half_that_is_used_again_tells_nothing_of_what_it_held(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "one")
    for sequence, count in ((1, 5), (2, 1), (3, 2)):
        journal.begin(sequence)
        for _ in range(count):
            journal.append(KEY[0], TEXT, 1, SUMS)
    journal.close()
    assert {batch.sequence: batch.used[KEY].requests for batch in left_behind(tmp_path)} == {2: 1, 3: 2}


@pytest.mark.parametrize("damage", [0, 3, 20, 40])
def test_a_torn_last_record_is_left_out_and_the_ones_before_are_not(tmp_path: Path, damage: int) -> None:
    journal = Journal(tmp_path, "one")
    journal.begin(1)
    for _ in range(3):
        journal.append(KEY[0], TEXT, 1, SUMS)
    journal.close()
    with journal.path.open("r+b") as file:
        last = HALF_BYTES + HEAD.size + 3 * (RECORD.size + len(TEXT)) - 1
        file.seek(last - damage)
        file.write(b"\xff")
    (batch,) = left_behind(tmp_path)
    assert batch.used[KEY].requests == 2


def test_a_full_half_is_written_anew_as_sums(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "one")
    journal.begin(1)
    use = Use()
    with contextlib.suppress(Full):
        while True:
            journal.append(KEY[0], TEXT, 1, SUMS)
            use.add("ok", 1, SUMS)
    assert use.requests > 10_000
    journal.rewrite({KEY: use})
    journal.append(KEY[0], TEXT, 1, SUMS)
    journal.close()
    (batch,) = left_behind(tmp_path)
    assert batch.used[KEY].requests == use.requests + 1
    assert batch.used[KEY].sums[0] == (use.requests + 1) * SUMS[0]


def test_sigkill_loses_no_record(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from wisp.usagejournal import Journal
journal = Journal(Path({str(tmp_path)!r}), "one")
journal.begin(1)
for number in range(1000):
    journal.append({KEY[0]}, {TEXT!r}, 1, {SUMS!r})
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert ended.returncode == -9
    (batch,) = left_behind(tmp_path)
    assert batch.used[KEY].requests == 1000


def test_files_that_hold_nothing_or_are_too_old_go(tmp_path: Path) -> None:
    for life, records in (("empty", 0), ("old", 1)):
        journal = Journal(tmp_path, life)
        journal.begin(1)
        for _ in range(records):
            journal.append(KEY[0], TEXT, 1, SUMS)
        journal.close()
    long_ago = time.time() - KEPT_S - 60
    os.utime(tmp_path / "old.usage", (long_ago, long_ago))
    (tmp_path / "cut.usage").write_bytes(b"\0" * 3)
    assert left_behind(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_told_at_once(tmp_path: Path) -> None:
    """Blocks are taken beforehand: a write to a mapping that finds none would be a signal, not an error."""
    journal = Journal(tmp_path, "one")
    assert journal.path.stat().st_blocks * 512 >= 2 * HALF_BYTES
    journal.close()
