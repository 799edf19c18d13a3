"""The filter, run instruction by instruction as seccomp(2) says, for both architectures."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest

from wisp.wire.seccomp import ALLOW, ARCHITECTURES, KILL_PROCESS, REFUSE, UNKNOWN, Code, assemble, conditions
from wisp.wire.syscalls import ALLOWED, HOSTILE, NUMBERS

PID = 4711
HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}
MACHINES = list(ARCHITECTURES)
HIGH = 1 << 32


def judge(program: bytes, number: int, architecture: int, arguments: tuple[int, ...]) -> int:
    """What the kernel would do with this call."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    steps = list(struct.iter_unpack("<HBBI", program))
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        if code == 0x06:
            return int(value)
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x54:
            accumulator &= value
        elif code == 0x15:
            at += if_true if accumulator == value else if_false
        elif code == 0x35:
            at += if_true if accumulator >= value else if_false
        else:
            raise AssertionError(f"instruction {code:#x}")


def verdict(machine: str, name: str, *arguments: int, code: Code = Code.NONE) -> int:
    program = assemble(machine, allowed=ALLOWED, hostile=HOSTILE, conditional=conditions(PID, code))
    column, architecture = ARCHITECTURES[machine]
    number = NUMBERS[name][column]
    assert number is not None
    return judge(program, number, architecture, arguments)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_named_call_gets_what_its_list_says(machine: str) -> None:
    column, architecture = ARCHITECTURES[machine]
    program = assemble(machine, allowed=ALLOWED, hostile=HOSTILE, conditional=conditions(PID, Code.ANY))
    named = {numbers[column]: name for name, numbers in NUMBERS.items()}
    for number in range(1000):
        name = named.get(number)
        result = judge(program, number, architecture, ())
        if name in ALLOWED:
            assert result == ALLOW, name
        elif name in HOSTILE:
            assert result == KILL_PROCESS, name
        elif name is None or name == "socket":
            assert result == REFUSE, number
    assert judge(program, 0, architecture ^ 1, ()) == KILL_PROCESS
    assert judge(program, 0x40000000, architecture, ()) in (KILL_PROCESS, REFUSE)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("openat", (0, 0, 0o2000000), ALLOW),
        ("openat", (0, 0, 1), REFUSE),
        ("openat", (0, 0, 2), REFUSE),
        ("openat", (0, 0, 0o100), REFUSE),
        ("openat", (0, 0, 0o1000), REFUSE),
        ("clone", (0x3D0F00,), ALLOW),
        ("clone", (0x11,), REFUSE),
        ("clone", (0x3D0F00 | 0x40000000,), REFUSE),
        ("clone3", (), UNKNOWN),
        ("tgkill", (PID, 5, 6), ALLOW),
        ("tgkill", (1, 1, 9), REFUSE),
        ("ioctl", (1, 0x5421), ALLOW),
        ("ioctl", (1, 0x5412), REFUSE),
        ("fcntl", (1, 1034), ALLOW),
        ("fcntl", (1, 8, 1), REFUSE),
        ("prctl", (15,), ALLOW),
        ("prctl", (4, 1), REFUSE),
        ("prlimit64", (0, 3, 0, 1), ALLOW),
        ("prlimit64", (1, 3, 0, 1), REFUSE),
        ("prlimit64", (0, 3, 1, 0), REFUSE),
        ("prlimit64", (0, 3, HIGH, 0), REFUSE),
        ("mmap", (0, 4096, 3), ALLOW),
        ("mmap", (0, 4096, 5), REFUSE),
        ("mprotect", (0, 4096, 4), REFUSE),
    ],
)
def test_arguments_decide_where_they_can_be_seen(
    machine: str, name: str, arguments: tuple[int, ...], result: int
) -> None:
    assert verdict(machine, name, *arguments) == result


@pytest.mark.parametrize(
    ("code", "allowed"), [(Code.NONE, {0, 1, 2, 3}), (Code.COMPILED, {0, 1, 2, 3, 4, 5}), (Code.ANY, set(range(8)))]
)
def test_who_may_make_code(code: Code, allowed: set[int]) -> None:
    for call in ("mmap", "mprotect"):
        assert {p for p in range(8) if verdict("x86_64", call, 0, 0, p, code=code) == ALLOW} == allowed


def test_a_machine_that_is_not_known_gets_no_filter() -> None:
    with pytest.raises(OSError, match="riscv64") as raised:
        assemble("riscv64", allowed=(), hostile=(), conditional={})
    assert raised.value.errno == errno.ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_the_headers(machine: str) -> None:
    header = Path(HEADERS[machine])
    if not header.exists():
        pytest.skip(f"{header} is not there: install the kernel's headers for user space")
    defined = {}
    for line in header.read_text().splitlines():
        match line.split():
            case ["#define", name, value] if name.startswith("__NR") and value.isdigit():
                defined[name.removeprefix("__NR3264").removeprefix("__NR").removeprefix("_")] = int(value)
    if machine == "aarch64":
        defined["newfstatat"] = defined["fstatat"]
    column = ARCHITECTURES[machine][0]
    assert {name: numbers[column] for name, numbers in NUMBERS.items()} == {name: defined.get(name) for name in NUMBERS}
