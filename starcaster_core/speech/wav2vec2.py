"""wav2vec2-base as the speech encoder: all 12 layers' hidden states, 9216 numbers a video frame.

The convolutional features, 50 rows a second, are brought to the video's frame rate before the transformer sees them
(as Hallo does), so that its layers speak of video frames, not of 20 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError, MissingDependencyError
from ..types import DEFAULT_FPS, Speech
from .audio import SAMPLE_RATE
from .features import resample_frames

NAME = "wav2vec2-base"
ROWS_PER_SECOND = 50.0  # of the convolutional features
SHORTEST = 400  # samples; the first row needs so many
LAYERS, WIDTH = 12, 768


class Wav2Vec2Encoder(nn.Module):
    """transformers' `Wav2Vec2Model` of the base shape under `network.`, in float32."""

    def __init__(self):
        super().__init__()
        try:
            from transformers import Wav2Vec2Config, Wav2Vec2Model
        except ImportError as error:
            raise MissingDependencyError(
                "transformers, for wav2vec2-base", f"{error}", "Run `pip install transformers`."
            ) from None
        # No masking: that is pre-training's, and would bring a parameter of its own.
        self.network = Wav2Vec2Model(Wav2Vec2Config(mask_time_prob=0.0, mask_feature_prob=0.0))

    @torch.no_grad()
    def encode(self, samples: Tensor, fps: float = DEFAULT_FPS) -> Speech:
        """16 kHz mono samples [N] in -1..1 -> Speech of T = max(1, round(N / 16000 * fps)) frames."""
        network, device = self.network, self.network.feature_projection.projection.weight.device

        def rows_of(sound: Tensor) -> Tensor:
            return network.feature_extractor(sound)[0].T

        def layers_of(rows: Tensor) -> list[Tensor]:
            hidden = network.feature_projection(rows)[0]
            return outputs_of(network.encoder.layers, lambda: network.encoder(hidden))

        return encode_with(rows_of, layers_of, samples.to(device, torch.float32), fps)


def encode_with(
    rows_of: Callable[[Tensor], Tensor], layers_of: Callable[[Tensor], list[Tensor]], samples: Tensor, fps: float
) -> Speech:
    """Speech by any implementation of wav2vec2-base.

    rows_of: sound [1, N] of zero mean and unit variance -> convolutional features [R, 512].
    layers_of: features [1, T, 512] -> the output of each transformer layer, [1, T, 768].
    Raises InputError when the layers are not those of wav2vec2-base.
    """
    seconds = samples.shape[-1] / SAMPLE_RATE
    frames = max(1, round(seconds * fps))
    # As transformers' feature extractor prepares the sound.
    sound = (samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()
    sound = nn.functional.pad(sound, (0, max(0, SHORTEST - len(sound))))
    rows = resample_frames(rows_of(sound[None]), ROWS_PER_SECOND, frames, fps)
    layers = layers_of(rows[None])
    if len(layers) != LAYERS or layers[0].shape[-1] != WIDTH:
        raise InputError(
            f"{NAME}, {LAYERS} layers of {WIDTH}",
            f"an audio encoder with {len(layers)} layers of {layers[0].shape[-1]}",
            "Load a wav2vec2-base file with core's Load Audio Encoder.",
        )
    features = torch.cat([layer[0] for layer in layers], dim=-1)
    return Speech(features.float().cpu(), seconds, NAME, fps)


def outputs_of(layers: Sequence[nn.Module], run: Callable[[], object]) -> list[Tensor]:
    """What each of the layers puts out while `run` runs them."""
    outputs: list[Tensor] = []

    def keep(_module, _inputs, output) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return outputs
