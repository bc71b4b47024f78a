"""What the nodes do with what they are given, without a server."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch


@pytest.fixture
def errors(module):
    return module("starcaster_core.errors")


def test_sampler_defaults_are_the_core_s(module):
    defaults = module("starcaster_core.sampling").SamplerSettings()
    widgets = {i.id: i for i in module("nodes.sampler").Sampler.define_schema().inputs}
    for name in ("seed", "steps", "scheduler", "guidance_scale", "lambda_audio", "lambda_camera", "use_reference"):
        assert widgets[name].default == getattr(defaults, name)
    assert (widgets["seed"].min, widgets["seed"].max) == (0, 2**64 - 1)


def test_length_comes_from_speech_then_camera_then_seconds(module):
    frames = module("nodes.sampler")._frames
    speech, camera = SimpleNamespace(frames=30), SimpleNamespace(frames=40)
    assert frames(speech, camera, 2.0, 25.0) == 30
    assert frames(None, camera, 2.0, 25.0) == 40
    assert frames(None, None, 2.0, 25.0) == 50
    assert frames(None, None, 0.01, 25.0) == 1


def test_frames_for_the_video(module, errors):
    combine = module("nodes.video")
    vae = SimpleNamespace(decode=lambda latents: latents.movedim(1, -1).repeat(1, 2, 2, 1))
    latents = torch.rand(35, 3, 4, 4)
    count, slices = combine._frames({"samples": latents}, vae, None)
    parts = list(slices)
    assert count == 35 and [len(part) for part in parts] == [16, 16, 3]
    count, slices = combine._frames({"samples": latents.movedim(0, 1)[None]}, vae, None)
    assert torch.equal(torch.cat(list(slices)), torch.cat(parts)), "[B, C, T, h, w] means the same"
    count, slices = combine._frames(None, None, torch.rand(5, 8, 8, 4))
    assert count == 5 and next(slices).shape == (5, 8, 8, 3)
    for arguments in ((None, None, None), ({"samples": latents}, None, None), ({"samples": latents}, vae, latents)):
        with pytest.raises(errors.InputError):
            combine._frames(*arguments)


def test_empty_masks_count_as_none(module):
    masks = module("nodes.identity")._masks
    painted = torch.zeros(1, 8, 8)
    painted[0, 2:4, 2:4] = 1
    assert masks(None, 2) is None
    assert masks(torch.zeros(1, 64, 64), 2) == [None, None]
    both = masks(painted, 2)
    assert len(both) == 2 and all(np.array_equal(mask, painted[0].numpy()) for mask in both)


def test_identity_needs_a_source(module, errors):
    with pytest.raises(errors.InputError, match="Connect an image"):
        module("nodes.identity").IdentityLoader.execute(identity_file="none", face="single", save_as="")


def wav2vec2(width: int):
    """Stands in for core's audio encoder: row i of every layer is i."""

    def encode(waveform, rate):
        rows = waveform.shape[-1] // 320
        state = torch.arange(rows).float()[None, :, None].expand(1, rows, width)
        return {"encoded_audio_all_layers": [state * 0 - 1] + [state] * 12}

    return SimpleNamespace(encode_audio=encode)


def test_core_audio_encoder_becomes_rows_a_video_frame(module, errors):
    from_core = module("nodes.speech")._from_core_encoder
    conditioning = SimpleNamespace(speech_dim=12 * 768)
    config = SimpleNamespace(speech_encoder="wav2vec2-base", fps=25.0, conditioning=conditioning)
    speech = from_core(wav2vec2(768), torch.zeros(32000), config)
    assert speech.features.shape == (50, 9216) and speech.encoder == "wav2vec2-base"
    assert torch.allclose(speech.features[:, 0], torch.arange(50) * 2 + 0.5), "two rows at 50 Hz a video frame"
    with pytest.raises(errors.InputError, match="9216"):
        from_core(wav2vec2(1024), torch.zeros(32000), config)
    assert from_core(wav2vec2(768), torch.zeros(100), config).frames == 1
