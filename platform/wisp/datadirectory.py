"""A node's data directory: made private and cleared of leftovers before anything starts."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Final

from wisp.errors import InvalidSettings
from wisp.registry.cipher import load_secrets_key
from wisp.scheduling.children import make_empty_directory

log = logging.getLogger(__name__)

SECRETS_KEY_FILE: Final = "secrets.key"


class DataDirectory:
    """`staging`: for uploads on their way."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.staging = self.path / "staging"

    def prepare(self) -> Path:
        """An empty directory, for children to be in. Raises `InvalidSettings`."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.rmtree(self.staging, ignore_errors=True)  # what uploads left when a former process died
            self.staging.mkdir(mode=0o700)
            return make_empty_directory(self.path)
        except OSError as error:
            raise InvalidSettings(f"--data-dir: {self.path} cannot be used: {error.strerror}") from error

    def secrets_key(self, *, shared: bool) -> bytes:
        """This node's own, made when it is first needed. `shared`: others use the same registry. Raises
        `InvalidSettings`."""
        path = self.path / SECRETS_KEY_FILE
        if shared:
            log.warning(
                "secrets are sealed with this node's own key, %s: nodes that share a Redis need one WISP_SECRETS_KEY",
                path,
            )
        try:
            return load_secrets_key(path)
        except OSError as error:
            raise InvalidSettings(f"{path}: {error.strerror}") from error
