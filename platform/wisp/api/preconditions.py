"""Entity tags: what an answer says that it shows (`ETag`), and what a writer has seen (`If-Match`, RFC 9110 §13.1).

A condition that is not judged is refused: a writer that sent one relies on it. A read answers in full.
"""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

from wisp.api.operations import Context, Operation
from wisp.errors import InvalidRequest
from wisp.registry.expectations import ANY, Expected

_TAGS = re.compile(r'\s*(?:W/)?"([^"]*)"\s*(?:,|$)')
_TAG = re.compile(r"sha256:[0-9a-f]{64}|[0-9]{1,16}", re.ASCII)
"""Digests of documents and versions, revisions of the rest."""
MAX_TAGS = 16


def expected(context: Context) -> Expected:
    """Raises `InvalidRequest`. A tag that is none of wisp's matches nothing."""
    headers = context.request.headers.getlist("if-match")
    if not headers:
        return None
    value = ", ".join(headers)
    if value.strip() == ANY:
        return (ANY,)
    tags = _TAGS.findall(value)
    if _TAGS.sub("", value) or len(tags) > MAX_TAGS:
        raise InvalidRequest(f'If-Match takes *, or up to {MAX_TAGS} entity tags as ETag has them: "..."')
    return tuple(tag for tag in tags if _TAG.fullmatch(tag))


def refuse_unjudged(request: Request, operation: Operation) -> None:
    """Raises `InvalidRequest`."""
    if "if-match" in request.headers and not operation.conditional:
        raise InvalidRequest("If-Match: nothing that this operation changes has an entity tag; send it without")
    if "if-none-match" in request.headers and operation.method != "GET":
        raise InvalidRequest("If-None-Match is for reading; a change takes If-Match, where its object has an ETag")


def tagged(response: Response, tag: str | int) -> Response:
    response.headers["etag"] = f'"{tag}"'
    return response
