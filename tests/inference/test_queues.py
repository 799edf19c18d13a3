"""Turn order, as a single thread sees it; the host's tests cover many threads."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from wisp.inference.queues import FairQueue


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    tenant: str
    number: int


def drain(queue: FairQueue[Waiting]) -> list[Waiting]:
    queue.close(1)
    return list(iter(queue.take, None))


def test_a_busy_tenant_delays_another_by_one_job() -> None:
    queue: FairQueue[Waiting] = FairQueue()
    for number in range(100):
        queue.put(Waiting(tenant="busy", number=number))
    queue.put(Waiting(tenant="quiet", number=0))
    assert [job.tenant for job in drain(queue)][:4] == ["busy", "quiet", "busy", "busy"]


def test_a_tenant_that_returns_waits_behind_those_who_wait() -> None:
    queue: FairQueue[Waiting] = FairQueue()
    for tenant in "abc":
        queue.put(Waiting(tenant=tenant, number=0))
    first = queue.take()
    assert first is not None
    assert first.tenant == "a"
    queue.put(Waiting(tenant="a", number=1))
    assert [job.tenant for job in drain(queue)] == ["b", "c", "a"]


@given(st.lists(st.sampled_from("abcd"), max_size=60))
def test_every_job_once_in_its_tenant_s_order_and_nobody_twice_before_all(tenants: list[str]) -> None:
    queue: FairQueue[Waiting] = FairQueue()
    jobs = [Waiting(tenant=tenant, number=number) for number, tenant in enumerate(tenants)]
    for job in jobs:
        queue.put(job)
    taken = drain(queue)
    for tenant in "abcd":
        assert [job for job in taken if job.tenant == tenant] == [job for job in jobs if job.tenant == tenant]
    assert len(taken) == len(jobs)
    distinct = len(set(tenants))
    assert len({job.tenant for job in taken[:distinct]}) == distinct


def test_close_lets_each_taker_go_after_the_jobs() -> None:
    queue: FairQueue[Waiting] = FairQueue()
    queue.put(Waiting(tenant="a", number=0))
    queue.close(2)
    assert queue.take() is not None
    assert queue.take() is None
    assert queue.take() is None
