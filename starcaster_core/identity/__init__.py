"""Photos in, identity out: detect, align to the FFHQ crop, embed."""

from .align import align, ffhq_transform, warp
from .embed import embed
from .faces import CHOICES, MINIMUM_FACE, Face, detect, face_at, select_face
from .identity import load_identity, make_identity, save_identity, save_new_identity
from .pictures import as_rgb, read_picture
from .pose import portrait_warnings
from .recognisers import load_recogniser

__all__ = [
    "CHOICES",
    "MINIMUM_FACE",
    "Face",
    "align",
    "as_rgb",
    "detect",
    "embed",
    "face_at",
    "ffhq_transform",
    "load_identity",
    "load_recogniser",
    "make_identity",
    "portrait_warnings",
    "read_picture",
    "save_identity",
    "save_new_identity",
    "select_face",
    "warp",
]
