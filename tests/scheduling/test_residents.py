"""Who leaves when the memory for models is full."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wisp.names import Digest
from wisp.scheduling.residents import MIB, Residents

A, B, C, D = (Digest(f"sha256:{letter * 64}") for letter in "abcd")


def holding(budget_mib: int, **sizes_mib: int) -> Residents:
    residents = Residents(budget_mib * MIB)
    for letter, size_mib in sizes_mib.items():
        residents.put(Digest(f"sha256:{letter * 64}"), size_mib * MIB, load_ms=100)
    return residents


def test_what_was_used_longest_ago_leaves_first() -> None:
    residents = holding(3, a=1, b=1, c=1)
    assert residents.evict_for(MIB) == (A,)
    residents.put(D, MIB, load_ms=100)
    residents.give_back(residents.lease((B,)))
    assert residents.evict_for(MIB) == (C,)


def test_what_is_large_leaves_before_what_is_small() -> None:
    residents = holding(10, a=1, b=8, c=1)
    assert residents.evict_for(MIB) == (B,)


def test_what_takes_long_to_open_stays_longer() -> None:
    residents = Residents(2 * MIB)
    residents.put(A, MIB, load_ms=5000)
    residents.put(B, MIB, load_ms=5)
    assert residents.evict_for(MIB) == (B,)


def test_what_is_never_used_again_leaves_in_the_end_whatever_it_cost() -> None:
    residents = Residents(2 * MIB)
    residents.put(A, MIB, load_ms=300)
    for turn in range(100):
        fresh = Digest(f"sha256:{turn:064}")
        leaving = residents.evict_for(MIB)
        assert leaving is not None
        if A in leaving:
            return
        residents.put(fresh, MIB, load_ms=50)
    raise AssertionError("it never left")


def test_a_leased_model_stays_and_nobody_leaves_in_vain() -> None:
    residents = holding(2, a=1, b=1)
    leased = residents.lease((A,))
    assert residents.evict_for(2 * MIB) is None
    assert B in residents
    assert residents.evict_for(MIB) == (B,)
    residents.give_back(leased)
    assert residents.evict_for(2 * MIB) == (A,)


def test_a_lease_of_a_former_host_takes_nothing_from_the_next() -> None:
    residents = holding(1, a=1)
    former = residents.lease((A,))
    residents.clear()
    residents.put(A, MIB)
    residents.lease((A,))
    residents.give_back(former)
    assert residents.evict_for(MIB) is None


def test_a_better_known_size_counts() -> None:
    residents = holding(4, a=1)
    residents.put(A, 3 * MIB, load_ms=100)
    assert residents.used_bytes == 3 * MIB
    residents.drop(A)
    assert residents.used_bytes == 0


@given(st.lists(st.tuples(st.sampled_from([A, B, C, D]), st.integers(1, 5), st.booleans()), max_size=40))
def test_the_budget_holds_for_whoever_asks_first(uses: list[tuple[Digest, int, bool]]) -> None:
    residents = Residents(8 * MIB)
    for digest, size_mib, leases in uses:
        if digest not in residents:
            if residents.evict_for(size_mib * MIB) is None:
                continue
            residents.put(digest, size_mib * MIB, load_ms=size_mib)
        if leases:
            residents.lease((digest,))
        assert 0 <= residents.used_bytes <= 8 * MIB
