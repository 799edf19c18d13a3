"""Secrets at rest: sealed with a key that the operator holds, so that a copy of Redis tells nobody what they are.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce for each seal. What a value belongs to is authenticated with
it: a sealed value that was moved to another tenant or name opens no more than a damaged one.

    sealed = version(1) key id(4) nonce(12) ciphertext and tag

The key id, the head of the key's SHA-256, tells a key that was changed from a record that was damaged.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from base64 import b64decode, b64encode
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wisp.errors import InvalidSettings, RegistryUnavailable
from wisp.names import TenantName

KEY_BYTES = 32
VERSION = b"\x01"
ID_BYTES = 4
NONCE_BYTES = 12
HEAD_BYTES = len(VERSION) + ID_BYTES + NONCE_BYTES


class SecretCipher:
    """Never shows its key; one object serves all tenants."""

    __slots__ = ("_aead", "_id")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        self._aead = AESGCM(key)
        self._id = hashlib.sha256(b"wisp secrets key\0" + key).digest()[:ID_BYTES]

    def seal(self, tenant: TenantName, name: str, value: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return VERSION + self._id + nonce + self._aead.encrypt(nonce, value, _belonging(tenant, name))

    def unseal(self, tenant: TenantName, name: str, sealed: bytes) -> bytes:
        """Raises `RegistryUnavailable`, which names the secret and what is wrong, never the value."""
        place = f"{tenant}/{name}"
        key_id, nonce = sealed[len(VERSION) : len(VERSION) + ID_BYTES], sealed[HEAD_BYTES - NONCE_BYTES : HEAD_BYTES]
        if sealed[: len(VERSION)] != VERSION or len(nonce) != NONCE_BYTES:
            raise RegistryUnavailable(f"the secret {place} is not one that this wisp can read")
        if key_id != self._id:
            raise RegistryUnavailable(
                f"the secret {place} was sealed with another key: its operator gives this node the WISP_SECRETS_KEY"
                " that it was sealed with, or its tenant puts it anew"
            )
        try:
            return self._aead.decrypt(nonce, sealed[HEAD_BYTES:], _belonging(tenant, name))
        except InvalidTag as error:
            raise RegistryUnavailable(f"the secret {place} is damaged: restore it from a backup, or put it anew") from (
                error
            )


def _belonging(tenant: TenantName, name: str) -> bytes:
    """Neither may hold a NUL."""
    return f"wisp secret\0{tenant}\0{name}".encode()


def load_secrets_key(path: Path) -> bytes:
    """The key in this file, made on first use, for its owner alone. Raises `InvalidSettings` if it is none."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        text = b64encode(secrets.token_bytes(KEY_BYTES)).decode()
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text + "\n")
    try:
        key = b64decode(text.strip(), validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise InvalidSettings(f"{path}: no key of {KEY_BYTES} bytes in base64; restore it, or set WISP_SECRETS_KEY")
    return key
