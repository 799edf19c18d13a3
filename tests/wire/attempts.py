"""What broken code would try in a child, run inside of a real one past its walls (`wire.trials`).

Each returns if it worked and raises `OSError` if it did not. All that they need is imported here: past the walls
nothing can be.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Callable

SECRET = ctypes.create_string_buffer(b"a neighbour's secret")
CLONE_NEWUSER = 0x10000000
PTRACE_ATTACH, PTRACE_DETACH = 16, 17
libc = ctypes.CDLL(None, use_errno=True)


class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_size_t), ("length", ctypes.c_size_t))


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def locate_secret() -> int:
    return ctypes.addressof(SECRET)


def read_file(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY))


def create_file(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def connect_tcp(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        sock.connect(("127.0.0.1", port))


def connect_abstract(name: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        sock.connect("\0" + name)


def execute() -> None:
    """Does not return if it works: whoever asked sees the process end with status 0."""
    os.execve("/bin/true", ["true"], {})


def fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def read_memory(pid: int, address: int) -> None:
    got = ctypes.create_string_buffer(len(SECRET))
    local = Iovec(ctypes.addressof(got), len(SECRET))
    remote = Iovec(address, len(SECRET))
    libc.process_vm_readv.restype = ctypes.c_ssize_t
    checked(libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0))
    assert got.raw == SECRET.raw


def open_memory(pid: int, address: int) -> None:
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    assert os.pread(fd, len(SECRET), address) == SECRET.raw
    os.close(fd)


def read_environment(pid: int, _address: int) -> None:
    fd = os.open(f"/proc/{pid}/environ", os.O_RDONLY)
    os.read(fd, 100)
    os.close(fd)


def trace(pid: int, _address: int) -> None:
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    libc.ptrace.restype = ctypes.c_long
    checked(libc.ptrace(PTRACE_ATTACH, pid, None, None))
    os.waitpid(pid, 0)
    checked(libc.ptrace(PTRACE_DETACH, pid, None, None))


def signal(pid: int, _address: int) -> None:
    os.kill(pid, 0)


def become_root() -> None:
    os.setresuid(0, 0, 0)


def unshare() -> None:
    """The kernel wants a process of one thread for it, which a sandbox is not: else in a child of its own."""
    try:
        checked(libc.unshare(CLONE_NEWUSER))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        pid = os.fork()
        if pid == 0:
            os._exit(0 if libc.unshare(CLONE_NEWUSER) == 0 else ctypes.get_errno())
        if failed := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            raise OSError(failed, os.strerror(failed)) from error


def make_code() -> None:
    """Memory that can be written and executed."""
    libc.mmap.restype = ctypes.c_ssize_t
    checked(libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0)))


ATTEMPTS: dict[str, Callable[..., object]] = {
    attempt.__name__: attempt
    for attempt in (
        locate_secret,
        read_file,
        create_file,
        connect_tcp,
        connect_abstract,
        execute,
        fork,
        read_memory,
        open_memory,
        read_environment,
        trace,
        signal,
        become_root,
        unshare,
        make_code,
    )
}
