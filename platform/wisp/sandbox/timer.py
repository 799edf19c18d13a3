"""The deadline of a running guest: a kernel timer whose notification advances the engine's epoch, without Python.

A ticker written in Python fired seconds late under load, since it needs the GIL that a host call may hold. Here
timer_create(2) with SIGEV_THREAD makes the C library call `wasmtime_engine_increment_epoch` itself. The timer is armed
only while a guest runs: first at the deadline, then every few milliseconds until it is disarmed, so a request that is
in time causes no tick at all.
"""

from __future__ import annotations

import ctypes
from typing import Final

from wisp.sandbox import capi

CLOCK_MONOTONIC: Final = 1
SIGEV_THREAD: Final = 2
TIMER_ABSTIME: Final = 1
REPEAT_NS: Final = 2_000_000
EPOCH_TICKS: Final = 3
"""A guest ends at the third tick after its start. A notification thread that was slow to start may deliver a former
guest's tick late; this many of them would have to pile up to end the next one early."""
NS: Final = 1_000_000_000


class _SigEvent(ctypes.Structure):
    """struct sigevent as <bits/types/sigevent_t.h> lays it out on 64-bit Linux; 64 bytes in all."""

    _fields_ = (
        ("value", ctypes.c_size_t),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_size_t),
        ("attribute", ctypes.c_size_t),
        ("padding", ctypes.c_char * 32),
    )


class _TimeSpec(ctypes.Structure):
    _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


_libc = ctypes.CDLL(None, use_errno=True)
_settime = ctypes.PyDLL(None).timer_settime


class DeadlineTimer:
    """Owns one kernel timer. `close` before the engine is freed: a late tick would touch freed memory."""

    def __init__(self, engine: int) -> None:
        event = _SigEvent(value=engine, notify=SIGEV_THREAD, function=capi.INCREMENT_EPOCH)
        self._timer = ctypes.c_void_p()
        if _libc.timer_create(CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._timer)) != 0:
            raise OSError(ctypes.get_errno(), "timer_create")
        self._armed = _TimerSpec(interval=_TimeSpec(0, REPEAT_NS))
        self._disarmed = _TimerSpec()
        self._armed_at = ctypes.byref(self._armed)
        self._disarmed_at = ctypes.byref(self._disarmed)
        self._value = self._armed.value

    def arm(self, deadline_ns: int) -> None:
        """`deadline_ns` on CLOCK_MONOTONIC; one that has passed already ticks at once."""
        value = self._value
        value.s, value.ns = divmod(deadline_ns if deadline_ns > 0 else 1, NS)
        if _settime(self._timer, TIMER_ABSTIME, self._armed_at, None) != 0:
            raise OSError("timer_settime")

    def disarm(self) -> None:
        _settime(self._timer, 0, self._disarmed_at, None)

    def close(self) -> None:
        if self._timer:
            _libc.timer_delete(self._timer)
            self._timer = ctypes.c_void_p()
