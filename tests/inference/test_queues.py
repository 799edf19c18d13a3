"""Turn order, as a single thread sees it; the host's tests cover many threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from wisp.inference.queues import PART_ROWS, FairQueue

MS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    tenant: str
    number: int = 0
    weight: int = 1
    model: str = "m"
    rows: int = 1
    max_rows: int = 0
    batch: Hashable | None = None


def row(tenant: str, *, number: int = 0, rows: int = 1, weight: int = 1, batch: str = "b", most: int = 8) -> Waiting:
    return Waiting(tenant=tenant, number=number, rows=rows, weight=weight, batch=batch, max_rows=most)


def filled(*jobs: Waiting, threads: int = 1) -> FairQueue[Waiting]:
    queue: FairQueue[Waiting] = FairQueue(threads)
    for job in jobs:
        queue.put(job)
    return queue


def drain(queue: FairQueue[Waiting], row_ms: dict[str, int] | None = None) -> list[Waiting]:
    """One after the other, as one thread runs them; a row costs 1 ms where nothing else is said."""
    order = []
    while batch := queue.take():
        order += batch
        queue.done(batch, sum(job.rows * (row_ms or {}).get(job.model, 1) * MS for job in batch))
    return order


def tenants(batch: list[Waiting]) -> dict[str, int]:
    return dict(Counter(job.tenant for job in batch))


def test_a_busy_tenant_delays_another_by_one_job() -> None:
    queue = filled(*(Waiting(tenant="busy", number=number) for number in range(100)), Waiting(tenant="quiet"))
    assert [job.tenant for job in drain(queue)][:4] == ["busy", "quiet", "busy", "busy"]


def test_a_tenant_that_returns_waits_behind_those_who_wait() -> None:
    queue = filled(*(Waiting(tenant=tenant) for tenant in "abc"))
    first = queue.take()
    assert [job.tenant for job in first] == ["a"]
    queue.done(first, MS)
    queue.put(Waiting(tenant="a", number=1))
    assert [job.tenant for job in drain(queue)] == ["b", "c", "a"]


def test_rows_are_shared_by_weight() -> None:
    queue = filled(*(Waiting(tenant=tenant, weight=4 if tenant == "a" else 1) for tenant in "ab" for _ in range(100)))
    share = tenants(drain(queue)[:50])
    assert 36 <= share["a"] <= 44


def test_a_job_of_many_rows_costs_its_tenant_as_many_turns() -> None:
    queue = filled(*(Waiting(tenant="a", rows=10) for _ in range(3)), *(Waiting(tenant="b") for _ in range(30)))
    order = [job.tenant for job in drain(queue)]
    between = [len(run) for run in "".join(order).split("a")]
    assert between[1:3] == [10, 10]


def test_a_tenant_with_a_slow_model_does_not_get_the_time_of_many_with_quick_ones() -> None:
    slow = (Waiting(tenant="a", model="slow") for _ in range(20))
    queue = filled(*slow, *(Waiting(tenant="b", model="quick") for _ in range(400)))
    order = drain(queue, {"slow": 20})
    learnt = [job.tenant for job in order[60:260]]  # by now the queue knows what they cost
    assert 5 <= learnt.count("a") <= 25


def test_what_waits_leaves_in_even_parts_for_the_threads_that_are_free() -> None:
    queue = filled(*(row("a", most=32) for _ in range(30)), row("b", most=32), row("c", most=32), threads=2)
    first, second = queue.take(), queue.take()
    assert (len(first), len(second), queue.length) == (16, 16, 0)
    assert tenants(first).keys() == {"a", "b", "c"}


def test_what_runs_already_counts_where_the_same_is_taken_again() -> None:
    queue = filled(row("a", most=64), threads=2)
    alone = queue.take()
    for _ in range(31):
        queue.put(row("b", most=64))
    assert len(queue.take()) == 16, "one of 32 runs, so the other thread leaves it 15 more"
    queue.done(alone, MS)
    assert len(queue.take()) == 15


def test_a_thread_that_runs_something_else_is_left_no_part() -> None:
    queue = filled(Waiting(tenant="a", model="n"), *(row("b", most=32) for _ in range(32)), threads=2)
    assert [job.model for job in queue.take()] == ["n"]
    assert len(queue.take()) == 32


def test_rows_of_another_shape_are_no_part_of_it() -> None:
    queue = filled(*(row("a", batch=shape, most=32) for shape in "bbbbbbbbbbccccccccccccccccccccc"), threads=2)
    assert len(queue.take()) == PART_ROWS


def test_a_few_rows_are_not_parted() -> None:
    queue = filled(*(row("a", most=32) for _ in range(PART_ROWS)), threads=4)
    assert len(queue.take()) == PART_ROWS


def test_only_what_waits_for_the_same_model_in_the_same_shape_leaves_together() -> None:
    other = Waiting(tenant="a", model="n", batch="b", max_rows=8)
    queue = filled(row("a"), row("b", batch="c"), other, row("b"), Waiting(tenant="a"))
    batch = queue.take()
    assert [(job.tenant, job.model, job.batch) for job in batch] == [("a", "m", "b"), ("b", "m", "b")]


def test_a_batch_takes_no_more_rows_than_its_model_may_have() -> None:
    queue = filled(row("a", rows=3), row("a", rows=4), row("a", rows=2), row("b", rows=1, number=7))
    batch = queue.take()
    assert sum(job.rows for job in batch) <= 8
    assert any(job.tenant == "b" for job in batch)


def test_each_tenant_has_its_share_of_a_batch() -> None:
    queue = filled(*(row("a", number=number) for number in range(50)), *(row("b", weight=3) for _ in range(50)))
    assert tenants(queue.take()) == {"a": 3, "b": 5}


def test_one_row_of_a_minority_is_in_the_next_batch() -> None:
    queue = filled(*(row("a", number=number, most=32) for number in range(100)), row("b", most=32))
    assert tenants(queue.take()) == {"a": 31, "b": 1}


def test_a_tenant_without_a_thread_gets_one_more_than_there_are() -> None:
    queue = filled(*(Waiting(tenant="a") for _ in range(5)), threads=2)
    assert [len(queue.take()) for _ in range(3)] == [1, 1, 0]
    queue.put(Waiting(tenant="b"))
    queue.put(Waiting(tenant="b"))
    assert queue.may_run
    assert tenants(queue.take()) == {"b": 1}
    assert not queue.may_run
    assert queue.take() == []


def test_a_tenant_with_all_threads_but_one_gets_no_further_while_another_waits() -> None:
    queue = filled(*(Waiting(tenant="a") for _ in range(5)), *(Waiting(tenant="b") for _ in range(5)), threads=3)
    running = [queue.take() for _ in range(3)]
    assert sorted(batch[0].tenant for batch in running) == ["a", "a", "b"] or len(running) == 3
    for batch in running:
        queue.done(batch, MS)
    queue = filled(*(Waiting(tenant="a") for _ in range(5)), threads=3)
    assert queue.take()
    assert queue.take()
    queue.put(Waiting(tenant="b"))
    assert tenants(queue.take()) == {"b": 1}


def test_who_owed_something_owes_nothing_once_nobody_waits() -> None:
    queue = filled(Waiting(tenant="a", rows=1000))
    drain(queue)
    for _ in range(5):
        queue.put(Waiting(tenant="a"))
        queue.put(Waiting(tenant="b"))
    assert [job.tenant for job in drain(queue)][:2] == ["a", "b"]


def test_what_was_discarded_is_never_taken() -> None:
    jobs = [row("a", number=number) for number in range(6)]
    queue = filled(*jobs)
    queue.discard(jobs[0])
    queue.discard(jobs[3])
    queue.discard(jobs[3])
    assert [job.number for job in drain(queue)] == [1, 2, 4, 5]
    assert queue.length == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from("mn"), st.integers(1, 4), st.sampled_from(["", "x", "y"])),
        max_size=60,
    ),
    st.integers(1, 3),
)
def test_every_job_once_and_each_tenants_in_order(kinds: list[tuple[str, str, int, str]], threads: int) -> None:
    jobs = [
        Waiting(tenant=tenant, number=number, model=model, rows=rows, batch=batch or None, max_rows=8)
        for number, (tenant, model, rows, batch) in enumerate(kinds)
    ]
    queue = filled(*jobs, threads=threads)
    taken = drain(queue)
    assert sorted(job.number for job in taken) == list(range(len(jobs)))
    assert queue.length == 0
    for tenant in "abcd":
        for model in "mn":
            for batch in (None, "x", "y"):
                same = [job.number for job in taken if (job.tenant, job.model, job.batch) == (tenant, model, batch)]
                assert all(job.rows == 1 for job in taken) <= (same == sorted(same))
