"""How fast it is, beside the same work done plainly with diffusers."""

from .measure import add_arguments, run

__all__ = ["add_arguments", "run"]
