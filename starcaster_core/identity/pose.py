"""What is hard about a portrait that is not taken from the front."""

from __future__ import annotations

from ..types import Identity

SIDEWAYS = 25.0  # degrees of yaw; well beyond what a face from the front is measured at


def portrait_warnings(identity: Identity) -> list[str]:
    """Return what the user should know about a portrait or the photos it was made from, one sentence each."""
    if abs(identity.yaw) < SIDEWAYS:
        return [*identity.warnings]
    return [
        *identity.warnings,
        f"The portrait seems to be taken from about {abs(identity.yaw):.0f} degrees to the side; "
        "one that looks into the camera does better.",
    ]
