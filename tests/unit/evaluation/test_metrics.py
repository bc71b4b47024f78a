"""Each metric of figures on videos whose answer is known, and on the wrong input it is held against."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from starcaster_core.data.truth import lip_opening, true_readings
from starcaster_core.errors import MissingDependencyError
from starcaster_core.evaluation import csim, identity, lip_landmarks, lips, motion, reconstruction, sync, view
from starcaster_core.evaluation.instruments import Instruments
from starcaster_core.evaluation.statistics import Ratio
from starcaster_core.evaluation.videos import portrait_of
from starcaster_core.models.lipreader import Reading
from starcaster_core.training.mouths import REST, VISEMES, viseme_track

# Sync ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [-6, -1, 0, 2, 7])
def test_shifted_sound_has_that_delay(make_clip, video_of, loudness, late):
    clip = make_clip(frames=60)
    seen = sync.extract(loudness, video_of(clip), clip)
    shifted = replace(clip, audio=np.roll(clip.audio, -640 * late))
    values = sync.score(loudness, seen, shifted)
    assert values["offset"] == abs(late) and values["within_one_frame"] == (abs(late) <= 1)
    curve = sync.curve(loudness, seen, shifted)
    assert curve.x[int(np.argmin(curve.measured))] == late


def test_another_clips_sound_is_told_from_the_own(make_clip, video_of, loudness):
    clip, other = make_clip(frames=60), make_clip(number=1, frames=60)
    seen = sync.extract(loudness, video_of(clip), clip)
    own, wrong = (sync.score(loudness, seen, asked) for asked in (clip, sync.negative(clip, other)))
    assert own["confidence"] > 2 * wrong["confidence"] and own["distance"] < 0.2 < wrong["distance"]


# Lips ----------------------------------------------------------------------------------------------------------------


class Reader:
    """Reads each clip's visemes and brightness perfectly, the opening as brightness"""

    def __init__(self, visemes):
        self.visemes = torch.from_numpy(visemes)

    def read(self, frames, boxes):
        logits = torch.nn.functional.one_hot(self.visemes, len(VISEMES)).float()[None]
        return Reading(None, logits, frames.mean(dim=(2, 3, 4)))


def test_lips_that_say_it_and_lips_that_say_something_else(make_clip, video_of):
    clip, other = make_clip(), make_clip(number=1)
    instruments = Instruments(lipreader=Reader(viseme_track(clip)))
    extracted = lips.extract(instruments, video_of(clip), clip)
    own, wrong = (lips.score(instruments, extracted, asked) for asked in (clip, lips.negative(clip, other)))
    speech = (viseme_track(clip) != REST).sum()
    assert speech == 28 and own["visemes"] == Ratio(28, 28) and own["visemes_all"] == 1 and own["correlation"] > 0.99
    assert own["within_one_frame"] == 1
    assert wrong["visemes_all"] < 0.6 and abs(wrong["correlation"]) < 0.6


def test_the_opening_is_a_share_of_the_frames_side(make_clip, video_of):
    clip = make_clip()
    instruments = Instruments(lipreader=Reader(viseme_track(clip)))
    read = lips.extract(instruments, torch.full_like(video_of(clip), 255), clip)
    assert read.opening == pytest.approx(np.full(32, 20 / 64), abs=1e-4)  # the box is 20 of 64 pixels wide


def test_without_a_lip_reader_the_probe_reads_the_opening(make_clip, video_of, told):
    clip = make_clip()
    instruments = told(true_readings(clip))
    values = lips.score(instruments, lips.extract(instruments, video_of(clip), clip), clip)
    assert values == {"correlation": pytest.approx(1), "within_one_frame": 1}


# Lips by landmarks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def lips_apart(monkeypatch):
    """Let the landmarker see lips this many pixels apart; NaN is a frame without a face"""

    def see(gaps):
        def faces(frames):
            for _, gap in zip(frames, gaps):
                points = np.zeros((478, 3))
                points[13, 1] = gap
                yield None if np.isnan(gap) else SimpleNamespace(points=points)

        monkeypatch.setattr(lip_landmarks, "follow_landmarks", faces)

    return see


def test_the_lip_opening_by_landmarks_is_held_against_the_true_one_and_the_sound(make_clip, video_of, lips_apart):
    clip, other = make_clip(), make_clip(number=1)
    lips_apart(64 * 0.5 * lip_opening(clip))
    opening = lip_landmarks.extract(None, video_of(clip), clip)
    own, wrong = (lip_landmarks.score(None, opening, target) for target in (clip, lip_landmarks.negative(clip, other)))
    assert own["correlation"] > 0.99 and own["within_one_frame"] == 1 and own["loudness"] > 0.9
    assert own["ratio"].numerator == pytest.approx(0.5 * own["ratio"].denominator) and own["found"] == Ratio(32, 32)
    assert abs(wrong["correlation"]) < 0.6 and wrong["loudness"] < 0.6


