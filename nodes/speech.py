"""STARCaster_AudioEncoder: sound -> what is said, a row of features for each video frame."""

from __future__ import annotations

import torch
from torch import Tensor

from ..starcaster_core.errors import InputError
from ..starcaster_core.speech import align_layers, audio_warnings, mono16k
from ..starcaster_core.speech.audio import SAMPLE_RATE
from ..starcaster_core.types import Speech
from . import sockets
from .comfy_bridge import CATEGORY, io, tell_user, user_errors

OWN_ENCODER = "phonetic"  # what a model can carry inside itself; everything else comes over the audio_encoder socket
WAV2VEC2_FPS = 50.0
WAV2VEC2_SHORTEST = 400  # samples; its first output needs so many


class AudioEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="STARCaster_AudioEncoder",
            display_name="STARCaster Audio Encoder",
            category=CATEGORY,
            description="Listens to a recording and describes, for every video frame, what the mouth has to do.",
            search_aliases=["speech encoder", "voice", "lip sync audio", "phonemes", "wav2vec2"],
            inputs=[
                sockets.Model.Input("model", tooltip="The model that will use the speech; it decides the encoder."),
                io.Audio.Input("audio", tooltip="A voice, mono or stereo, of any sample rate."),
                io.AudioEncoder.Input(
                    "audio_encoder",
                    optional=True,
                    tooltip="Only for models that need wav2vec2-base: connect core's Load Audio Encoder. 'mini' "
                    "brings its own.",
                ),
                io.Float.Input(
                    "max_seconds",
                    default=0.0,
                    min=0.0,
                    max=3600.0,
                    step=0.1,
                    tooltip="Use only so many seconds from the start. 0 uses all.",
                ),
            ],
            outputs=[
                sockets.Speech.Output(display_name="speech", tooltip="For the Sampler and the Camera Trajectory."),
                io.Int.Output(display_name="frames", tooltip="How many video frames the speech lasts."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @user_errors
    def execute(cls, model, audio, max_seconds, audio_encoder=None) -> io.NodeOutput:
        samples = mono16k(audio["waveform"], audio["sample_rate"], max_seconds or None)
        tell_user(cls.hidden.unique_id, " ".join(audio_warnings(samples)))
        config = model.core.config
        if audio_encoder is not None and config.speech_encoder != OWN_ENCODER:
            speech = _from_core_encoder(audio_encoder, samples, config)
        else:
            speech = model.on_device().encode_speech(samples)
        return io.NodeOutput(speech, speech.frames)


def _from_core_encoder(encoder, samples: Tensor, config) -> Speech:
    """All layers of core's wav2vec2, side by side, one row a video frame. samples: [N] at 16 kHz."""
    seconds = samples.shape[-1] / SAMPLE_RATE
    missing = max(0, WAV2VEC2_SHORTEST - samples.shape[-1])
    padded = torch.nn.functional.pad(samples, (0, missing))
    states = encoder.encode_audio(padded[None, None], SAMPLE_RATE)["encoded_audio_all_layers"]
    hidden = torch.stack([state[0].float().cpu() for state in states[1:]])  # the first is the input of layer 1
    features = align_layers(hidden, WAV2VEC2_FPS, max(1, round(seconds * config.fps)), config.fps)
    if features.shape[1] != config.conditioning.speech_dim:
        raise InputError(
            f"an audio encoder with {config.conditioning.speech_dim} features a frame ({config.speech_encoder})",
            f"one with {features.shape[1]}",
            "Load that encoder with core's Load Audio Encoder.",
        )
    return Speech(features, seconds, config.speech_encoder, config.fps)
