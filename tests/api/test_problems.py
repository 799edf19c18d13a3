"""Completeness: every refusal and every outcome has its status, and the statuses are those that DESIGN promises."""

from __future__ import annotations

import gc
import json
import weakref

import pytest

from wisp import errors as e
from wisp.api.openapi import codes
from wisp.api.problems import OUTCOMES, TITLES, Problem, internal_error, problem_of, status_of
from wisp.wire.outcome import Outcome

PROMISED = {
    "invalid_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "suspended": 403,
    "not_found": 404,
    "function_not_found": 404,
    "request_timeout": 408,
    "conflict": 409,
    "in_use": 409,
    "policy_from_file": 409,
    "precondition_failed": 412,
    "request_too_large": 413,
    "invalid_name": 422,
    "invalid_module": 422,
    "invalid_policy": 422,
    "invalid_model": 422,
    "exceeds_ceiling": 422,
    "invalid_traffic": 422,
    "rate_limited": 429,
    "too_many_inflight": 429,
    "quota_exceeded": 429,
    "storage_quota": 429,
    "overloaded": 503,
    "queue_timeout": 503,
    "model_loading": 503,
    "child_lost": 503,
    "registry_unavailable": 503,
    "blob_unavailable": 503,
    "inference_failed": 500,
    "remote_unavailable": 503,
    "remote_failed": 502,
    "remote_timeout": 504,
    "guest_trap": 500,
    "guest_exit": 500,
    "fuel_exhausted": 500,
    "memory_exceeded": 500,
    "capability_denied": 500,
    "deadline_exceeded": 504,
    "inference_timeout": 504,
    "invalid_guest_response": 502,
    "response_too_large": 502,
}


def family(error: type[e.WispError]) -> list[type[e.WispError]]:
    return [error, *(found for child in error.__subclasses__() for found in family(child))]


@pytest.mark.parametrize("error", family(e.WispError), ids=lambda error: error.__name__)
def test_each_error_has_the_promised_status(error: type[e.WispError]) -> None:
    inner = error.code in ("internal_error", "invalid_settings", "invalid_frame")
    if error is e.Rejected:
        assert status_of(error) == 422
    else:
        assert status_of(error) == (500 if inner else PROMISED[error.code])


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.OK])
def test_each_outcome_has_the_promised_status(outcome: Outcome) -> None:
    status, source, detail = OUTCOMES[outcome]
    assert status == PROMISED[outcome.value]
    assert source == ("platform" if outcome is Outcome.CHILD_LOST else "guest")
    assert detail


def test_each_promised_code_can_be_answered_and_is_described() -> None:
    assert set(PROMISED) | {"internal_error", "method_not_allowed", "http_version_not_supported"} == set(codes())


def test_each_status_has_a_title() -> None:
    assert set(PROMISED.values()) <= set(TITLES)


def test_a_problem_carries_faults_limits_and_when_to_come_again() -> None:
    faults = (e.Fault(field="limits.fuel", message="too much", line=3, column=9, asked="30G", allowed="20G"),)
    problem = json.loads(problem_of(e.ExceedsCeiling("above the ceiling", faults)).body("r1"))
    assert problem["errors"] == [
        {"field": "limits.fuel", "message": "too much", "line": 3, "column": 9, "asked": "30G", "allowed": "20G"}
    ]
    assert (problem["status"], problem["code"], problem["request_id"]) == (422, "exceeds_ceiling", "r1")
    limited = problem_of(e.RateLimited("too fast", retry_after_s=7, limit=100, used=130))
    headers = dict(limited.headers("r2"))
    assert headers[b"retry-after"] == b"7"
    assert headers[b"ratelimit-policy"] == b'"rate_limited";q=100'
    assert headers[b"ratelimit"] == b'"rate_limited";r=0;t=7'
    assert headers[b"wisp-error"] == b"rate_limited; source=platform"
    assert json.loads(limited.body("r2"))["limit"] == 100


def test_a_401_says_how_to_authenticate() -> None:
    assert (b"www-authenticate", b'Bearer realm="wisp"') in problem_of(e.Unauthorized("a key")).headers("r")


def test_an_internal_error_says_nothing() -> None:
    problem: Problem = internal_error()
    assert json.loads(problem.body("r"))["detail"] == "the platform failed; its operator can find the request id"


class Body:
    """Something large."""


def test_a_problem_keeps_nothing_of_the_request_that_was_refused() -> None:
    kept: list[weakref.ref[Body]] = []

    def refuse() -> None:
        body = Body()
        kept.append(weakref.ref(body))
        raise e.TooManyInflight("no room", limit=1, used=1)

    def answer() -> Problem:
        try:
            refuse()
        except e.WispError as error:
            problem = problem_of(error)
        return problem

    gc.disable()
    try:
        problem = answer()
        assert kept[0]() is None
    finally:
        gc.enable()
    assert dict(problem.headers("r"))[b"ratelimit"] == b'"too_many_inflight";r=0;t=1'