def test_frames_without_a_face_are_bridged_and_mostly_faceless_clips_have_no_opening(make_clip, video_of, lips_apart):
    clip = make_clip()
    seen = 64 * lip_opening(clip)
    seen[5] = np.nan
    lips_apart(seen)
    values = lip_landmarks.score(None, lip_landmarks.extract(None, video_of(clip), clip), clip)
    assert values["found"] == Ratio(31, 32) and values["correlation"] > 0.9
    lips_apart(np.where(np.arange(32) % 3, np.nan, seen))
    opening = lip_landmarks.extract(None, video_of(clip), clip)
    assert set(lip_landmarks.score(None, opening, clip)) == {"found"}
    assert np.isfinite(lip_landmarks.curve(None, opening, clip).measured).all()


def test_a_still_portrait_does_not_talk(make_clip, lips_apart):
    clip = make_clip()
    lips_apart(np.linspace(1, 2, 32))  # what jitter would be
    still = torch.from_numpy(clip.frames[:1]).expand(32, -1, -1, -1)
    opening = lip_landmarks.extract(None, still, clip)
    assert len(opening) == 32 and lip_landmarks.score(None, opening, clip)["correlation"] == 0


def test_the_landmarker_sees_rendered_lips_open():
    from starcaster_core.camera.poses import default_intrinsics, world_from_cam
    from starcaster_core.data.heads.lighting import neutral_lighting
    from starcaster_core.data.synth import synthetic_world

    try:
        world = synthetic_world()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    world.load_person(0)
    jaw, frames = [0.0, 0.15, 0.3, 0.45, 0.6], []
    for weight in jaw:
        world.renderer.pose(np.array([weight * (name == "jawOpen") for name in world.kit.unit_names], np.float32))
        frames.append(world.renderer.draw(neutral_lighting(), world_from_cam(0, 0), default_intrinsics(), size=128))
    opening = lip_landmarks.extract(None, torch.from_numpy(np.stack(frames)), None)
    assert (np.diff(opening) > 0.01).all() and opening[0] < 0.02


# Identity ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def people(make_clip, monkeypatch):
    """Clips whose embedding dlib reads, with a little noise, off a picture that holds the person's number"""
    clips = [
        replace(c, frames=np.full_like(c.frames, c.info["identity"])) for c in (make_clip(number=n) for n in range(6))
    ]

    def embed_picture(picture):
        if picture[0, 0, 0] == 99:
            return None
        return clips[picture[0, 0, 0]].truth["embedding"] + 0.01

    monkeypatch.setattr(identity, "embed_picture", embed_picture)
    return clips, Instruments(faces=True).for_clips(clips)


def judged(instruments, clip, asked):
    return identity.score(instruments, identity.extract(instruments, torch.from_numpy(clip.frames), clip), asked)


def test_every_person_is_nearest_to_himself_and_none_if_permuted(people):
    clips, instruments = people
    for clip, other in zip(clips, clips[1:] + clips[:1]):
        own, wrong = judged(instruments, clip, clip), judged(instruments, clip, identity.negative(clip, other))
        assert own["rank_1"] == Ratio(3, 3) and own["distance"] == pytest.approx(0.01 * 128**0.5, rel=1e-3)
        assert wrong["rank_1"] == Ratio(0, 3) and wrong["distance"] > 5
    assert identity.negative(clips[0], clips[0]) is None


def test_frames_without_a_face_are_counted_as_such(people):
    clips, instruments = people
    blank = replace(clips[0], frames=np.full_like(clips[0].frames, 99))
    assert judged(instruments, blank, blank) == {"found": Ratio(0, 3)}


def test_only_frames_from_the_front_are_looked_at(make_clip):
    clip = make_clip("spatial")  # -20 to 30 degrees
    assert len(identity.frontal_frames(clip)) == identity.FRAMES_A_CLIP
    poses = clip.truth["world_from_cam"].copy()
    poses[:, :3, 3] = [2.7, 0, 0.1]
    profile = replace(clip, truth=clip.truth | {"world_from_cam": poses})
    assert len(identity.frontal_frames(profile)) == 1


def test_a_picture_is_looked_at_once(monkeypatch):
    seen = []
    monkeypatch.setattr(identity, "_cache", {})
    monkeypatch.setattr(
        identity, "embed_largest_face", lambda picture: seen.append(picture) or np.full(128, float(picture[0, 0, 0]))
    )
    dark, light = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 200, np.uint8)
    found = [identity.embed_picture(picture)[0] for picture in (dark, light, dark.copy(), light)]
    assert found == [0, 200, 0, 200] and len(seen) == 2


# View and motion -----------------------------------------------------------------------------------------------------


