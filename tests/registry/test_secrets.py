from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from registry.samples import ACME, BETA, CLASSIFY, FREE, draft
from wisp.errors import (
    InvalidName,
    InvalidRequest,
    InvalidSettings,
    NotFound,
    RegistryUnavailable,
    RequestTooLarge,
    StorageQuota,
)
from wisp.registry.cipher import SecretCipher, load_secrets_key
from wisp.registry.following import Following
from wisp.registry.keys import Kind, key
from wisp.registry.registry import Registry
from wisp.registry.secrets import MAX_SECRETS, MAX_VALUE_BYTES, Secrets, parse_secret_name
from wisp.registry.snapshot import Snapshot

VALUE = b"correct horse battery staple"
KEY = bytes(range(32))


@pytest.fixture
def secrets(acme: Registry) -> Secrets:
    return Secrets(acme.connection, SecretCipher(KEY))


async def test_a_value_goes_in_and_is_nowhere_to_be_read(acme: Registry, secrets: Secrets) -> None:
    assert await secrets.put(ACME, "TOKEN", VALUE)
    assert not await secrets.put(ACME, "TOKEN", VALUE)
    assert await secrets.names(ACME) == ("TOKEN",)
    stored = await acme.connection.hash_all(key(ACME, Kind.SECRETS))
    assert list(stored) == ["TOKEN"]
    assert VALUE not in stored["TOKEN"]
    sealed = await secrets.sealed(ACME, ("TOKEN", "OTHER"))
    assert secrets.variables(ACME, sealed) == (("TOKEN", VALUE.decode()),)
    await secrets.delete(ACME, "TOKEN")
    assert await secrets.names(ACME) == ()
    with pytest.raises(NotFound):
        await secrets.delete(ACME, "TOKEN")
    with pytest.raises(NotFound):
        await secrets.put(BETA, "TOKEN", VALUE)


async def test_an_entry_has_the_sealed_ones_that_its_policy_names(acme: Registry, secrets: Secrets) -> None:
    await secrets.put(ACME, "NAMED", VALUE)
    await secrets.put(ACME, "UNNAMED", b"other")
    version = draft("a")
    object.__setattr__(version, "policy_text", "wisp: 1\nabi: handler\nsecrets: [NAMED, GONE]\n")
    await acme.functions.put_version(ACME, CLASSIFY, version, activate=True)
    entry = await acme.functions.entry(ACME, CLASSIFY)
    assert entry is not None
    assert secrets.variables(ACME, entry.secrets) == (("NAMED", VALUE.decode()),)
    assert "sealed" not in repr(entry)
    assert repr(entry.secrets[0][1]) not in repr(entry)


async def test_a_change_on_another_node_is_seen(acme: Registry, secrets: Secrets) -> None:
    snapshot = Snapshot(acme)
    following = asyncio.create_task(Following(snapshot).run())
    version = draft("a")
    object.__setattr__(version, "policy_text", "wisp: 1\nabi: handler\nsecrets: [TOKEN]\n")
    await acme.functions.put_version(ACME, CLASSIFY, version, activate=True)
    for value in (b"first", b"second", None):
        if value is None:
            await secrets.delete(ACME, "TOKEN")
        else:
            await secrets.put(ACME, "TOKEN", value)
        expected = () if value is None else (("TOKEN", value.decode()),)
        async with asyncio.timeout(10):
            while True:
                entry = await snapshot.function(ACME, CLASSIFY)
                assert entry is not None
                if secrets.variables(ACME, entry.secrets) == expected:
                    break
                await asyncio.sleep(0.01)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_what_cannot_be_a_variable_is_refused(secrets: Secrets) -> None:
    with pytest.raises(RequestTooLarge):
        await secrets.put(ACME, "TOKEN", b"x" * (MAX_VALUE_BYTES + 1))
    for value in (b"a\0b", b"\xff"):
        with pytest.raises(InvalidRequest):
            await secrets.put(ACME, "TOKEN", value)
    for name in ("", "1A", "A-B", "HTTP_PROXY", "WISP_X", "PATH_INFO", "A" * 129):
        with pytest.raises(InvalidName):
            parse_secret_name(name)
    assert await secrets.names(ACME) == ()


async def test_their_number_is_bounded(secrets: Secrets) -> None:
    for number in range(MAX_SECRETS):
        await secrets.put(ACME, f"S{number}", b"")
    with pytest.raises(StorageQuota):
        await secrets.put(ACME, "ONE_MORE", b"")
    assert not await secrets.put(ACME, "S0", b"changed")


class TestCipher:
    def test_a_sealed_value_opens_in_its_own_place_only(self) -> None:
        cipher = SecretCipher(KEY)
        sealed = cipher.seal(ACME, "TOKEN", VALUE)
        assert cipher.unseal(ACME, "TOKEN", sealed) == VALUE
        for tenant, name in ((BETA, "TOKEN"), (ACME, "OTHER")):
            with pytest.raises(RegistryUnavailable, match="damaged"):
                cipher.unseal(tenant, name, sealed)
        assert cipher.seal(ACME, "TOKEN", VALUE) != sealed

    def test_damage_and_another_key_are_told_apart(self) -> None:
        sealed = SecretCipher(KEY).seal(ACME, "TOKEN", VALUE)
        with pytest.raises(RegistryUnavailable, match=r"another key.*WISP_SECRETS_KEY"):
            SecretCipher(bytes(32)).unseal(ACME, "TOKEN", sealed)
        for at in range(5, len(sealed)):
            with pytest.raises(RegistryUnavailable, match="damaged"):
                SecretCipher(KEY).unseal(ACME, "TOKEN", sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :])
        for cut in (b"", b"\x02" + sealed[1:], sealed[:10]):
            with pytest.raises(RegistryUnavailable):
                SecretCipher(KEY).unseal(ACME, "TOKEN", cut)

    def test_a_key_is_made_once_for_its_owner_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "secrets.key"
        made = load_secrets_key(path)
        assert (len(made), load_secrets_key(path), path.stat().st_mode & 0o777) == (32, made, 0o600)
        path.write_text("short")
        with pytest.raises(InvalidSettings, match="WISP_SECRETS_KEY"):
            load_secrets_key(path)


async def test_those_of_a_tenant_made_anew_are_gone(acme: Registry, secrets: Secrets) -> None:
    await secrets.put(ACME, "TOKEN", VALUE)
    await acme.tenants.delete(ACME)
    await acme.tenants.create(ACME, FREE)
    assert await secrets.names(ACME) == ()
