"""The operator's documents as one value: the ceiling and every tenant class, from a folder or from stored texts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
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

    def revised(self, texts: Mapping[str, bytes]) -> Revision:
        """With these documents instead. One that does not parse, or is missing, stays as it was, and is a fault."""
        ceiling, classes, kept = self.ceiling, dict(self.classes), dict(self.texts)
        faults: dict[str, tuple[Fault, ...]] = {}
        for name, text in texts.items():
            if kept.get(name) == text:
                continue
            try:
                if name == CEILING:
                    ceiling = parse_ceiling(text)
                else:
                    classes[class_of(name)] = parse_class_document(text)
            except InvalidPolicy as error:
                faults[name] = error.faults
            else:
                kept[name] = text
        for name in self.texts.keys() - texts.keys():
            faults[name] = (Fault(field="document", message="it is gone; what it said last holds until a restart"),)
        if kept == self.texts:  # the same value too: what was made under it need not be made again
            return Revision(ceilings=self, faults=faults)
        revised = Ceilings(
            ceiling=ceiling,
            classes=MappingProxyType(classes),
            texts=MappingProxyType(dict(sorted(kept.items()))),
            digest=_digest(kept),
        )
        return Revision(ceilings=revised, faults=faults)

    def within(self, answer_bytes: int) -> Ceilings:
        """With response bodies and logs that fit together in `answer_bytes`; itself if they do already."""
        limits = self.ceiling.limits
        if limits.response_body + limits.logs <= answer_bytes:
            return self
        logs = min(limits.logs, answer_bytes // 2)
        cut = limits.model_copy(update={"logs": logs, "response_body": min(limits.response_body, answer_bytes - logs)})
        return replace(self, ceiling=self.ceiling.model_copy(update={"limits": cut}))

    def for_class(self, name: ClassName) -> TenantClass:
        """Raises NotFound."""
        found = self.classes.get(name)
        if found is None:
            known = ", ".join(self.classes) or "none"
            raise NotFound(f"there is no tenant class {name}; there are: {known}")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """`faults`, by document: those that could not be taken over."""

    ceilings: Ceilings
    faults: Mapping[str, tuple[Fault, ...]]


def check_document(name: str, text: bytes) -> None:
    """Raises InvalidPolicy with every fault of an operator's document, or for its name."""
    if name == CEILING:
        parse_ceiling(text)
    else:
        class_of(name)
        parse_class_document(text)


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
