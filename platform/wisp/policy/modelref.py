"""How a policy says which model it means: `mobilenet`, `mobilenet@3` or `sha256:...`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from wisp.errors import InvalidName
from wisp.names import Digest, ModelName, parse_digest, parse_model

MODEL_RULE = "a model's name, name@version or sha256:<64 hexadecimal digits>"
_VERSION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """Either a `digest`, or a `name` with or without a `version`; without one, the newest at upload is pinned."""

    name: ModelName | None = None
    version: int | None = None
    digest: Digest | None = None

    def __str__(self) -> str:
        if self.digest is not None:
            return self.digest
        return f"{self.name}" if self.version is None else f"{self.name}@{self.version}"


def parse_model_ref(text: str) -> ModelRef:
    """Raises ValueError with the rule."""
    try:
        if text.startswith("sha256:"):
            return ModelRef(digest=parse_digest(text))
        name, at, version = text.partition("@")
        if at and _VERSION.fullmatch(version) is None:
            raise ValueError(f"expected {MODEL_RULE}")
        return ModelRef(name=parse_model(name), version=int(version) if at else None)
    except InvalidName:
        raise ValueError(f"expected {MODEL_RULE}") from None
