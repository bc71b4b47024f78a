"""STARCaster: identity-aware, speech-driven, camera-controlled talking portraits.

The core of the node pack, usable from a script. Nothing in here imports ComfyUI, and every import inside the
package is relative, because ComfyUI loads the pack under a name of its own choosing.
"""

__version__ = "0.1.0"
