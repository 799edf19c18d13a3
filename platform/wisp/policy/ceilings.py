"""The operator's documents as one value: the ceiling and every tenant class, from a folder or from stored texts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from wisp.errors import Fault, InvalidName, InvalidPolicy, NotFound
from wisp.names import ClassName, parse_class
from wisp.policy.parse import parse_ceiling
from wisp.policy.parse import parse_class as parse_class_document
from wisp.policy.scanner import MAX_BYTES
from wisp.policy.schema import Ceiling, TenantClass

CEILING = "ceiling"
CLASS_PREFIX = "class-"
MAX_DOCUMENTS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """`texts`: each document as it was given, by its name without `.yaml`. `digest` changes with any byte of any."""

    ceiling: Ceiling
    classes: Mapping[ClassName, TenantClass]
    texts: Mapping[str, bytes]
    digest: str

    @classmethod
    def load(cls, directory: Path) -> Ceilings:
        """Read `ceiling.yaml` and every `class-*.yaml`; other files are passed over. Raises InvalidPolicy."""
        paths = [directory / f"{CEILING}.yaml", *sorted(directory.glob(f"{CLASS_PREFIX}*.yaml"))[:MAX_DOCUMENTS]]
        return cls.parse({path.stem: _read(path) for path in paths})

    @classmethod
    def parse(cls, texts: Mapping[str, bytes]) -> Ceilings:
        """From `ceiling` and `class-<name>` to their texts. Raises InvalidPolicy with every document's faults."""
        faults: list[Fault] = []
        ceiling: Ceiling | None = None
        classes: dict[ClassName, TenantClass] = {}
        for name, text in sorted(texts.items()):
            try:
                if name == CEILING:
                    ceiling = parse_ceiling(text)
                else:
                    classes[class_of(name)] = parse_class_document(text)
            except InvalidPolicy as error:
                faults += (_within(name, fault) for fault in error.faults)
        if ceiling is None and not faults:
            faults.append(Fault(field=CEILING, message="there is no ceiling"))
        if ceiling is None or faults:
            first = faults[0]
            at = "" if first.line is None else f", line {first.line}"
            raise InvalidPolicy(f"{len(faults)} faults, the first: {first.field}{at}: {first.message}", tuple(faults))
        return cls(
            ceiling=ceiling,
            classes=MappingProxyType(classes),
            texts=MappingProxyType(dict(sorted(texts.items()))),
            digest=_digest(texts),
        )

    def for_class(self, name: ClassName) -> TenantClass:
        """Raises NotFound."""
        found = self.classes.get(name)
        if found is None:
            known = ", ".join(self.classes) or "none"
            raise NotFound(f"there is no tenant class {name}; there are: {known}")
        return found


def class_of(document: str) -> ClassName:
    """`class-free` -> `free`. Raises InvalidPolicy for a document by any other name."""
    try:
        if document.startswith(CLASS_PREFIX):
            return parse_class(document.removeprefix(CLASS_PREFIX))
    except InvalidName as error:
        raise InvalidPolicy(error.message, error.faults) from error
    message = f"a document is called {CEILING} or {CLASS_PREFIX}<name>"
    raise InvalidPolicy(message, (Fault(field="name", message=message),))


def default_policies_dir() -> Path:
    """The operator's defaults: those packed into the wheel, else the top-level `policies/` of a checkout."""
    package = Path(__file__).resolve().parents[1]
    packed = package / "policies"
    return packed if (packed / f"{CEILING}.yaml").is_file() else package.parents[1] / "policies"


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)  # one byte more is enough for the parser to refuse it
    except OSError as error:
        message = f"{path.name} cannot be read: {error.strerror}"
        raise InvalidPolicy(message, (Fault(field=path.stem, message=message),)) from error


def _within(document: str, fault: Fault) -> Fault:
    return Fault(
        field=f"{document}: {fault.field}",
        message=fault.message,
        line=fault.line,
        column=fault.column,
        asked=fault.asked,
        allowed=fault.allowed,
    )


def _digest(texts: Mapping[str, bytes]) -> str:
    total = hashlib.sha256()
    for name, text in sorted(texts.items()):
        total.update(f"{len(name)} {len(text)} {name} ".encode())
        total.update(text)
    return f"sha256:{total.hexdigest()}"
