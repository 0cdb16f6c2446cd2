# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from airflow_workpools.infrastructure.process.frames import FrameBuffer, encode

FRAMES = st.lists(
    st.dictionaries(st.text(max_size=5), st.one_of(st.text(), st.integers(), st.none()), max_size=3)
)


@given(FRAMES, st.lists(st.integers(min_value=1, max_value=7), min_size=1))
def test_frames_arrive_whole_and_in_order_whatever_pieces_they_come_in(
    frames: list[dict[str, Any]], sizes: list[int]
) -> None:
    data = b"".join(encode(frame) for frame in frames)
    buffer, position, turn = FrameBuffer(), 0, 0
    received: list[Any] = []
    while position < len(data):
        size = sizes[turn % len(sizes)]
        received += buffer.feed(data[position : position + size])
        position, turn = position + size, turn + 1
    assert received == frames


def test_a_frame_may_be_large() -> None:
    frame = {"workload": "x" * 10_000_000}
    assert list(FrameBuffer().feed(encode(frame))) == [frame]
