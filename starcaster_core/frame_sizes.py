"""Which frames can be asked for. Beside `frame_decoder.py`, which needs torch, for those who only offer the choice."""

FRAMES = ("face", "picture")  # the face's crop, or the whole photo with the face in its place
FULL = 512  # side of a decoded face, pixels; larger ones are multiples of it
SMALLEST, LARGEST = 64, 4 * FULL
