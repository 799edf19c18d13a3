"""Versions over HTTP: traffic among them, one pinned, a canary taken back, deletes, history, entity tags."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest

from api.conftest import Api, bearer
from platforms import HANDLER_POLICY
from wat import answering, handler
from wisp.names import parse_function, parse_tenant

BASE = "/v1/tenants/acme/functions/greet"
CALL = "/t/acme/greet"
PUBLIC = HANDLER_POLICY + b"access: public\n"
WAIT_S = 30.0
GUARD: dict[str, object] = {"max_error_rate": 0.2, "min_requests": 5, "window": "60s"}


def split(*shares: tuple[int, int], **more: object) -> dict[str, object]:
    return {"split": [{"version": version, "percent": percent} for version, percent in shares], **more}


NONSENSE: list[tuple[dict[str, object], str]] = [
    (split((1, 90), (2, 20)), "split"),
    (split(), "split"),
    (split((1, 50), (1, 50)), "split[1].version"),
    (split((1, 50), (7, 50)), "split[1].version"),
    (split((1, 100), (2, 0)), "split[1].percent"),
    (split((1, 101), (2, -1)), "split[0].percent"),
    (split((1, 100), sticky={"key": True}), "sticky"),
    (split((1, 100), guard={"max_error_rate": 0.1, "min_requests": 5, "window": "60s"}), "guard"),
    (split((1, 50), (2, 50), sticky={}), "sticky"),
    (split((1, 50), (2, 50), sticky={"key": True, "header": "x"}), "sticky"),
    (split((1, 50), (2, 50), sticky={"header": "authorization"}), "sticky.header"),
    (split((1, 50), (2, 50), sticky={"header": "a b"}), "sticky.header"),
    (
        split((1, 50), (2, 50), guard={"max_error_rate": 1.0, "min_requests": 5, "window": "60s"}),
        "guard.max_error_rate",
    ),
    (
        split((1, 50), (2, 50), guard={"max_error_rate": 0.1, "min_requests": 0, "window": "60s"}),
        "guard.min_requests",
    ),
    (
        split((1, 50), (2, 50), guard={"max_error_rate": 0.1, "min_requests": 5, "window": "500ms"}),
        "guard.window",
    ),
    (split((1, 50), (2, 50), guard={"max_error_rate": 0.1, "min_requests": 5, "window": "2d"}), "guard.window"),
]


class Greet:
    """The function greet of acme, over HTTP with its deploy key."""

    def __init__(self, api: Api, secret: str) -> None:
        self.api = api
        self.key = bearer(secret)

    async def upload(
        self, module: bytes, policy: bytes = HANDLER_POLICY, *, activate: bool = True, message: str | None = None
    ) -> httpx.Response:
        files: dict[str, Any] = {"module": ("m.wasm", module), "policy": ("p.yaml", policy)}
        if message is not None:
            files["message"] = (None, message.encode())
        answer = await self.api.bare.put(f"{BASE}?activate={int(activate)}", headers=self.key, files=files)
        assert answer.status_code == 201, answer.text
        return answer

    async def traffic(self, plan: dict[str, object], **headers: str) -> httpx.Response:
        return await self.api.bare.put(f"{BASE}/traffic", headers=self.key | headers, json=plan)

    async def call(self, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.api.bare.get(CALL, headers=self.key | named)

    async def get(self, below: str = "") -> httpx.Response:
        return await self.api.bare.get(BASE + below, headers=self.key)


@pytest.fixture
async def greet(api: Api) -> Greet:
    """Versions 1 and 2, which say so; 1 is active."""
    greet = Greet(api, await api.tenant("acme"))
    await greet.upload(answering(b"1"))
    await greet.upload(answering(b"2"), activate=False)
    return greet


class TestTraffic:
    async def test_it_is_split_by_chance_and_each_answer_is_of_the_version_that_it_names(self, greet: Greet) -> None:
        answer = await greet.traffic(split((1, 50), (2, 50)))
        assert (answer.status_code, answer.json()["active"]) == (200, 1)
        assert answer.json()["traffic"] == split((1, 50), (2, 50))
        assert (await greet.get()).json() == answer.json()
        versions = (await greet.get("/versions")).json()["items"]
        assert [(one["version"], one["active"], one["percent"]) for one in versions] == [(1, True, 50), (2, False, 50)]
        answers = [one for _ in range(12) for one in await asyncio.gather(*(greet.call() for _ in range(5)))]
        assert all(one.text == one.headers["wisp-version"] for one in answers)
        assert Counter(one.text for one in answers).keys() == {"1", "2"}  # one side stays out once in 2^59 runs

    async def test_a_header_or_a_key_keeps_a_caller_at_one_version(self, greet: Greet) -> None:
        await greet.traffic(split((1, 50), (2, 50), sticky={"header": "X-User"}))
        found = set()
        for user in range(16):
            answers = [(await greet.call(x_user=f"user-{user}")).text for _ in range(4)]
            assert len(set(answers)) == 1
            found |= set(answers)
        assert found == {"1", "2"}
        await greet.traffic(split((1, 50), (2, 50), sticky={"key": True}))
        assert len({(await greet.call()).text for _ in range(20)}) == 1
        answer = await greet.traffic(split((2, 100)))
        assert (answer.json()["active"], answer.json()["traffic"]) == (2, None)
        assert {(await greet.call()).text for _ in range(10)} == {"2"}

    async def test_without_a_key_only_where_all_versions_are_public(self, greet: Greet) -> None:
        await greet.upload(answering(b"3"), PUBLIC)
        await greet.upload(answering(b"4"), PUBLIC, activate=False)
        assert (await greet.api.bare.get(CALL)).text == "3"
        await greet.traffic(split((3, 50), (1, 50)))
        assert (await greet.api.bare.get(CALL)).status_code == 401
        await greet.traffic(split((3, 50), (4, 50), sticky={"key": True}))
        assert (await greet.api.bare.get(CALL)).text in ("3", "4")

    async def test_nonsense_is_refused_with_its_field_and_changes_nothing(self, greet: Greet) -> None:
        before = (await greet.get()).json()
        for plan, field in NONSENSE:
            answer = await greet.traffic(plan)
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_traffic"), plan
            assert field in [fault["field"] for fault in answer.json()["errors"]], plan
        malformed: tuple[dict[str, object], ...] = (
            {},
            {"split": 1},
            split((1, 100), extra=1),
            {"split": [{"percent": 1}]},
        )
        for plan in malformed:
            assert (await greet.traffic(plan)).status_code == 400
        assert (await greet.get()).json() == before


class TestPins:
    async def test_a_deploy_key_reaches_any_retained_version_for_one_request(self, greet: Greet) -> None:
        assert (await greet.call(wisp_version="2")).text == "2"
        assert (await greet.call()).text == "1"
        await greet.api.bare.patch(BASE, headers=greet.key, json={"suspended": True})
        assert (await greet.call(wisp_version="2")).json()["code"] == "suspended"
        await greet.api.bare.patch(BASE, headers=greet.key, json={"suspended": False})
        await greet.api.bare.delete(f"{BASE}/versions/2", headers=greet.key)
        gone = await greet.call(wisp_version="2")
        assert (gone.status_code, gone.json()["code"]) == (404, "not_found")
        assert (await greet.call(wisp_version="9")).status_code == 404
        for value in ("0", "-1", "one", "", "9" * 30, "1, 2"):
            assert (await greet.call(wisp_version=value)).status_code == 400, value

    async def test_others_may_not_pin(self, greet: Greet) -> None:
        made = await greet.api.bare.post("/v1/tenants/acme/keys", headers=greet.key, json={"role": "invoke"})
        invoke = bearer(made.json()["secret"])
        assert (await greet.api.bare.get(CALL, headers=invoke)).text == "1"
        pinned = await greet.api.bare.get(CALL, headers=invoke | {"wisp-version": "2"})
        assert (pinned.status_code, pinned.json()["code"]) == (403, "forbidden")
        await greet.upload(answering(b"3"), PUBLIC)
        assert (await greet.api.bare.get(CALL, headers={"wisp-version": "2"})).status_code == 401


class TestGuard:
    async def test_a_failing_candidate_is_taken_back_by_itself_and_says_so(self, greet: Greet) -> None:
        await greet.upload(answering(b"sorry", status=500), activate=False)
        await greet.traffic(split((1, 50), (3, 50), guard=GUARD))
        assert (await greet.get()).json()["traffic"]["guard"] == GUARD
        async with asyncio.timeout(WAIT_S):
            while (await greet.get()).json()["traffic"] is not None:
                await greet.call()
            while {(await greet.call()).text for _ in range(10)} != {"1"}:
                pass
            while "rollback: " not in (await greet.get("/logs")).text:
                await asyncio.sleep(0.05)
        newest = (await greet.get("/history")).json()["items"][0]
        assert (newest["action"], newest["version"], newest["active"], newest["author"]) == ("rollback", 3, 1, "guard")
        assert "requests failed within 60 s" in newest["message"]

    async def test_a_sound_candidate_stays_and_pinned_requests_do_not_count(self, greet: Greet) -> None:
        await greet.upload(handler("unreachable"), activate=False)
        plan = split((1, 98), (3, 2), sticky={"header": "x-user"}, guard=GUARD)
        await greet.traffic(plan)
        for _ in range(10):
            assert (await greet.call(wisp_version="3")).status_code == 500
        stable = "user-0"
        while (await greet.call(x_user=stable)).text != "1":
            stable += "0"
        for _ in range(10):
            assert (await greet.call(x_user=stable)).text == "1"
        await greet.api.node.guards.flush()
        assert (await greet.get()).json()["traffic"] == plan


class TestVersions:
    async def test_one_is_shown_and_deleted_unless_it_answers(self, greet: Greet) -> None:
        shown = await greet.get("/versions/2")
        assert (shown.status_code, shown.json()["version"], shown.json()["active"]) == (200, 2, False)
        assert shown.headers["etag"] == f'"{shown.json()["digest"]}"'
        for number in ("3", "0", "x", "02"):
            assert (await greet.get(f"/versions/{number}")).status_code == 404
        delete = greet.api.bare.delete
        refused = await delete(f"{BASE}/versions/1", headers=greet.key)
        assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
        stale = await delete(f"{BASE}/versions/2", headers=greet.key | {"if-match": f'"sha256:{"0" * 64}"'})
        assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
        gone = await delete(f"{BASE}/versions/2", headers=greet.key | {"if-match": shown.headers["etag"]})
        assert gone.status_code == 204
        assert (await greet.get()).json()["versions"] == [1]

    async def test_the_history_tells_what_for(self, greet: Greet) -> None:
        await greet.upload(answering(b"3"), message="third, naïvely")
        await greet.api.bare.post(f"{BASE}/activate", headers=greet.key, json={"version": 1, "message": "no good"})
        await greet.traffic(split((1, 99), (3, 1), message="once more"))
        items = (await greet.get("/history")).json()["items"]
        assert [(one["action"], one["version"], one["message"]) for one in items] == [
            ("traffic", None, "once more"),
            ("activate", 1, "no good"),
            ("upload", 3, "third, naïvely"),
            ("upload", 2, ""),
            ("upload", 1, ""),
        ]
        assert all(one["author"].startswith("key ") and one["time"].endswith("Z") for one in items)
        assert items[0]["traffic"] == split((1, 99), (3, 1))

        files: dict[str, Any] = {"module": answering(b"9"), "policy": HANDLER_POLICY, "message": (None, b"x" * 501)}
        assert (await greet.api.bare.put(BASE, headers=greet.key, files=files)).status_code == 400
        body = {"version": 2, "message": "x" * 501}
        assert (await greet.api.bare.post(f"{BASE}/activate", headers=greet.key, json=body)).status_code == 400
        assert len((await greet.get("/history")).json()["items"]) == 5


class TestPreconditions:
    async def test_a_writer_who_has_not_seen_the_last_change_is_refused(self, greet: Greet) -> None:
        tag = (await greet.get()).headers["etag"]
        for below in ("", "/versions", "/policy", "/policy?effective=1"):
            assert (await greet.get(below)).headers["etag"] == tag
        changed = await greet.api.bare.post(
            f"{BASE}/activate", headers=greet.key | {"if-match": tag}, json={"version": 2}
        )
        current = changed.headers["etag"]
        assert current != tag
        stale = greet.key | {"if-match": tag}
        files: dict[str, Any] = {"module": answering(b"new"), "policy": HANDLER_POLICY}
        bare = greet.api.bare
        for answer in (
            await bare.put(BASE, headers=stale, files=files),
            await bare.put(f"{BASE}/policy", headers=stale, content=PUBLIC),
            await bare.put(f"{BASE}/traffic", headers=stale, json=split((1, 50), (2, 50))),
            await bare.post(f"{BASE}/activate", headers=stale, json={"version": 1}),
            await bare.patch(BASE, headers=stale, json={"suspended": True}),
            await bare.delete(BASE, headers=stale),
        ):
            assert (answer.status_code, answer.json()["code"]) == (412, "precondition_failed")
        assert (await greet.get()).headers["etag"] == current
        policy = await bare.put(f"{BASE}/policy", headers=greet.key | {"if-match": current}, content=PUBLIC)
        assert (policy.status_code, policy.json()["version"]) == (201, 3)
        assert (await greet.get()).headers["etag"] == policy.headers["etag"]
        assert (await bare.delete(BASE, headers=greet.key | {"if-match": "*"})).status_code == 204

    async def test_a_tenant_has_a_tag_too(self, greet: Greet) -> None:
        operator = greet.api.as_operator
        tag = (await operator.get("/v1/tenants/acme")).headers["etag"]
        first = await operator.patch("/v1/tenants/acme", headers={"if-match": tag}, json={"class": "free"})
        assert (first.status_code, first.headers["etag"] != tag) == (200, True)
        for answer in (
            await operator.patch("/v1/tenants/acme", headers={"if-match": tag}, json={"class": "standard"}),
            await operator.delete("/v1/tenants/acme", headers={"if-match": tag}),
        ):
            assert answer.status_code == 412
        assert (await operator.get("/v1/tenants/acme")).json()["class"] == "free"
        bad = await operator.patch("/v1/tenants/acme", headers={"if-match": "unquoted"}, json={"class": "free"})
        assert bad.status_code == 400


async def test_uploads_deletes_and_a_collection_at_once_leave_whole_versions(greet: Greet) -> None:
    """Whatever the order, each retained version's module is there, and the function answers as its version says."""
    modules = [answering(str(number).encode()) for number in range(3, 9)]

    async def upload(module: bytes) -> None:
        files: dict[str, Any] = {"module": module, "policy": HANDLER_POLICY}
        answer = await greet.api.bare.put(BASE, headers=greet.key, files=files)
        assert answer.status_code in (200, 201), answer.text

    async def delete(number: int) -> None:
        answer = await greet.api.bare.delete(f"{BASE}/versions/{number}", headers=greet.key)
        assert answer.status_code in (204, 404, 409), answer.text

    await asyncio.gather(*map(upload, modules), *map(delete, range(1, 6)), *(greet.call() for _ in range(8)))
    node = greet.api.node
    function = await node.registry.functions.get(parse_tenant("acme"), parse_function("greet"))
    for version in await node.registry.functions.versions(function.tenant, function.name):
        assert await node.stores.blobs.exists(version.module)
        answer = await greet.call(wisp_version=str(version.number))
        assert (answer.status_code, answer.headers["wisp-version"]) == (200, str(version.number))
    assert (await greet.call()).headers["wisp-version"] == str(function.active)
