"""Which parts of a model have had no training yet."""

from __future__ import annotations

from ..models.starcaster import Starcaster
from ..models.weight_groups import group_of
from .recipe import Stage


def still_untrained(model: Starcaster, stage: Stage) -> tuple[str, ...]:
    """Return what is left of `model.untrained` after a stage, whose trainable parameters require gradients.

    A group (`models/weight_groups.py: GROUPS`) is trained if some of its parameters are trainable, the stage uses it,
    and, for speech and camera, the stage's clips have them.
    """
    trained = {group_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    kinds = {kind for kind, fraction in stage.kinds if fraction}
    if not kinds & {"temporal", "joint"}:
        trained -= {"audio"}
    if not kinds & {"spatial", "joint"}:
        trained -= {"camera"}
    if not stage.adapters:
        trained -= {"lora", "audio", "camera"}
    if not stage.motion:
        trained -= {"motion"}
    return tuple(group for group in model.untrained if group not in trained)
