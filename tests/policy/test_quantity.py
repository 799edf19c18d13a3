from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisp.policy.quantity import (
    MAX_AMOUNT,
    NS_PER_MS,
    parse_amount,
    parse_time_ns,
    print_amount,
    print_size,
    print_time,
)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("1", 1),
        ("2k", 2_000),
        ("3M", 3_000_000),
        ("2G", 2_000_000_000),
        ("10T", 10**13),
        ("1Ki", 1024),
        ("64Mi", 64 * 2**20),
        ("4Gi", 2**32),
        ("1Ti", 2**40),
        (str(MAX_AMOUNT), MAX_AMOUNT),
    ],
)
def test_amounts(text: str, amount: int) -> None:
    assert parse_amount(text) == amount


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "G",
            "-1",
            "+1",
            "1.5G",
            "1e3",
            "1K",
            "1KB",
            "1m",
            "1 G",
            " 1",
            "1\n",
            "01",
            "1_0",
            "0x1",
            "\uff11",
            "1Gib",
            "inf",
        ),
        *(str(MAX_AMOUNT + 1), "9999999999999999999T", "9" * 5000),
    ],
)
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_amount(text)


@pytest.mark.parametrize(("text", "ns"), [("1ms", 10**6), ("300ms", 3 * 10**8), ("2s", 2 * 10**9), ("0ms", 0)])
def test_times(text: str, ns: int) -> None:
    assert parse_time_ns(text) == ns


@pytest.mark.parametrize("text", ["", "1", "s", "1.5s", "-1s", "1 s", "1m", "1us", "01s", "1s\n", "1S", "9" * 40 + "s"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_time_ns(text)


def test_printing() -> None:
    assert print_amount(2_000_000_000) == "2G"
    assert print_amount(1_500) == "1500"
    assert print_size(64 * 2**20) == "64Mi"
    assert print_size(0) == "0"
    assert print_time(2_000_000_000) == "2s"
    assert print_time(1_500_000_000) == "1500ms"


@given(st.integers(0, MAX_AMOUNT))
def test_printed_amounts_read_back(amount: int) -> None:
    assert parse_amount(print_amount(amount)) == amount
    assert parse_amount(print_size(amount)) == amount


@given(st.integers(0, 10**10 - 1))
def test_printed_times_read_back(milliseconds: int) -> None:
    assert parse_time_ns(print_time(milliseconds * NS_PER_MS)) == milliseconds * NS_PER_MS
