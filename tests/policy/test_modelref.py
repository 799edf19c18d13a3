from __future__ import annotations

import pytest

from wisp.policy.modelref import parse_model_ref

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "name", "version", "digest"),
    [("mobilenet", "mobilenet", None, None), ("m-2@13", "m-2", 13, None), (DIGEST, None, None, DIGEST)],
)
def test_references(text: str, name: str | None, version: int | None, digest: str | None) -> None:
    reference = parse_model_ref(text)
    assert (reference.name, reference.version, reference.digest) == (name, version, digest)
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "@1",
            "a@",
            "a@0",
            "a@01",
            "a@-1",
            "a@1@2",
            "a@x",
            "A",
            "a/b",
            "../a",
            "sha256:",
            DIGEST.upper(),
            DIGEST + "0",
        ),
        *("a@" + "9" * 30, "a\n"),
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(ValueError, match="expected a model's name"):
        parse_model_ref(text)
