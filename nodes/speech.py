"""STARCaster_AudioEncoder: sound -> what is said, a row of features for each video frame."""

from __future__ import annotations

from ..starcaster_core.speech import audio_warnings, mono16k
from ..starcaster_core.speech.prosody import with_loudness
from ..starcaster_core.speech.wav2vec2 import NAME as WAV2VEC2
from ..starcaster_core.speech.wav2vec2 import encode_with
from . import sockets
from .comfy_bridge import CATEGORY, core_wav2vec2, io, tell_user, user_errors
from .sound import sound_of


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
                    tooltip="Only for models that need wav2vec2-base and were assembled without it: connect core's "
                    "Load Audio Encoder. 'mini' brings its own.",
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
        samples = mono16k(*sound_of(audio), max_seconds or None)
        tell_user(cls.hidden.unique_id, " ".join(audio_warnings(samples)))
        config = model.core.config
        if audio_encoder is not None and config.speech_encoder == WAV2VEC2:
            speech = with_loudness(encode_with(*core_wav2vec2(audio_encoder), samples, config.fps), samples)
        else:
            speech = model.on_device().encode_speech(samples)
        return io.NodeOutput(speech, speech.frames)
