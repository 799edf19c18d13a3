"""Amounts and times as a policy writes them: `2G`, `64Mi`, `300ms`, `2s`; read to whole numbers and printed back.

`k M G T` are decimal, `Ki Mi Gi Ti` binary. Times are whole `ms` or `s` and are kept in nanoseconds, so that no
rounding ever widens a limit. `parse_*(print_*(n)) == n` for every amount, and for every time in whole milliseconds.
"""

from __future__ import annotations

import re

MAX_AMOUNT = 2**63 - 1
"""The largest amount read: what a signed 64-bit integer holds, in Redis and in a frame."""

PAGE_BYTES = 64 * 1024
"""One page of wasm memory."""

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

_SUFFIXES = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_AMOUNT = re.compile(r"(0|[1-9][0-9]{0,18})(k|M|G|T|Ki|Mi|Gi|Ti|)", re.ASCII)
_TIME = re.compile(r"(0|[1-9][0-9]{0,9})(ms|s)", re.ASCII)

AMOUNT_RULE = "a whole number, alone or followed by one of k M G T (decimal) Ki Mi Gi Ti (binary)"
TIME_RULE = "a whole number followed by ms or s"


def parse_amount(text: str) -> int:
    """`64Mi` -> 67108864. Raises ValueError with the rule."""
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ValueError(f"expected {AMOUNT_RULE}")
    amount = int(match[1]) * _SUFFIXES[match[2]]
    if amount > MAX_AMOUNT:
        raise ValueError("expected at most 2^63-1")
    return amount


def parse_time_ns(text: str) -> int:
    """`300ms` -> 300000000. Raises ValueError with the rule."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"expected {TIME_RULE}")
    return int(match[1]) * (NS_PER_MS if match[2] == "ms" else NS_PER_S)


def print_amount(amount: int) -> str:
    """A count, in decimal: 2000000000 -> `2G`."""
    return _print(amount, ("T", "G", "M", "k"))


def print_size(amount_bytes: int) -> str:
    """A number of bytes, in binary: 67108864 -> `64Mi`."""
    return _print(amount_bytes, ("Ti", "Gi", "Mi", "Ki"))


def print_time(time_ns: int) -> str:
    """Nanoseconds, rounded down to whole milliseconds: 2000000000 -> `2s`."""
    milliseconds = time_ns // NS_PER_MS
    if milliseconds % 1000 == 0 and milliseconds:
        return f"{milliseconds // 1000}s"
    return f"{milliseconds}ms"


def _print(amount: int, suffixes: tuple[str, ...]) -> str:
    for suffix in suffixes:
        factor = _SUFFIXES[suffix]
        if amount and amount % factor == 0:
            return f"{amount // factor}{suffix}"
    return str(amount)