def test_the_mirrored_camera_is_twice_the_yaw_off(make_clip, video_of, told):
    clip = make_clip("joint")
    readings = true_readings(clip)
    instruments = told(readings)
    seen = view.extract(instruments, video_of(clip), clip)
    own, wrong = (view.score(instruments, seen, asked) for asked in (clip, view.negative(clip, clip)))
    assert own == {"error": pytest.approx(0, abs=1e-4), "yaw_error": pytest.approx(0, abs=1e-4), "yaw_correlation": 1}
    assert wrong["yaw_error"] == pytest.approx(2 * np.abs(readings[:, 1]).mean(), rel=1e-5)
    assert wrong["yaw_correlation"] == pytest.approx(-1)


def test_known_degrees_are_found(make_clip, video_of, told):
    clip = make_clip("spatial")
    instruments = told(true_readings(clip) + [0, 3, -5])
    values = view.score(instruments, view.extract(instruments, video_of(clip), clip), clip)
    assert values["yaw_error"] == pytest.approx(3, abs=1e-4) and values["error"] == pytest.approx(4, abs=1e-4)


def test_a_head_turned_in_a_mirrored_world_is_mirrored_too(make_clip):
    clip = make_clip("temporal")
    np.testing.assert_allclose(true_readings(view.negative(clip, clip))[:, 1], -true_readings(clip)[:, 1], atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_half_the_motion_is_half_the_motion(make_clip, video_of, told, share):
    clip = make_clip()
    truth = true_readings(clip)
    moved = truth.mean(axis=0) + share * (truth - truth.mean(axis=0))
    instruments = told(moved, moved)  # read once for the head and once, without a lip reader, for the lips
    values = motion.score(instruments, motion.extract(instruments, video_of(clip), clip), clip)
    for name in ("lip_ratio", "pose_ratio"):
        assert (
            values[name].numerator == pytest.approx(share * values[name].denominator, abs=1e-5)
            and values[name].denominator > 0
        )
    assert values["pose_std"] == pytest.approx(share * truth[:, 1:].std(axis=0).mean(), abs=1e-5)


def test_the_head_counts_only_where_the_camera_stands_still(make_clip, video_of, told):
    clip = make_clip("joint")
    instruments = told(true_readings(clip), true_readings(clip))
    values = motion.score(instruments, motion.extract(instruments, video_of(clip), clip), clip)
    assert set(values) == {"lip_std", "lip_ratio"} and motion.negative(clip, clip) is None


# Reconstruction ------------------------------------------------------------------------------------------------------


def test_known_noise_has_the_psnr_it_should(make_clip, video_of):
    clip = make_clip("spatial")
    noisy = (video_of(clip).int() + torch.where(torch.rand(clip.frames.shape) < 0.5, 8, -8)).clamp(0, 255).byte()
    values = reconstruction.score(None, noisy, clip)
    assert values["psnr"] == pytest.approx(20 * np.log10(255 / 8), abs=0.02) and 0 < values["ssim"] < 0.9
    assert reconstruction.score(None, video_of(clip), clip) == {"psnr": pytest.approx(60), "ssim": pytest.approx(1)}


def test_a_stranger_is_a_worse_reconstruction(make_clip, video_of):
    clip, other = make_clip("spatial"), make_clip("spatial", 3, frames=20)
    values = reconstruction.score(None, video_of(clip), reconstruction.negative(clip, other))
    assert values["psnr"] < 40 and reconstruction.applies(clip) and not reconstruction.applies(make_clip())


# CSIM ----------------------------------------------------------------------------------------------------------------


def test_csim_is_the_cosine_to_the_portrait(make_clip, monkeypatch, video_of):
    clip, other = make_clip("joint"), make_clip("joint", 1)
    portrait, strange = np.eye(4)[0], np.eye(4)[1]
    seen = (np.eye(4)[0] * 0.6 + np.eye(4)[2] * 0.8).astype(np.float32)
    portraits = {portrait_of(clip).tobytes(): portrait, portrait_of(other).tobytes(): strange}
    monkeypatch.setattr(csim, "embed", lambda session, picture: portraits.get(picture.tobytes(), seen))
    instruments, bright = Instruments(faces=True), video_of(clip) // 2
    vectors = csim.extract(instruments, bright, clip)
    assert csim.score(instruments, vectors, clip)["cosine"] == pytest.approx(0.6)
    assert csim.score(instruments, vectors, csim.negative(clip, other))["cosine"] == 0
    assert not csim.is_available(instruments)


def test_three_points_land_on_the_template():
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    points = (csim.TEMPLATE - [10, 20]) @ turn * 3
    transform = csim.similarity(points, csim.TEMPLATE)
    landed = np.column_stack([points, np.ones(3)]) @ transform.T
    np.testing.assert_allclose(landed[:, :2], csim.TEMPLATE, atol=1e-9)
