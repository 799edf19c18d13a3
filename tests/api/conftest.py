"""The API over a whole node, without a socket between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from starlette.types import ASGIApp

from platforms import OPERATOR_KEY
from wisp.api.app import create_app
from wisp.node import Node
from wisp.telemetry import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """`as_operator` carries the operator's key; `bare` none."""

    node: Node
    app: ASGIApp
    metrics: Metrics
    as_operator: httpx.AsyncClient
    bare: httpx.AsyncClient

    async def tenant(self, name: str, class_name: str = "standard") -> str:
        """Makes it; its deploy key's secret."""
        answer = await self.as_operator.post("/v1/tenants", json={"tenant": name, "class": class_name})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["key"]["secret"])

    def staged(self) -> list[Path]:
        return list(self.node.staging.iterdir())


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture
async def api(node: Node) -> AsyncIterator[Api]:
    metrics = Metrics()
    app = create_app(node, metrics)
    transport = httpx.ASGITransport(app=app)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://wisp", headers=bearer(OPERATOR_KEY)) as as_operator,
        httpx.AsyncClient(transport=transport, base_url="http://wisp") as bare,
    ):
        yield Api(node=node, app=app, metrics=metrics, as_operator=as_operator, bare=bare)
