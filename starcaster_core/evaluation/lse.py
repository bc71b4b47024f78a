"""LSE-C and LSE-D: confidence and distance by the SyncNet of Chung & Zisserman (2016), with weights of the user's.

The faces are cut by the known landmarks, about as the authors' pipeline cuts those that its detector finds: values may
differ a little from that pipeline's, so read them beside those of the ground truth.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.shards import Clip
from ..models.judges.published_syncnet import FRAME_STEP, MFCC_PER_FRAME, SIDE, WINDOW, mfcc
from .metric import Figure, has_speech

NAME, TITLE = "lse", "Lips and sound (LSE)"
FIGURES = {
    "lse_c": Figure("LSE-C", "", "high", "confidence of the published SyncNet"),
    "lse_d": Figure("LSE-D", "", "low", "its distance at the best delay"),
}
MAX_OFFSET = 15  # frames
applies = has_speech


def is_available(instruments) -> bool:
    return instruments.public.syncnet is not None


@torch.no_grad()
def extract(instruments, video: Tensor, clip: Clip) -> Tensor:
    """Return the embeddings of the face's windows, [W, 1024]."""
    return instruments.public.syncnet.embed_video(faces_of(video, clip))


@torch.no_grad()
def score(instruments, video_features: Tensor, target: Clip) -> dict[str, float]:
    sound = np.zeros((len(video_features) + WINDOW) * MFCC_PER_FRAME * FRAME_STEP, np.float32)
    audio = target.audio[: len(sound)]
    sound[: len(audio)] = audio
    spectra = torch.from_numpy(mfcc(np.round(sound * 32767)).T.astype(np.float32))
    audio_features = instruments.public.syncnet.embed_audio(spectra)[: len(video_features)]
    # As the authors do it: beyond the clip's ends the audio features are zero.
    padded = F.pad(audio_features, (0, 0, MAX_OFFSET, MAX_OFFSET)).unfold(0, len(video_features), 1).movedim(-1, 1)
    distances = F.pairwise_distance(video_features[None].expand_as(padded), padded).mean(dim=1)
    least = distances.min()
    return {"lse_c": float(distances.median() - least), "lse_d": float(least)}


def negative(clip: Clip, other: Clip) -> Clip:
    """Return the clip with the sound of another."""
    return replace(clip, audio=other.audio)


def faces_of(video: Tensor, clip: Clip) -> Tensor:
    """Cut faces out of a video uint8 [T, S, S, 3] -> [3, T, 224, 224], BGR in 0..255.

    The square is 1.4 times as large as the face and moved down by a fifth of it, so that the chin is well inside.
    """
    names = clip.info["landmark_names"]
    points = torch.from_numpy(clip.truth["landmarks"]).float() / clip.info["size"]
    chin, nose = points[:, names.index("chin")], points[:, names.index("nose_bridge")]
    half = 0.8 * (chin - nose).norm(dim=1).mean()
    centre = torch.stack([(chin[:, 0] + nose[:, 0]) / 2, chin[:, 1] - half], dim=1)
    middle = centre + torch.tensor([0.0, 0.4]) * half
    theta = torch.zeros(len(video), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 2.8 * half
    theta[:, :, 2] = 2 * middle - 1
    grid = F.affine_grid(theta, [len(video), 3, SIDE, SIDE], align_corners=False)
    frames = video.movedim(-1, 1).float().flip(1)
    return F.grid_sample(frames, grid, padding_mode="border", align_corners=False).movedim(1, 0)
