"""The document and the routes say the same: what is described answers, what is not described does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from api.conftest import Api
from wisp.api.openapi import GUEST_METHODS, codes
from wisp.api.operations import Operation
from wisp.api.routes import OPERATIONS, by_path

METHODS = ("get", "put", "post", "delete", "patch")


def concrete(path: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: "0" * 16 if name[1] == "key" else "nothing", path)


async def test_the_document_lists_exactly_the_routes(api: Api) -> None:
    document = (await api.bare.get("/openapi.json")).json()
    described = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if not path.startswith("/t/") and method in METHODS
    }
    assert described == {(operation.method, operation.path) for operation in OPERATIONS}
    data_plane = [path for path in document["paths"] if path.startswith("/t/")]
    assert data_plane[:2] == ["/t/{tenant}/{function}", "/t/{tenant}/{function}/{path}"]
    assert all(path.startswith("/t/{tenant}/v2") for path in data_plane[2:])
    assert all(set(GUEST_METHODS) < set(document["paths"][path]) for path in data_plane[:2])
    assert document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] == codes()
    shared = document["paths"]["/v1/models/{model}"]["put"]["requestBody"]["content"]
    assert shared.keys() == {"application/octet-stream", "application/json"}
    assert document["components"]["schemas"]["ModelSource"]["properties"].keys() == {"source", "bearer"}
    names = [
        item["operationId"] for path in document["paths"].values() for item in path.values() if "operationId" in item
    ]
    assert len(names) == len(set(names))


async def test_what_is_not_described_does_not_answer(api: Api) -> None:
    for operations in by_path():
        allowed = {operation.method for operation in operations}
        for method in METHODS:
            if method.upper() in allowed:
                continue
            answer = await api.as_operator.request(method, concrete(operations[0].path))
            assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
            assert allowed <= set(answer.headers["allow"].split(", "))
    for path in (
        "/",
        "/v1",
        "/v1/tenants/",
        "/v1/policies/",
        "/v1/tenants/nothing/usage",
        "/v1/tenants/nothing/functions/nothing/traffics",
        "/%74/nothing/nothing",
        "/t",
    ):
        answer = await api.as_operator.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_each_operation_is_described_whole(operation: Operation) -> None:
    assert operation.summary.endswith(".")
    assert operation.answers
    assert operation.path.count("{") == len(operation.parameters)


async def test_every_problem_that_is_answered_is_described(api: Api) -> None:
    """Provokes each operation with nothing, rubbish and an unknown query, and looks the problem up."""
    document = (await api.bare.get("/openapi.json")).json()
    await api.tenant("nothing")
    for operation in OPERATIONS:
        if operation.name == "deleteTenant":
            continue
        for content, query in ((b"", ""), (b'{"rubbish": 1}', ""), (b"", "?unknown=1")):
            answer = await api.as_operator.request(operation.method, concrete(operation.path) + query, content=content)
            responses = document["paths"][operation.path][operation.method.lower()]["responses"]
            assert str(answer.status_code) in responses, (operation.name, answer.text)
            if answer.headers.get("content-type") == "application/problem+json":
                assert answer.json()["code"] in responses[str(answer.status_code)]["x-wisp-codes"]
                assert answer.headers["wisp-error"] == f"{answer.json()['code']}; source=platform"
            if query:
                assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert api.staged() == []


async def test_the_contract_of_the_repository_is_kept_in_one_table() -> None:
    """Every module of the room that has operations has them served."""
    room = Path(__file__).resolve().parents[2] / "platform" / "wisp" / "api"
    written = sum(source.read_text().count("handler=") for source in room.glob("*.py"))
    shared_and_own_models = 4
    assert len(OPERATIONS) == written + shared_and_own_models
