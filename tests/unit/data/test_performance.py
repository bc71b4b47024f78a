"""From phonemes to faces: when the lips must meet they meet; silence is a closed mouth; all motion is bounded."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from starcaster_core.data.performance import POSE_LIMIT, perform
from starcaster_core.data.visemes import CLASS_NAMES, CLASS_SHAPES, SHAPES, mouth_curves, shape_vector, shapes_of
from starcaster_core.head_motion import rotations
from starcaster_core.speech.prosody import frame_loudness

SIDED = "browDown browOuterUp cheekSquint eyeBlink eyeLookDown eyeLookIn eyeLookOut eyeLookUp mouthLowerDown mouthPress"
SIDED += " mouthSmile mouthStretch mouthUpperUp"
WHOLE = "browInnerUp jawOpen mouthFunnel mouthPucker mouthRollLower mouthRollUpper mouthShrugLower tongueOut"
UNITS = tuple(sorted([f"{unit}{side}" for unit in SIDED.split() for side in ("Left", "Right")] + WHOLE.split()))
JAW = UNITS.index("jawOpen")
PRESS = UNITS.index("mouthPressLeft")
TIMES = (np.arange(50) + 0.5) / 25
LOUD = np.full(50, 1.0)


def test_every_class_of_sound_has_known_shapes():
    assert set(CLASS_SHAPES) == set(CLASS_NAMES)
    assert all(shape in SHAPES for shapes in CLASS_SHAPES.values() for shape in shapes)
    assert shapes_of("p") == shapes_of("m") == ("closed",)
    assert shapes_of("aI") == ("aa", "ih")


def test_every_unit_of_a_shape_exists_in_the_kit_naming():
    for shape, units in SHAPES.items():
        assert np.count_nonzero(shape_vector(shape, UNITS)) >= len(units), shape


@pytest.mark.parametrize("consonant", ["p", "b", "m"])
@pytest.mark.parametrize("length", [0.02, 0.05, 0.12])
@pytest.mark.parametrize("offset", [0.0, 0.013, 0.031])
def test_the_lips_close_on_bilabials_between_open_vowels(consonant, length, offset):
    start = 0.8 + offset
    phonemes = [(0.0, start, "A:"), (start, start + length, consonant), (start + length, 2.0, "A:")]
    curves = mouth_curves(phonemes, TIMES, UNITS, LOUD)
    at = np.argmin(np.abs(TIMES - start - length / 2))
    np.testing.assert_allclose(curves[at], shape_vector("closed", UNITS), atol=1e-6)
    assert curves[:15, JAW].min() > 0.4 and curves[-15:, JAW].min() > 0.4


def test_lips_touch_the_teeth_on_f():
    curves = mouth_curves([(0, 0.9, "A:"), (0.9, 1.0, "f"), (1.0, 2.0, "A:")], TIMES, UNITS, LOUD)
    at = np.argmin(np.abs(TIMES - 0.95))
    np.testing.assert_allclose(curves[at], shape_vector("labiodental", UNITS), atol=1e-6)


def test_vowels_open_the_jaw_by_their_openness():
    jaw = {v: mouth_curves([(0, 2, v)], TIMES, UNITS, LOUD)[25, JAW] for v in ("A:", "E", "I", "u:")}
    assert jaw["A:"] > jaw["E"] > jaw["I"] > jaw["u:"]


def test_silence_is_a_closed_mouth():
    curves = mouth_curves([(0.0, 0.5, "A:"), (0.5, 2.0, "_:")], TIMES, UNITS, LOUD)
    assert np.abs(curves[25:]).max() < 0.02


def test_louder_speech_opens_wider():
    soft, loud = (mouth_curves([(0, 2, "A:")], TIMES, UNITS, LOUD * v)[25, JAW] for v in (0.1, 1.0))
    assert loud > soft * 1.2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 80))
def test_a_performance_is_bounded_smooth_and_repeatable(seed, frames):
    samples = np.random.default_rng(seed).normal(0, 0.1, frames * 640).astype(np.float32)
    phonemes = [(0.1, 0.3, "A:"), (0.3, 0.4, "b"), (0.4, 0.9, "i:")]
    one, two = (perform(phonemes, samples, 16_000, frames, UNITS, seed) for _ in range(2))
    np.testing.assert_array_equal(one.expression, two.expression)
    np.testing.assert_array_equal(one.head_rotation, two.head_rotation)
    assert one.expression.shape == (frames, len(UNITS)) and one.head_rotation.shape == (frames, 3, 3)
    assert one.expression.min() >= 0 and one.expression.max() <= 1
    assert np.all(np.abs(one.head_degrees) <= POSE_LIMIT)
    if frames > 1:
        assert np.abs(np.diff(one.head_degrees, axis=0)).max() < 3.5  # degrees a frame


def test_a_head_turned_left_and_up_faces_left_and_up():
    ahead = torch.tensor([0.0, 0, 1])
    left, up, straight = rotations(torch.tensor([[10, 0, 0], [0, 10, 0], [0, 0, 0]]))
    assert (left @ ahead)[0] > 0.1 and (up @ ahead)[1] > 0.1
    torch.testing.assert_close(straight, torch.eye(3))


def test_loudness_of_silence_is_zero_and_of_a_short_sound_ends():
    assert frame_loudness(np.zeros(100), 16_000, 5).max() == 0
    loud = frame_loudness(np.ones(640 * 2), 16_000, 4)
    assert loud[0] > 0 and loud[3] == 0
