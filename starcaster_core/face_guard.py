"""Whether a chunk still shows a face, and that of the person: a look at one frame of it, as the model draws it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .errors import MissingDependencyError
from .types import CameraPath, Identity

if TYPE_CHECKING:
    from .models.starcaster import Starcaster

SEEN_FROM = 60, 40  # degrees of the camera's yaw and pitch within which a face is found
FRONTAL = 15, 10  # the same, for embeddings to say something; a head turned by itself counts
EVERY = 32  # chunks; embedding a face takes as long as a third of one
GROWTH = 0.3  # of the dlib distance to the person; `mini` stays within 0.17, other people are 0.4 farther
SIDE = 256  # pixels that smaller frames are enlarged to, for dlib


class FaceGuard:
    """Looks at chunks in order. A video that begins without a face, as a cartoon's may, is not looked at again."""

    def __init__(self, model: Starcaster, identity: Identity, camera: CameraPath | None = None):
        self.model, self.identity, self.camera = model, identity, camera
        self.shows: bool | None = None  # whether the video shows a face; None until a frame was looked at
        self.begin: np.ndarray | None = None  # a frame of the beginning, and its distance to the person once it counts
        self.first: float | None = None
        self.person: np.ndarray | None = None  # dlib's embedding, known with `first`

    def fault(self, latents: Tensor, index: int) -> tuple[str, str] | None:
        """Return what is wrong with chunk `index`, latents [1, C, T, h, w]: what was wanted, what came.

        Four frames are looked at until one shows a face. Frames that the camera sees from far aside count as good.
        """
        if self.shows is False:
            return None
        from .identity.landmarks import find_landmarks

        count = latents.shape[2]
        looked = 0
        for frame in (count // 2, 0, count - 1, count // 4):
            yaw, pitch = self.seen_from(index * count + frame)
            if yaw > SEEN_FROM[0] or pitch > SEEN_FROM[1]:
                continue
            picture, looked = self.picture(latents, frame), looked + 1
            if shows_face(picture) or find_landmarks(picture) is not None:
                self.shows = True
                frontal = yaw <= FRONTAL[0] and pitch <= FRONTAL[1]
                return self.estrangement(picture) if frontal and index % EVERY == 0 else None
        if looked and self.shows is None:
            self.shows = False
        return ("a face", "no face") if looked and self.shows else None

    def estrangement(self, picture: np.ndarray) -> tuple[str, str] | None:
        """Return the fault of a face that is farther from the person than in the beginning."""
        if self.begin is not None and self.first is None:
            self.first = self.distance(self.begin)
        if self.first is None:
            self.begin = picture
            return None
        away = self.distance(picture)
        if away is None or away - self.first <= GROWTH:
            return None
        return "the person's face", f"another face (dlib distance {away:.2f}, {self.first:.2f} in the beginning)"

    def distance(self, picture: np.ndarray) -> float | None:
        """Return how far the face is from the person; None where that cannot be told."""
        if self.person is None:
            own, portrait = self.identity.backend == "dlib", self.identity.portrait
            self.person = self.identity.embedding if own else None if portrait is None else embedding(portrait)
        found = None if self.person is None else embedding(picture)
        return None if found is None else float(np.linalg.norm(found - self.person))

    def seen_from(self, frame: int) -> tuple[float, float]:
        """Return the camera's yaw and pitch at a frame of the video, degrees without their signs."""
        if self.camera is None:
            return 0.0, 0.0
        from .camera.poses import angles

        yaw, pitch, _ = angles(self.camera.world_from_cam[min(frame, self.camera.frames - 1)])
        return abs(float(yaw)), abs(float(pitch))

    @torch.no_grad()
    def picture(self, latents: Tensor, frame: int) -> np.ndarray:
        """Decode one frame of latents: uint8 [S, S, 3]."""
        drawn = self.model.decode_frames(latents[:, :, frame : frame + 1].to(self.model.device))[0]
        return (drawn * 255).round().to(torch.uint8).cpu().numpy()


def shows_face(picture: np.ndarray) -> bool:
    """Return whether the detector finds a face in a picture uint8 [S, S, 3]; it takes a tenth of `find_landmarks`."""
    from .identity.landmarks import Square, find_faces

    side = float(len(picture))
    return bool(find_faces(picture, Square(np.array([side, side]) / 2, side, 0.0)))


def embedding(picture: np.ndarray) -> np.ndarray | None:
    """Return dlib's embedding of a picture's face, float32 [128]; None without a face seen from the front, or dlib."""
    from .identity import embed, face_at
    from .identity.landmarks import find_landmarks
    from .identity.pictures import enlarged

    times = max(1, round(SIDE / len(picture)))
    found = find_landmarks(picture)
    if found is None or abs(found.pose.yaw) > FRONTAL[0]:
        return None
    picture = enlarged(picture, times)
    try:
        return embed(picture, face_at(picture, list(found.box * times)))
    except MissingDependencyError:
        return None
