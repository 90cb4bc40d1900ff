"""What is decided about streams, on plain data: where windows lie, what comes next, who waits and who is refused."""

import pytest

from pipeline import policy
from pipeline.policy import PieceWindows, Standing, StreamWindow, WindowPlan

GPU, CPU = WindowPlan.of((32, 1664), True, True, (1, 1664)), WindowPlan.of((32, 384), False, False, (1, 1664))
EQUAL = WindowPlan.of((32, 1664), True, False, (1, 1664))
ONE_WINDOW = WindowPlan.of((32, 48), False, False, (1, 1664))


def streamed(plan: WindowPlan, total: int, speed: float, block: int) -> list[tuple[StreamWindow, int]]:
    """The windows of a piece of so many frames, each as soon as it is ready, with the frames decoded by then. What the
    postnet sees is checked on the way."""
    windows, found = PieceWindows(plan, speed), []
    decoded = refined = oldest = 0
    while not windows.finished:
        decoded += block
        end = total if decoded >= total else None
        while windows.ready(min(decoded, total), end):
            window = windows.next(end)
            needed = policy.frames_needed(window.stop, speed)
            now = min(decoded, total)
            for refine in policy.frames_to_refine(needed, refined, end, plan.refined):
                assert refine.keep_start == refined
                assert refine.start == 0 or refine.keep_start - refine.start >= policy.POSTNET_CONTEXT
                assert refine.stop == end or min(refine.stop, now) - refine.keep_stop >= policy.POSTNET_CONTEXT
                assert oldest <= refine.start
                assert refine.size == (plan.refined or refine.size) or refine.size == end
                refined = refine.keep_stop
            oldest = max(0, refined - (plan.refined or policy.POSTNET_CONTEXT))
            assert refined >= min(needed, total)
            windows.advance(window)
            found.append((window, min(decoded, total)))
    return found


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("plan", [GPU, EQUAL, CPU], ids=["gpu", "gpu, equal windows", "cpu"])
def test_windows_keep_every_frame_once_with_context_around(plan: WindowPlan, speed: float) -> None:
    for total in (1, 9, 63, 64, 65, 96, 120, 250, 700, 1664):
        for block in (4, 16, 128):
            windows = [window for window, _ in streamed(plan, total, speed, block)]
            edges = [0, *(window.keep_stop for window in windows)]
            assert [window.keep_start for window in windows] == edges[:-1]
            assert edges[-1] == policy.frames_at_speed(total, speed)
            assert [window.first for window in windows] == [True] + [False] * (len(windows) - 1)
            assert [window.last for window in windows] == [False] * (len(windows) - 1) + [True]
            for window in windows:
                assert window.size in plan.sizes
                assert window.start == max(0, window.keep_start - plan.context)
                assert window.start + window.size >= window.keep_stop + (12 if window.last else plan.context)


def test_what_is_decoded_at_a_time_changes_no_window_but_the_last() -> None:
    """Random numbers and shapes belong to windows: only where an end is known early may fewer be needed."""
    by_block = [[window for window, _ in streamed(CPU, 700, 1.0, block)][:-2] for block in (1, 4, 16)]
    assert by_block[0] == by_block[1] == by_block[2]


def test_the_first_window_comes_as_soon_as_the_postnet_has_its_context() -> None:
    for plan in (GPU, CPU):
        (first, decoded), *_ = streamed(plan, 1000, 1.0, block=1)
        assert decoded == plan.schedule[0] + policy.POSTNET_CONTEXT
        assert first.keep_stop == plan.schedule[0] - plan.context


def test_without_room_for_context_a_piece_is_one_window() -> None:
    ((window, decoded),) = streamed(ONE_WINDOW, 30, 1.0, block=4)
    assert (window.start, window.stop, window.size, decoded) == (0, 30, 48, 30)


NEW, NEWER = Standing(1.0), Standing(2.0)
AHEAD = Standing(0.0, first_audio=3.0, delivered=20.0)
BEHIND = Standing(0.5, first_audio=4.0, delivered=1.0)


def test_slots_go_to_those_that_have_waited_longest() -> None:
    now = 10.0
    assert policy.admitted([NEWER, NEW], [AHEAD, BEHIND], 4, now) == [NEW, NEWER, BEHIND, AHEAD]
    assert policy.admitted([NEWER, NEW], [AHEAD, BEHIND], 2, now) == [NEW, NEWER]
    assert policy.admitted([NEW], [BEHIND], 0, now) == policy.admitted([NEW], [], -1, now) == []
    silent = Standing(0.0)  # its first piece gave no audio yet: it counts from now
    assert policy.admitted([], [silent, BEHIND], 2, now) == [BEHIND, silent]


def test_first_windows_go_before_later_ones_and_leave_them_little_room() -> None:
    ready = [(AHEAD, 512), (BEHIND, 2048), (NEWER, 64), (NEW, 64)]
    assert policy.next_windows(ready, somebody_waits=True, one_at_a_time=False) == [NEW, NEWER, BEHIND]
    assert policy.next_windows(ready[:2], somebody_waits=False, one_at_a_time=False) == [BEHIND, AHEAD]
    assert policy.next_windows(ready, somebody_waits=True, one_at_a_time=True) == [NEW]
    assert policy.next_windows([], somebody_waits=False, one_at_a_time=True) == []


def test_batches_are_powers_of_two_of_one_size_in_order() -> None:
    items = ["aa", "b", "cc", "d", "ee", "f", "g", "h", "i", "j"]
    assert policy.in_batches(items, len, lambda size: 4) == [
        ["aa", "cc"],
        ["ee"],
        ["b", "d", "f", "g"],
        ["h", "i"],
        ["j"],
    ]
    assert policy.in_batches(items, len, lambda size: size) == [["aa", "cc"], ["ee"], *([one] for one in "bdfghij")]
    assert policy.in_batches([], len, lambda size: 4) == []


def test_a_request_is_refused_where_too_many_wait_or_are_read_too_slowly() -> None:
    assert policy.refusal(waiting=2, under_way=2, max_waiting=3, max_slots=2) is None
    assert policy.refusal(waiting=3, under_way=0, max_waiting=3, max_slots=2) == "3 requests are waiting"
    assert policy.refusal(waiting=0, under_way=5, max_waiting=3, max_slots=2) == "5 requests are under way"


def test_no_piece_begins_for_a_reader_who_is_far_behind_unless_all_is_to_end() -> None:
    assert policy.may_begin_piece(29.9, draining=False)
    assert not policy.may_begin_piece(30.0, draining=False)
    assert policy.may_begin_piece(1000.0, draining=True)


@pytest.mark.parametrize(
    ("batch", "on_gpu", "asked", "expected"),
    [
        ((1, 1024), True, None, (32, (4, 16, 32))),
        ((1, 1024), True, 5, (5, (4, 5))),
        ((8, 16), True, None, (16, (8, 16))),
        ((1, 1024), False, None, (8, None)),
        ((2, 4), False, None, (4, range(2, 5))),
    ],
)
def test_slots_fit_device_and_engines(batch: tuple, on_gpu: bool, asked: int | None, expected: tuple) -> None:
    assert policy.slots(batch, on_gpu, asked) == expected
