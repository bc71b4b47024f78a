"""What is hard about a portrait: taken from the side or from afar, with the mouth wide open or the eyes shut."""

from __future__ import annotations

import numpy as np

from ..types import Identity
from .landmarks import FaceLandmarks

SIDEWAYS = 25.0  # degrees of yaw; well beyond what a face from the front is measured at
FEW_PIXELS = 160  # of the photo, across the face's crop: a third of a frame's
WIDE_OPEN = 0.35  # of the mouth's width; broad smiles stay below 0.25
SHUT = 0.14  # of an eye's width; open eyes are seen from 0.15 on


def portrait_warnings(identity: Identity) -> list[str]:
    """Return what the user should know about a portrait or the photos it was made from, one sentence each."""
    warnings = [*identity.warnings]
    if abs(identity.yaw) >= SIDEWAYS:
        warnings.append(
            f"The portrait seems to be taken from about {abs(identity.yaw):.0f} degrees to the side; "
            "one that looks into the camera does better."
        )
    if identity.crop is not None and identity.portrait is not None:
        side = len(identity.portrait) / np.hypot(*identity.crop[0, :2])
        if side < FEW_PIXELS:
            warnings.append(
                f"The head takes only about {side:.0f} pixels of the photo, so frames are soft; "
                "one in which it takes 512 or more does better."
            )
    return warnings


def expression_warnings(found: FaceLandmarks | None) -> tuple[str, ...]:
    """Return what the user should know about the expression in a photo, one sentence each."""
    if found is None:
        return ()
    warnings = []
    if found.mouth_opening > WIDE_OPEN:
        warnings.append(
            "The mouth in the photo is wide open, and tongue and teeth that it shows stay in sight; "
            "one with closed lips does better."
        )
    if max(found.lid_openings) < SHUT:
        warnings.append("The eyes in the photo are shut, and stay so; one with open eyes does better.")
    return tuple(warnings)
