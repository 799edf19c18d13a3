from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wisp.errors import InvalidFrame
from wisp.wire.channel import MAX_DESCRIPTORS, MAX_FRAME_BYTES, Channel, socket_pair

PATIENCE_S = 10.0


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = socket_pair()
    for sock in (ours, theirs):
        sock.settimeout(PATIENCE_S)
    with ours, theirs:
        yield Channel(ours), Channel(theirs)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def send_raw(channel: Channel, data: bytes, fds: tuple[int, ...] = ()) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    channel.sock.sendmsg([data], rights)


def fill(channel: Channel) -> None:
    for _ in range(10_000):
        channel.send(1, bytes(MAX_FRAME_BYTES - 1))


@given(kind=st.integers(0, 255), payload=st.binary(max_size=500))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_frames_arrive_as_they_were_sent(pair: tuple[Channel, Channel], kind: int, payload: bytes) -> None:
    ours, theirs = pair
    ours.send(kind, payload)
    frame = theirs.receive()
    assert frame is not None
    assert (frame.kind, frame.payload, frame.fds) == (kind, payload, ())


def test_the_largest_frame_fits_and_one_byte_more_is_the_senders_fault(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    ours.send(1, bytes(MAX_FRAME_BYTES - 1))
    frame = theirs.receive()
    assert frame is not None
    assert len(frame.payload) == MAX_FRAME_BYTES - 1
    with pytest.raises(ValueError, match="at most"):
        ours.send(1, bytes(MAX_FRAME_BYTES))


def test_frames_keep_their_borders(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    for payload in (b"one", b"", b"three"):
        ours.send(9, payload)
    received = [theirs.receive() for _ in range(3)]
    assert [frame.payload for frame in received if frame is not None] == [b"one", b"", b"three"]


def test_descriptors_travel_beside_a_frame_and_are_closed_on_exec(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    read_end, write_end = os.pipe()
    ours.send(3, b"pipe", (write_end, read_end))
    os.close(write_end)
    os.close(read_end)
    frame = theirs.receive()
    assert frame is not None
    os.write(frame.fds[0], b"through")
    assert os.read(frame.fds[1], 100) == b"through"
    assert not any(os.get_inheritable(fd) for fd in frame.fds)
    frame.close_fds()


def test_a_truncated_frame_is_refused_and_its_descriptors_closed(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    before = open_descriptors()
    send_raw(ours, bytes(MAX_FRAME_BYTES + 1), (0, 1))
    with pytest.raises(InvalidFrame, match="truncated"):
        theirs.receive()
    assert open_descriptors() == before


def test_too_many_descriptors_are_refused_and_none_stays_open(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    before = open_descriptors()
    send_raw(ours, b"\x01x", (0,) * (MAX_DESCRIPTORS + 1))
    with pytest.raises(InvalidFrame, match="truncated"):
        theirs.receive()
    assert open_descriptors() == before


def test_the_end_of_the_peer_is_the_end(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    ours.send(1, b"last")
    ours.close()
    assert theirs.receive() is not None
    assert theirs.receive() is None
    with pytest.raises(OSError, match=r"."):
        theirs.send(1, b"to nobody")


def test_an_empty_packet_is_taken_for_the_end_and_brings_no_descriptor(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    before = open_descriptors()
    send_raw(ours, b"", (0,))
    assert theirs.receive() is None
    assert open_descriptors() == before


def test_a_non_blocking_end_says_that_there_is_nothing_and_that_its_peer_is_full(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    ours.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.receive()
    with pytest.raises(BlockingIOError):
        fill(ours)
    assert theirs.receive() is not None


def test_a_frame_without_descriptors_arrives_as_it_was_sent_and_whole(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    room = bytearray(MAX_FRAME_BYTES)
    for payload in (bytes(MAX_FRAME_BYTES - 1), b"one", b""):
        ours.send(7, payload)
        assert theirs.receive_bare(room) == (7, payload, ())
    send_raw(ours, bytes(MAX_FRAME_BYTES + 1))
    with pytest.raises(InvalidFrame, match="truncated"):
        theirs.receive_bare(room)
    theirs.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.receive_bare(room)
    ours.close()
    assert theirs.receive_bare(room) is None


def test_descriptors_that_nobody_asked_for_are_closed(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    room = bytearray(MAX_FRAME_BYTES)
    before = open_descriptors()
    for count in (1, MAX_DESCRIPTORS + 1):
        send_raw(ours, b"\x01x", (0,) * count)
        assert theirs.receive_bare(room) == (1, b"x", ())
    assert open_descriptors() == before


def test_closing_twice_is_closing_once(pair: tuple[Channel, Channel]) -> None:
    ours, _ = pair
    ours.close()
    ours.close()
