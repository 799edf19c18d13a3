"""A function's sample requests: `samples/requests.json`, or `samples/labels.json` for pictures with a right label."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from wisp.errors import InvalidSettings

M = TypeVar("M", bound=BaseModel)

PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".bmp": "image/bmp"}


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Expected(_Strict):
    """What the answer must be: its status, and what is given of the rest. `json` need only be contained in it."""

    status: int = 200
    code: str | None = None
    body: str | None = None
    contained: Annotated[dict[str, object] | None, Field(alias="json")] = None

    def __str__(self) -> str:
        if self.contained is not None:
            return compact(json.dumps(self.contained))
        return self.code or (self.body or str(self.status)).strip()

    def matches(self, answer: httpx.Response) -> bool:
        if answer.status_code != self.status:
            return False
        if self.code is not None and not answer.headers.get("wisp-error", "").startswith(f"{self.code};"):
            return False
        if self.body is not None and answer.text != self.body:
            return False
        if self.contained is None:
            return True
        try:
            document = answer.json()
        except ValueError:
            return False
        return isinstance(document, dict) and self.contained.items() <= document.items()


class Sample(_Strict):
    """One request. `file`: its body, beside `requests.json`."""

    method: str = "GET"
    path: str = "/"
    headers: dict[str, str] = {}
    file: str | None = None
    body: str | None = None
    expect: Expected = Expected()


class _Samples(RootModel[list[Sample]]):
    pass


class _Labels(RootModel[dict[str, int]]):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A sample and its body. `file`: where that lies; `labelled`: a picture, and a label that the model may miss."""

    sample: Sample
    file: Path | None
    labelled: bool = False

    @property
    def content(self) -> bytes:
        if self.file is not None:
            return self.file.read_bytes()
        return (self.sample.body or "").encode()

    @property
    def title(self) -> str:
        return self.sample.path if self.file is None else self.file.name


def has_samples(folder: Path) -> bool:
    return any((folder / "samples" / name).is_file() for name in ("labels.json", "requests.json"))


def questions(folder: Path) -> list[Question]:
    """Every labelled picture, else every sample request of one function's folder. Raises `InvalidSettings`."""
    samples = folder / "samples"
    labels = samples / "labels.json"
    if labels.is_file():
        return [_labelled(samples / file, label) for file, label in sorted(_read(labels, _Labels).root.items())]
    listed = samples / "requests.json"
    found = _read(listed, _Samples).root if listed.is_file() else [Sample()]
    return [Question(sample=one, file=None if one.file is None else samples / one.file) for one in found]


def compact(text: str) -> str:
    """JSON without what makes it hard to read in a table."""
    return text.translate(str.maketrans("", "", '{}"')).strip()


def _labelled(file: Path, label: int) -> Question:
    headers = {"content-type": PICTURES.get(file.suffix, "application/octet-stream")}
    expected = Expected.model_validate({"json": {"label": label}})
    return Question(sample=Sample(method="POST", headers=headers, expect=expected), file=file, labelled=True)


def _read(path: Path, kind: type[M]) -> M:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InvalidSettings(f"{path}: {error}") from error
