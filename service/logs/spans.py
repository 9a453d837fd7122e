"""Where keys and values lie in a batch of Kafka's records."""

from __future__ import annotations

import numba
import numpy as np

PARTS = 5


@numba.njit(cache=True, nogil=True)
def _varint(data, at):  # type: ignore[no-untyped-def]
    """A zigzag number of the wire, and where it ends; -1 where it does not (https://protobuf.dev/programming-guides/encoding)."""
    value = np.int64(0)
    for i in range(10):
        if not 0 <= at + i < len(data):
            break
        byte = np.int64(data[at + i])
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return ((value >> 1) & 0x7FFFFFFFFFFFFFFF) ^ -(value & 1), at + i + 1
    return np.int64(0), -1


@numba.njit(cache=True, nogil=True)
def _blob(data, at):  # type: ignore[no-untyped-def]
    """Where bytes that follow their length begin and end, the end -1 if there are none; and where it goes on, -1 if nowhere."""
    length, at = _varint(data, at)
    if length < 0:
        return at, -1, at
    if at < 0 or length > len(data) - at:
        return 0, -1, -1
    return at, at + length, at + length


@numba.njit(cache=True, nogil=True)
def scan(data, at, spans):  # type: ignore[no-untyped-def]
    """Fill `spans` int64 [N, PARTS] from the records that begin at a place of `data` uint8 [bytes] and end with it.

    Of each: offset from the batch's first, start and end of the key, of the value; an end of -1 means that there is none.
    False if one has headers, or anything is wrong (https://kafka.apache.org/documentation/#record).
    """
    for i in range(len(spans)):
        length, at = _varint(data, at)
        end = at + length
        _, at = _varint(data, at)  # attributes, which mean nothing yet
        _, at = _varint(data, at)  # time stamp
        spans[i, 0], at = _varint(data, at)
        spans[i, 1], spans[i, 2], at = _blob(data, at)
        spans[i, 3], spans[i, 4], at = _blob(data, at)
        headers, at = _varint(data, at)
        if at < 0 or at != end or headers != 0:
            return False
    return at == len(data)
