"""The pack's own socket types, and one of core's. Their names are part of every saved workflow and never change."""

from .comfy_bridge import io

Model = io.Custom("STARCASTER_MODEL")
Identity = io.Custom("STARCASTER_IDENTITY")
Speech = io.Custom("STARCASTER_SPEECH")
Camera = io.Custom("STARCASTER_CAMERA")
FaceLandmarks = io.Custom("FACE_LANDMARKS")  # core's, of its Detect Face Landmarks node
