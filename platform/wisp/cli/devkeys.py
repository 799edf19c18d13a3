"""The secrets of tenants made in development, so that a restart can print them again: `DIR/dev-keys/<tenant>`, 0600."""

from __future__ import annotations

from pathlib import Path

from wisp.names import TenantName
from wisp.server import write_private

FOLDER = "dev-keys"


def path_of(data_dir: Path, tenant: TenantName) -> Path:
    return data_dir / FOLDER / tenant


def keep(data_dir: Path, tenant: TenantName, secret: str) -> None:
    path = path_of(data_dir, tenant)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)
    write_private(path, secret + "\n")


def recall(data_dir: Path, tenant: TenantName) -> str | None:
    try:
        return path_of(data_dir, tenant).read_text().strip() or None
    except FileNotFoundError:
        return None
