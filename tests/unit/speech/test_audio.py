"""Sound comes in at any rate and number of channels; what cannot be used is refused with a sentence that helps."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from starcaster_core.errors import AudioError, InputError
from starcaster_core.speech import audio_warnings, load_audio, mono16k

REPO = Path(__file__).resolve().parents[3]


def tone(seconds: float, rate: int, hertz: float = 440.0) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(int(seconds * rate)) / rate)


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("shape", [(-1,), (1, -1), (1, 1, -1)])
def test_any_rate_gives_the_same_tone_of_exact_length(rate, shape):
    samples = mono16k(tone(0.7, rate).reshape(shape), rate)
    assert samples.dtype == torch.float32
    assert samples.shape == (math.ceil(int(0.7 * rate) * 16_000 / rate),)
    middle = slice(1000, -1000)  # resampling rings at the ends
    assert torch.allclose(samples[middle], tone(0.7, 16_000)[: len(samples)][middle], atol=2e-3)


def test_channels_are_averaged():
    left, right = tone(0.1, 16_000), tone(0.1, 16_000, 100.0)
    assert torch.allclose(mono16k(torch.stack([left, right])[None], 16_000), (left + right) / 2)


def test_the_waveform_given_is_left_as_it_was():
    waveform = tone(0.1, 16_000)[None]
    mono16k(waveform, 16_000)[:] = 0
    assert torch.equal(waveform[0], tone(0.1, 16_000))


@pytest.mark.parametrize("max_seconds, expected", [(0.25, 4000), (1e-9, 1), (99, 16_000)])
def test_max_seconds_keeps_the_start(max_seconds, expected):
    samples = mono16k(tone(1, 16_000), 16_000, max_seconds)
    assert torch.equal(samples, tone(1, 16_000)[:expected])


@pytest.mark.parametrize(
    "waveform, rate, says",
    [
        (torch.zeros(1, 1, 0), 16_000, "0 seconds"),
        (torch.zeros(1, 0, 10), 16_000, "0 seconds"),
        (torch.tensor([0.0, float("nan")]), 16_000, "1 of NaN"),
        (torch.tensor([0.0, float("inf")]), 16_000, "1 of NaN or infinity"),
        (torch.zeros(2, 1, 100), 16_000, "a batch of 2"),
        (torch.zeros(1, 1, 1, 9), 16_000, "the shape"),
        (torch.zeros(100), 0, "sample rate"),
        (torch.zeros(301 * 100), 100, "max_seconds"),
    ],
)
def test_unusable_sound_is_refused(waveform, rate, says):
    with pytest.raises(AudioError, match=says):
        mono16k(waveform, rate)


def test_long_sound_can_be_asked_for():
    assert len(mono16k(torch.zeros(301 * 16_000), 16_000, max_seconds=301)) == 301 * 16_000


def test_warnings():
    assert audio_warnings(tone(0.2, 16_000)) == []
    assert "silent" in audio_warnings(torch.zeros(100))[0]
    assert "clipped" in audio_warnings((10 * tone(0.2, 16_000)).clamp(-1, 1))[0]


def test_the_shipped_voice_loads():
    waveform, rate = load_audio(REPO / "starcaster_core" / "assets" / "voice.flac")
    assert rate == 16_000 and waveform.shape[0] == 1
    assert 4.5 < waveform.shape[1] / rate < 6.5
    assert 0.5 < waveform.abs().max() <= 1
    assert audio_warnings(mono16k(waveform, rate)) == []


@pytest.mark.parametrize("codec, suffix", [("pcm_s16le", "wav"), ("flac", "mka"), ("aac", "m4a")])
def test_stereo_files_load_as_written(tmp_path, codec, suffix):
    import av

    path = tmp_path / f"tone.{suffix}"
    written = torch.stack([tone(0.5, 44_100), 0.5 * tone(0.5, 44_100, 300.0)])
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=44_100, layout="stereo")
        interleaved = (written.T.reshape(1, -1) * 32767).short().numpy()
        frame = av.AudioFrame.from_ndarray(interleaved, format="s16", layout="stereo")
        frame.sample_rate, frame.pts = 44_100, 0
        frame_size = stream.codec_context.frame_size or 1024
        to_codec = av.AudioResampler(format=stream.format, layout="stereo", rate=44_100, frame_size=frame_size)
        for part in [*to_codec.resample(frame), *to_codec.resample(None), None]:
            container.mux(stream.encode(part))
    waveform, rate = load_audio(path)
    assert rate == 44_100 and waveform.shape[0] == 2
    middle = slice(8000, 20_000)
    assert (waveform[:, middle] - written[:, middle]).abs().max() < (0.05 if codec == "aac" else 1e-3)


def test_files_without_sound_are_refused(tmp_path):
    with pytest.raises(InputError, match="no file"):
        load_audio(tmp_path / "nothing.wav")
    text = tmp_path / "text.wav"
    text.write_text("this is no sound " * 50)
    with pytest.raises(AudioError, match="text.wav"):
        load_audio(text)
