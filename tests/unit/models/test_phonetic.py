"""The speech encoder looks at the right moment, whatever the length, rate, level or number of channels."""

from __future__ import annotations

import pytest
import torch

from starcaster_core.models.phonetic import CONTEXT, PhoneticEncoder
from starcaster_core.speech import mono16k
from starcaster_core.speech.spectrum import FRAME_SAMPLES, mel_filters


@pytest.fixture(scope="module")
def encoder() -> PhoneticEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PhoneticEncoder().eval()


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    """Noise whose level goes up and down, at most 0.3."""
    generator = torch.Generator().manual_seed(seed)
    envelope = torch.sin(torch.arange(samples) / 1500.0).abs()
    return 0.3 * envelope * (2 * torch.rand(samples, generator=generator) - 1)


@pytest.mark.parametrize("samples, frames", [(1, 1), (300, 1), (640, 1), (1000, 2), (16_000, 25), (16_300, 25)])
def test_a_row_for_every_frame(encoder, samples, frames):
    speech = encoder.encode(noise(samples))
    assert speech.features.shape == (frames, 64)
    assert speech.features.dtype == torch.float32
    assert speech.encoder == "phonetic" and speech.fps == 25.0
    assert speech.seconds == pytest.approx(samples / 16_000)
    assert torch.isfinite(speech.features).all()


@pytest.mark.parametrize("fps", [12.0, 24.0, 29.97, 30.0, 60.0])
def test_other_rates(encoder, fps):
    speech = encoder.encode(noise(48_000), fps)
    assert speech.features.shape == (round(3 * fps), 64)
    assert speech.fps == fps


@pytest.mark.parametrize("window_frames", [1, 7, 64])
def test_windows_do_not_change_the_result(encoder, window_frames):
    sound = noise(5 * 16_000 + 123)
    whole, pieces = encoder.encode(sound), encoder.encode(sound, window_frames=window_frames)
    assert torch.allclose(whole.features, pieces.features, atol=2e-5)
    assert torch.equal(encoder.phonemes(sound), encoder.phonemes(sound, window_frames=window_frames))


@pytest.mark.parametrize("shift", [1, 5, 30])
def test_sound_later_by_k_frames_gives_features_later_by_k_frames(encoder, shift):
    sound = noise(2 * 16_000)
    later = torch.cat([torch.zeros(shift * FRAME_SAMPLES), sound])
    original, shifted = encoder(_pad(sound))[0][0], encoder(_pad(later))[0][0]
    assert torch.allclose(shifted[shift:], original, atol=1e-5)


def test_loudness_sits_on_its_frame(encoder):
    sound = torch.zeros(50 * FRAME_SAMPLES)
    sound[20 * FRAME_SAMPLES : 23 * FRAME_SAMPLES] = noise(3 * FRAME_SAMPLES)
    loudness = encoder.encode(sound).features[:, -1]
    assert torch.equal(loudness > 0.1, (torch.arange(50) >= 20) & (torch.arange(50) < 23))


def test_a_click_is_felt_around_its_frame_alike_before_and_after(encoder):
    """Centre of the disturbance within half a frame, and its reach exactly the context, for a symmetric network."""
    sound = torch.zeros(61 * FRAME_SAMPLES)
    clicked = sound.clone()
    clicked[30 * FRAME_SAMPLES + FRAME_SAMPLES // 2] = 1.0
    change = (encoder(_pad(clicked))[0] - encoder(_pad(sound))[0])[0, :, :-1].abs().sum(-1)
    felt = torch.nonzero(change > 1e-7)[:, 0]
    assert felt.min() >= 30 - CONTEXT and felt.max() <= 30 + CONTEXT
    assert (felt.min() + felt.max()) / 2 == 30
    centre = (change * torch.arange(61)).sum() / change.sum()
    assert abs(centre - 30) < 1.5  # weights are random: the mass itself need not be symmetric
    assert change[30] > 0.5 * change.max()


def test_spectra_are_centred_on_their_ten_milliseconds(encoder):
    """The energy of a burst in one video frame is centred on the frame, to a fraction of a spectrum."""
    sound = torch.zeros(1, 10 * FRAME_SAMPLES)
    sound[0, 5 * FRAME_SAMPLES + 240 : 5 * FRAME_SAMPLES + 400] = torch.tensor([0.3, -0.1] * 80)  # the middle 10 ms
    power = encoder.log_mel(sound).exp().sum(1)[0] - 64 * 1e-5
    centre = (power * (torch.arange(40) + 0.5)).sum() / power.sum() / 4
    assert centre == pytest.approx(5.5, abs=0.05)


def test_nothing_beyond_the_context_is_heard(encoder):
    sound = noise(40 * FRAME_SAMPLES)
    changed = sound.clone()
    changed[30 * FRAME_SAMPLES + 120 :] = 0
    first, second = encoder(_pad(sound))[0][0], encoder(_pad(changed))[0][0]
    assert torch.equal(first[: 30 - CONTEXT], second[: 30 - CONTEXT])
    assert not torch.allclose(first[30], second[30])


def test_level_does_not_matter(encoder):
    sound = noise(2 * 16_000)
    loud, quiet = encoder.encode(sound).features, encoder.encode(sound / 8).features
    assert torch.allclose(loud, quiet, atol=1e-4)


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
def test_rate_and_channels_hardly_matter(encoder, rate):
    seconds = torch.arange(2 * rate) / rate
    chord = sum(torch.sin(6.2832 * hertz * seconds) for hertz in (210, 640, 1190, 2390)) / 8
    stereo = mono16k(torch.stack([chord, chord])[None], rate)
    seconds = torch.arange(2 * 16_000) / 16_000
    direct = sum(torch.sin(6.2832 * hertz * seconds) for hertz in (210, 640, 1190, 2390)) / 8
    difference = encoder.encode(stereo).features - encoder.encode(direct).features
    assert difference[1:-1].abs().mean() < 0.02


def test_silence_is_what_silence_sounds_like(encoder):
    silent = encoder.silence(40)
    assert silent.frames == 40 and silent.seconds == pytest.approx(1.6)
    assert torch.allclose(silent.features, encoder.encode(torch.zeros(40 * FRAME_SAMPLES)).features, atol=1e-5)


def test_gradients_reach_every_weight():
    encoder = PhoneticEncoder()
    encoder(_pad(noise(8 * FRAME_SAMPLES)))[1].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_size():
    assert 0.5e6 < sum(p.numel() for p in PhoneticEncoder().parameters()) < 1.1e6


def test_every_band_listens_to_its_own_frequency():
    filters = mel_filters()
    assert torch.allclose(filters.sum(1), torch.ones(64))
    peaks = filters.argmax(1)
    assert (peaks[1:] >= peaks[:-1]).all() and peaks[-1] > 170


def _pad(sound: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(sound, (CONTEXT * FRAME_SAMPLES, CONTEXT * FRAME_SAMPLES))[None]
