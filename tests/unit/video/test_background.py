"""Work in a second thread: in order, bounded, stopped at once, its errors not lost."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from starcaster_core.errors import InputError
from starcaster_core.video import Background, write_video
from starcaster_core.video.background import one_ahead


def test_items_are_worked_on_in_order_in_another_thread_and_all_before_the_block_ends():
    done, threads = [], set()

    def work(item):
        threads.add(threading.get_ident())
        time.sleep(0.001)
        done.append(item)

    with Background(work) as background:
        for item in range(20):
            background.put(item)
    assert done == list(range(20))
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_no_more_items_wait_than_allowed():
    put, gate = [], threading.Event()
    with Background(lambda _: gate.wait(10), ahead=2) as background:

        def fill():
            for item in range(5):
                background.put(item)
                put.append(item)

        filler = threading.Thread(target=fill)
        filler.start()
        time.sleep(0.5)
        assert put == [0, 1, 2], "one under way, two waiting"
        gate.set()
        filler.join()
    assert put == list(range(5))


def test_an_error_of_the_work_comes_out_of_put_or_of_the_end():
    def work(item):
        raise InputError("a number", repr(item), "Try again.")

    with pytest.raises(InputError, match="Try again"), Background(work) as background:
        for _ in range(100):
            background.put(1)
    with pytest.raises(InputError, match="Try again"), Background(work) as background:
        background.put(1)


def test_cancelling_drops_what_waits_and_stops_at_the_next_yield():
    class Cancelled(BaseException):
        pass

    reached = []

    def work(item):
        for step in range(1000):
            reached.append((item, step))
            time.sleep(0.01)
            yield

    started = time.monotonic()
    with pytest.raises(Cancelled), Background(work) as background:
        background.put("first")
        background.put("second")
        time.sleep(0.05)
        raise Cancelled
    assert time.monotonic() - started < 5, "1000 steps would take ten seconds"
    assert {item for item, _ in reached} == {"first"}


def test_a_video_is_encoded_while_the_next_frames_are_made_and_a_cancelled_one_leaves_nothing(tmp_path):
    frames = np.zeros((4, 16, 16, 3), np.uint8)

    def made():
        yield frames
        yield frames
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "a.mp4", made(), 25)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="one size"):
        write_video(tmp_path / "a.mp4", iter([frames, frames[:, :8], *[frames] * 10]), 25)
    assert list(tmp_path.iterdir()) == []
    assert write_video(tmp_path / "a.mp4", iter([frames, frames]), 25).frames == 8


def test_what_waits_may_be_finished_when_the_block_is_left_by_an_error():
    done = []

    def work(item):
        time.sleep(0.02)
        done.append(item)

    with pytest.raises(KeyboardInterrupt), Background(work, finish=True) as background:
        for item in range(3):
            background.put(item)
        raise KeyboardInterrupt
    assert done == [0, 1, 2]


def test_one_ahead_keeps_the_order_and_works_on_the_next_one_only():
    begun = []

    def work(item):
        begun.append(item)
        return 10 * item

    for item, result in enumerate(one_ahead(work, range(6))):
        assert result == 10 * item
        time.sleep(0.02)
        assert begun == list(range(min(item + 2, 6)))
    assert list(one_ahead(work, [])) == []


def test_one_ahead_raises_in_the_place_of_the_item_that_failed():
    def work(item):
        if item == 2:
            raise InputError("a number", repr(item), "Try again.")
        return item

    results = one_ahead(work, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(InputError, match="Try again"):
        next(results)


def test_writing_chunks_gives_the_frames_that_plain_decoding_gives(tmp_path):
    from types import SimpleNamespace

    import torch

    from starcaster_core.pipeline import write_chunks
    from starcaster_core.video import probe

    model = SimpleNamespace(
        device=torch.device("cpu"),
        config=SimpleNamespace(fps=25.0, chunk_frames=16, image_size=32),
        reference_decoder=None,
        decode_frames=lambda x: x[0, :3].movedim(0, -1).repeat_interleave(8, 1).repeat_interleave(8, 2),
    )
    values = torch.linspace(0.1, 0.9, 26)[None, None, :, None, None].expand(1, 3, -1, 4, 4)
    parts = values.split(16, dim=2)
    chunks = (SimpleNamespace(index=index, latents=part, pose=None) for index, part in enumerate(parts))
    info = write_chunks(tmp_path / "a.mp4", model, chunks)
    assert info.frames == probe(tmp_path / "a.mp4").frames == 26
    import av

    with av.open(str(tmp_path / "a.mp4")) as file:
        levels = [frame.to_ndarray(format="rgb24").mean() / 255 for frame in file.decode(video=0)]
    assert np.abs(np.array(levels) - values[0, 0, :, 0, 0].numpy()).max() < 0.03
