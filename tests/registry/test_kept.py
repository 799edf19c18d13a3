"""What a node keeps on its disk: all of it comes back, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.samples import ACME, CLASSIFY, draft
from wisp.names import parse_key_id
from wisp.registry.kept import DamagedSnapshot, Kept, KeptFile
from wisp.registry.policies import Source, new_text
from wisp.registry.records import Entry, Key, Role
from wisp.registry.registry import Registry

KEY = b"k" * 32


@pytest.fixture
async def entry(acme: Registry) -> Entry:
    await acme.functions.put_version(ACME, CLASSIFY, draft("a"), activate=True)
    found = await acme.functions.entry(ACME, CLASSIFY)
    assert found is not None
    return found


def save(file: KeptFile, entry: Entry) -> Kept:
    sealed = Entry(
        tenant=entry.tenant, function=entry.function, versions=entry.versions, secrets=(("TOKEN", b"\x00\xff\n"),)
    )
    key = Key(
        id=parse_key_id("0123456789abcdef"),
        tenant=ACME,
        role=Role.INVOKE,
        functions=(CLASSIFY,),
        secret_sha256="a" * 64,
        created_at=1,
    )
    policy = new_text("ceiling", b"wisp: 1\n", author="operator", source=Source.REDIS)
    kept = Kept(
        saved_at=0,
        generations={ACME: 7},
        entries=(sealed,),
        keys=(key,),
        tenants=(entry.tenant,),
        policies=(policy,),
    )
    file.save(
        generations=kept.generations,
        entries=kept.entries,
        keys=kept.keys,
        tenants=kept.tenants,
        policies=kept.policies,
    )
    return kept


def test_what_was_kept_comes_back(tmp_path: Path, entry: Entry) -> None:
    kept = save(KeptFile(tmp_path / "snapshot", KEY), entry)
    found = KeptFile(tmp_path / "snapshot", KEY).load()
    assert found is not None
    assert found.saved_at > 0
    assert (found.generations, found.entries, found.keys) == (kept.generations, kept.entries, kept.keys)
    assert (found.tenants, found.policies) == (kept.tenants, kept.policies)
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot"]


def test_what_is_the_same_is_not_written_again(tmp_path: Path, entry: Entry) -> None:
    file = KeptFile(tmp_path / "snapshot", KEY)
    save(file, entry)
    before = file.path.stat().st_ino
    save(file, entry)
    assert file.path.stat().st_ino == before


def test_no_file_is_no_damage(tmp_path: Path) -> None:
    assert KeptFile(tmp_path / "snapshot", KEY).load() is None


def test_one_byte_that_was_not_written_costs_the_whole(tmp_path: Path, entry: Entry) -> None:
    file = KeptFile(tmp_path / "snapshot", KEY)
    save(file, entry)
    whole = file.path.read_bytes()
    step = max(1, len(whole) // 50)
    damages = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), step)]
    damages += [whole[: len(whole) // 2], b"", whole + b"key {}\n", whole.partition(b"\n")[2]]
    for damage in damages:
        file.path.write_bytes(damage)
        with pytest.raises(DamagedSnapshot):
            file.load()


def test_another_nodes_file_is_refused(tmp_path: Path, entry: Entry) -> None:
    save(KeptFile(tmp_path / "snapshot", KEY), entry)
    with pytest.raises(DamagedSnapshot, match="another node's"):
        KeptFile(tmp_path / "snapshot", b"x" * 32).load()


def test_a_file_of_another_form_is_refused_whole(tmp_path: Path) -> None:
    """Authentic, but with a record that this wisp does not know."""
    file = KeptFile(tmp_path / "snapshot", KEY)
    file._write(b'heading {"saved_at":1,"records":1}\nsomething {}\n')
    with pytest.raises(DamagedSnapshot, match="another wisp"):
        file.load()
