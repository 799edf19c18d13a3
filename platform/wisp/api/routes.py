"""The one table of the control plane: the application routes by it, the OpenAPI document describes it."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter

from starlette.responses import Response

from wisp.api import (
    functionlogs,
    functionpolicies,
    functions,
    health,
    keys,
    logs,
    models,
    openapi,
    policies,
    secrets,
    tenants,
    traffic,
    usage,
    versions,
)
from wisp.api.authentication import Right
from wisp.api.operations import Context, Operation, document


async def describe(context: Context) -> Response:
    return document(openapi.describe(OPERATIONS))


OPERATIONS: tuple[Operation, ...] = (
    *health.OPERATIONS,
    Operation(
        method="GET",
        path="/openapi.json",
        name="getOpenApi",
        summary="This document.",
        right=Right.NOBODY,
        handler=describe,
        answers=((200, "OpenAPI 3.1"),),
    ),
    *tenants.OPERATIONS,
    *keys.OPERATIONS,
    *models.OPERATIONS,
    *secrets.OPERATIONS,
    *functions.OPERATIONS,
    *versions.OPERATIONS,
    *traffic.OPERATIONS,
    *functionpolicies.OPERATIONS,
    *functionlogs.OPERATIONS,
    *logs.OPERATIONS,
    *usage.OPERATIONS,
    *policies.OPERATIONS,
)


def by_path() -> tuple[tuple[Operation, ...], ...]:
    ordered = sorted(OPERATIONS, key=attrgetter("path"))
    return tuple(tuple(group) for _, group in groupby(ordered, key=attrgetter("path")))
