"""What people really hand over, as small files made here: pictures, sounds, keyframes, identities, names and settings.

Every case is a change to one `generate` command that works, and says what must come out of it. Nothing here is
anybody's file: the face and the voice are the shipped ones, the rest is made of them or of noise.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

REPO = Path(__file__).resolve().parents[3]
ASSETS = REPO / "starcaster_core" / "assets"
RATE = 16_000


@dataclass(frozen=True)
class Case:
    """options: given a folder, makes files there and returns the command's options; None takes one away.

    says: what the one sentence of an error must hold; None: the video is made. warns: what a warning must hold; ""
    none.
    loud: how loud what is heard must be at least, root mean square, where that matters. after: looks at the folder
    afterwards.
    """

    name: str
    options: Callable[[Path], dict]
    says: str | None = None
    warns: str | None = None
    loud: float = 0.0
    after: Callable[[Path], bool] | None = None


def put(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Pictures


@lru_cache
def face(side: int = 256) -> Image.Image:
    return Image.open(ASSETS / "portrait.png").convert("RGB").resize((side, side))


def grey16() -> np.ndarray:
    return np.asarray(face().convert("L")).astype(np.uint16) * 257


def as_bytes(picture: Image.Image, kind: str, **settings) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, kind, **settings)
    return sink.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *more: tuple[bytes, bytes]) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def png16_colour() -> bytes:
    pixels = (np.asarray(face()).astype(">u2") * 257).astype(">u2")
    return png(256, 256, 16, 2, b"".join(b"\0" + row.tobytes() for row in pixels))


def small_on_large(side: int, large: int) -> Image.Image:
    picture = Image.new("RGB", (large, large), (90, 90, 90))
    picture.paste(face(side), ((large - side) // 2, (large - side) // 2))
    return picture


def large_photo() -> bytes:
    picture = Image.new("L", (11_600, 9_000), 90)
    picture.paste(face(6000).convert("L"), (3000, 1500))
    return as_bytes(picture, "JPEG", quality=70)


def transparent() -> Image.Image:
    picture = face().convert("RGBA")
    picture.putalpha(255)
    return picture


def palette_with_transparency() -> bytes:
    return as_bytes(face().quantize(255), "PNG", transparency=0)


def pictures() -> list[Case]:
    rgb, grey = face(), face().convert("L")

    def good(name: str, content: Callable[[], bytes], file: str) -> Case:
        return Case(f"picture {name}", lambda f: portrait(put(f, file, content())), warns="")

    def bad(name: str, content: Callable[[], bytes] | bytes, says: str, file: str = "photo.png") -> Case:
        def make(folder: Path) -> dict:
            return portrait(put(folder, file, content if isinstance(content, bytes) else content()))

        return Case(f"picture {name}", make, says)

    def tiff(pixels: np.ndarray) -> bytes:
        return as_bytes(Image.fromarray(pixels), "TIFF")

    exif = Image.Exif()

    def turned(orientation: int, back: Image.Transpose) -> bytes:
        exif[0x0112] = orientation
        return as_bytes(rgb.transpose(back), "JPEG", exif=exif)

    float_grey = np.asarray(grey).astype(np.float32)
    cases = [
        good("rgb png", lambda: as_bytes(rgb, "PNG"), "a.png"),
        good("rgba png", lambda: as_bytes(transparent(), "PNG"), "a.png"),
        good("grey png", lambda: as_bytes(grey, "PNG"), "a.png"),
        good("grey and alpha png", lambda: as_bytes(transparent().convert("LA"), "PNG"), "a.png"),
        good("palette png", lambda: as_bytes(rgb.quantize(256), "PNG"), "a.png"),
        good("palette png with transparency", palette_with_transparency, "a.png"),
        good("16-bit grey png", lambda: as_bytes(Image.fromarray(grey16()), "PNG"), "a.png"),
        good("16-bit colour png", png16_colour, "a.png"),
        good("jpeg", lambda: as_bytes(rgb, "JPEG"), "a.jpg"),
        good("progressive jpeg", lambda: as_bytes(rgb, "JPEG", progressive=True), "a.jpg"),
        good("grey jpeg", lambda: as_bytes(grey, "JPEG"), "a.jpg"),
        good("cmyk jpeg", lambda: as_bytes(rgb.convert("CMYK"), "JPEG"), "a.jpg"),
        good("jpeg called png", lambda: as_bytes(rgb, "JPEG"), "a.png"),
        good("jpeg without a suffix", lambda: as_bytes(rgb, "JPEG"), "photo"),
        good("turned by exif 3", lambda: turned(3, Image.Transpose.ROTATE_180), "a.jpg"),
        good("turned by exif 6", lambda: turned(6, Image.Transpose.ROTATE_90), "a.jpg"),
        good("turned by exif 8", lambda: turned(8, Image.Transpose.ROTATE_270), "a.jpg"),
        good("webp", lambda: as_bytes(rgb, "WEBP"), "a.webp"),
        good("animated webp", lambda: as_bytes(rgb, "WEBP", save_all=True, append_images=[grey]), "a.webp"),
        good("gif", lambda: as_bytes(rgb, "GIF"), "a.gif"),
        good("animated gif", lambda: as_bytes(rgb, "GIF", save_all=True, append_images=[grey]), "a.gif"),
        good("animated png", lambda: as_bytes(rgb, "PNG", save_all=True, append_images=[rgb]), "a.png"),
        good("bmp", lambda: as_bytes(rgb, "BMP"), "a.bmp"),
        good("tga", lambda: as_bytes(rgb, "TGA"), "a.tga"),
        good("ppm", lambda: as_bytes(rgb, "PPM"), "a.ppm"),
        good("jpeg 2000", lambda: as_bytes(rgb, "JPEG2000"), "a.jp2"),
        good("tiff", lambda: as_bytes(rgb, "TIFF"), "a.tif"),
        good("compressed tiff", lambda: as_bytes(rgb, "TIFF", compression="tiff_lzw"), "a.tif"),
        good("16-bit grey tiff", lambda: tiff(grey16()), "a.tif"),
        good("12-bit values in a 16-bit tiff", lambda: tiff((grey16() >> 4).astype(np.uint16)), "a.tif"),
        good("32-bit grey tiff", lambda: tiff(grey16().astype(np.int32)), "a.tif"),
        good("float tiff 0..1", lambda: tiff(float_grey / 255), "a.tif"),
        good("float tiff 0..255", lambda: tiff(float_grey), "a.tif"),
        good("float tiff 0..65535", lambda: tiff(float_grey * 257), "a.tif"),
        good("100 megapixels", large_photo, "a.jpg"),
        good("name in other letters", lambda: as_bytes(rgb, "PNG"), "\u5199\u771f é.png"),
        good("broken exif", lambda: as_bytes(rgb, "JPEG", exif=b"Exif\0\0MM\0*garbage"), "a.jpg"),
        bad("empty file", b"", "a picture.*cannot be read"),
        bad("text", b"not a picture " * 40, "a picture.*cannot be read"),
        bad("web page called jpg", b"<!DOCTYPE html><html>404</html>", "a picture.*cannot be read", "a.jpg"),
        bad("svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a picture.*cannot be read", "a.svg"),
        bad("heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "a picture.*cannot be read", "a.heic"),
        bad("postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a picture.*cannot be read", "a.eps"),
        bad("cut png", lambda: as_bytes(rgb, "PNG")[:3000], "a picture.*cannot be read"),
        bad("cut jpeg", lambda: as_bytes(rgb, "JPEG")[:3000], "a picture.*cannot be read"),
        bad("png with a broken chunk", lambda: as_bytes(rgb, "PNG").replace(b"IDAT", b"ID\0T"), "cannot be read"),
        bad("png of no size", png(0, 0, 8, 2, b""), "cannot be read"),
        bad("png with a bomb of text", lambda: bomb_of_text(), "cannot be read"),
        bad("14000x14000", lambda: png(14_000, 14_000, 1, 0, bytes(14_000 * 1751)), "megapixels"),
        bad("100000x100000 header", png(100_000, 100_000, 8, 2, b"\0"), "megapixels"),
        bad("one pixel", lambda: as_bytes(rgb.resize((1, 1)), "PNG"), "a photo with a face"),
        bad("a plain wall", lambda: as_bytes(Image.new("RGB", (300, 300), (9, 90, 90)), "PNG"), "a photo with a face"),
        bad("lying on its left side", lambda: as_bytes(rgb.rotate(90), "PNG"), "upright.*Turn it"),
        bad("lying on its right side", lambda: as_bytes(rgb.rotate(270), "PNG"), "upright.*Turn it"),
        bad("large, on its side", lambda: as_bytes(face(512).rotate(90), "PNG"), "upright.*Turn it"),
        bad("large, upside down", lambda: as_bytes(face(512).rotate(180), "PNG"), "upright.*Turn it"),
        bad("upside down", lambda: as_bytes(rgb.rotate(180), "PNG"), "upright.*Turn it"),
        bad("face too small", lambda: as_bytes(small_on_large(56, 512), "PNG"), "40 pixels wide|a photo with a face"),
        bad("two people", lambda: as_bytes(side_by_side(), "PNG"), "one person"),
        bad("float tiff with NaN", lambda: tiff(np.full((64, 64), np.nan, np.float32)), "finite"),
        bad("float tiff below 0", lambda: tiff(float_grey / 128 - 1), "0..1"),
        Case("picture folder", lambda f: portrait(f), "a picture.*cannot be read"),
        Case("picture missing", lambda f: portrait(f / "gone.png"), "a file for --portrait"),
        Case("picture name too long", lambda f: portrait(f / ("x" * 300 + ".png")), "a file for --portrait"),
        Case(
            "picture name with a line break",
            lambda f: portrait(f / "a\n\x1b[31mb.png"),
            r"a file for --portrait.*\\n\\x1b",
        ),
        Case(
            "picture name of bytes",
            lambda f: portrait(os.fsdecode(os.fsencode(f) + b"/\xe9.png")),
            "a file for --portrait",
        ),
        Case("sound as picture", lambda f: portrait(ASSETS / "voice.flac"), "a picture.*cannot be read"),
        Case(
            "two photos of one person",
            lambda f: portrait(ASSETS / "portrait.png", put(f, "b.jpg", as_bytes(rgb, "JPEG"))),
            warns="",
        ),
        Case(
            "two different people",
            lambda f: portrait(ASSETS / "portrait.png", ASSETS / "portrait_2.png"),
            warns="[Pp]hoto 2.*another person",
        ),
        Case(
            "the second of two photos without a face",
            lambda f: portrait(ASSETS / "portrait.png", put(f, "b.png", as_bytes(Image.new("RGB", (99, 99)), "PNG"))),
            "photo 2 of 2",
        ),
    ]
    return cases


def portrait(*paths: Path | str) -> dict:
    return {"--identity": None, "--portrait": list(paths)}


def bomb_of_text() -> bytes:
    text = b"Comment\0\0" + zlib.compress(bytes(80_000_000))
    return png(64, 64, 8, 0, bytes(64 * 65), (b"zTXt", text))


def side_by_side() -> Image.Image:
    picture = Image.new("RGB", (512, 256))
    picture.paste(face(), (0, 0))
    picture.paste(face(), (256, 0))
    return picture


# Sounds


@lru_cache
def voice() -> np.ndarray:
    """float32 [N] at 16 kHz, a second of the shipped voice."""
    import av

    with av.open(str(ASSETS / "voice.flac")) as file:
        samples = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)[0]
    return (samples / 32768).astype(np.float32)[RATE // 2 : RATE * 3 // 2]


LEVEL = 0.12  # the voice's root mean square is 0.19, 0.135 heard in the middle alone: below this something was lost


def wav(channels: np.ndarray, rate: int = RATE, width: int = 2, mask: int | None = None) -> bytes:
    """channels [C, N] in -1..1 as PCM of `width` bytes; 4 and 8 with floats where `width` is negative."""
    data = np.ascontiguousarray(np.asarray(channels).T)
    if width < 0:
        body, code = data.astype(f"<f{-width}").tobytes(), 3
    elif width == 1:
        body, code = ((data + 1) * 127.5).astype(np.uint8).tobytes(), 1
    else:
        whole = np.round(data * (2 ** (8 * width - 1) - 1)).astype("<i4")
        body, code = whole.view(np.uint8).reshape(*data.shape, 4)[..., :width].tobytes(), 1
    size, count = abs(width), data.shape[1]
    kind = 0xFFFE if mask is not None else code
    form = struct.pack("<HHIIHH", kind, count, rate, rate * count * size, count * size, 8 * size)
    if mask is not None:
        guid = struct.pack("<H", code) + bytes.fromhex("000000001000800000aa00389b71")
        form += struct.pack("<HHI", 22, 8 * size, mask) + guid
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def encoded(
    channels: np.ndarray,
    codec: str,
    container: str,
    rate: int = 48_000,
    picture: bool = False,
    layout: str | None = None,
) -> bytes:
    """channels [C, N] at 16 kHz, through an encoder."""
    import av

    layout = layout or {1: "mono", 2: "stereo", 6: "5.1"}[len(channels)]
    sink = io.BytesIO()
    with av.open(sink, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        if picture:
            shown = file.add_stream("libx264", rate=25)
            shown.width = shown.height = 64
            shown.pix_fmt = "yuv420p"
            for _ in range(25):
                file.mux(shown.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")))
            file.mux(shown.encode())
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels, np.float32), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = RATE, 0
        size = stream.codec_context.frame_size or 1024
        convert = av.AudioResampler(format=stream.format, layout=layout, rate=rate, frame_size=size)
        for part in [*convert.resample(frame), *convert.resample(None), None]:
            file.mux(stream.encode(part))
    return sink.getvalue()


def mute_video() -> bytes:
    import av

    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for part in [av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24"), None]:
            file.mux(stream.encode(part))
    return sink.getvalue()


def with_garbage(content: bytes, start: float = 0.4, length: int = 900) -> bytes:
    at = int(start * len(content))
    noise = np.random.default_rng(0).integers(0, 256, length, np.uint8).tobytes()
    return content[:at] + noise + content[at + length :]


def in_channel(index: int, count: int) -> np.ndarray:
    channels = np.zeros((count, len(voice())), np.float32)
    channels[index] = voice()
    return channels


def sounds() -> list[Case]:
    mono, stereo = voice()[None], np.stack([voice(), voice()])
    opposed = np.stack([voice(), -voice()])
    late = np.stack([voice(), voice() * np.where(np.arange(len(voice())) < len(voice()) // 2, 1, -1)])

    def good(name, content, file="a.wav", warns="", loud=LEVEL, seconds=None) -> Case:
        def make(folder: Path) -> dict:
            return {"--speech": put(folder, file, content()), "--seconds": seconds}

        return Case(f"sound {name}", make, warns=warns, loud=loud)

    def bad(name, content, says, file="a.wav", seconds=None) -> Case:
        def make(folder: Path) -> dict:
            return {"--speech": put(folder, file, content()), "--seconds": seconds}

        return Case(f"sound {name}", make, says)

    def nested(name: str, text: str) -> Case:
        def make(folder: Path) -> dict:
            put(folder, "other.wav", wav(mono))
            return {"--speech": put(folder, name, text)}

        return Case(f"sound playlist {name}", make, "sound that can be decoded")

    def broken(value: float) -> bytes:
        samples = mono.copy()
        samples[0, 100] = value
        return wav(samples, width=-4)

    cases = [
        *(good(f"wav of {w} bytes", lambda w=w: wav(mono, width=w)) for w in (1, 2, 3, 4, -4, -8)),
        *(good(f"wav at {r} Hz", lambda r=r: wav(stereo, r)) for r in (8000, 11_025, 44_100)),
        good("wav at 192 kHz", lambda: wav(np.repeat(mono, 12, axis=1), 192_000)),
        good("stereo wav", lambda: wav(stereo)),
        good("flac", lambda: encoded(mono, "flac", "flac"), "a.flac"),
        good("mp3", lambda: encoded(stereo, "libmp3lame", "mp3"), "a.mp3"),
        good("m4a", lambda: encoded(stereo, "aac", "mp4"), "a.m4a"),
        good("raw aac", lambda: encoded(mono, "aac", "adts"), "a.aac"),
        good("opus", lambda: encoded(mono, "libopus", "ogg"), "a.ogg"),
        good("alac", lambda: encoded(stereo, "alac", "mp4"), "a.m4a"),
        good("ac3", lambda: encoded(stereo, "ac3", "ac3"), "a.ac3"),
        good("aiff", lambda: encoded(mono, "pcm_s16be", "aiff"), "a.aiff"),
        good("mka of floats", lambda: encoded(mono, "pcm_f32le", "matroska"), "a.mka"),
        good("video with sound", lambda: encoded(mono, "aac", "mp4", picture=True), "a.mp4"),
        good("mp3 called wav", lambda: encoded(mono, "libmp3lame", "mp3"), "a.wav"),
        good("voice on the left alone", lambda: wav(in_channel(0, 2)), loud=0.09),
        good("channels in opposite phase", lambda: wav(opposed)),
        good("channels in opposite phase for a while", lambda: wav(late), loud=0.15),
        good("5.1, voice in the middle", lambda: wav(in_channel(2, 6), mask=0x3F)),
        good("5.1, voice left", lambda: wav(in_channel(0, 6), mask=0x3F), loud=0.09),
        good(
            "5.1 in opposite phase", lambda: wav(np.concatenate([opposed, np.zeros_like(stereo), opposed]), mask=0x3F)
        ),
        good("7.1, voice in the middle", lambda: wav(in_channel(2, 8), mask=0x63F)),
        good("quad", lambda: wav(in_channel(1, 4), mask=0x33), loud=0.09),
        good("3 channels without a layout", lambda: wav(in_channel(0, 3)), loud=0.09),
        good("6 channels without a layout", lambda: wav(in_channel(2, 6))),
        good("16 channels without a layout", lambda: wav(in_channel(0, 16)), loud=0.004),
        good("5.1 aac", lambda: encoded(in_channel(2, 6), "aac", "mp4"), "a.m4a"),
        good(
            "rate changes on the way",
            lambda: encoded(mono, "libmp3lame", "mp3", 44_100) + encoded(mono, "libmp3lame", "mp3", 22_050),
            "a.mp3",
            warns=None,
        ),
        good(
            "layout changes on the way",
            lambda: encoded(mono, "aac", "adts") + encoded(stereo, "aac", "adts"),
            "a.aac",
            warns=None,
        ),
        good(
            "layout changes from stereo to mono",
            lambda: encoded(stereo, "aac", "adts") + encoded(mono, "aac", "adts"),
            "a.aac",
            warns=None,
        ),
        good("damaged mp3", lambda: with_garbage(encoded(mono, "libmp3lame", "mp3")), "a.mp3", warns=None),
        good("damaged aac", lambda: with_garbage(encoded(mono, "aac", "adts")), "a.aac", warns="damaged"),
        good("damaged flac", lambda: with_garbage(encoded(mono, "flac", "flac"), 0.5, 50), "a.flac", warns=None),
        good("damaged opus", lambda: with_garbage(encoded(mono, "libopus", "ogg")), "a.ogg", warns="announces", loud=0),
        good("damaged m4a", lambda: with_garbage(encoded(mono, "aac", "mp4"), 0.3), "a.m4a", warns="damaged"),
        good("cut mp3", lambda: encoded(mono, "libmp3lame", "mp3")[:6000], "a.mp3", warns=None),
        good("cut wav", lambda: wav(mono)[:20_001], warns=None),
        good("wav of unknown length", lambda: wav(mono).replace(struct.pack("<I", 32_000), b"\xff" * 4)),
        good("one sample", lambda: wav(mono[:, 400:401]), warns=None, loud=0),
        good("silence", lambda: wav(0 * mono), warns="silent", loud=0),
        good("clipped", lambda: wav(np.clip(30 * mono, -1, 1)), warns="clipped"),
        good("longer than the speech", lambda: wav(mono[:, :10_880]), warns="silence follows", seconds=3, loud=0.02),
        good("301 s, two of them asked for", lambda: wav(np.tile(mono, 301)[:, ::2], 8000), seconds=2, loud=0.02),
        bad("301 s", lambda: wav(np.tile(mono[:, ::2], 301), 8000, 1), "300 seconds.*--seconds"),
        bad("empty file", lambda: b"", "sound that can be decoded"),
        bad("text", lambda: b"no sound " * 99, "sound that can be decoded"),
        bad("noise called mp3", lambda: with_garbage(bytes(5000), 0, 5000), "sound", "a.mp3"),
        bad("wav without samples", lambda: wav(mono[:, :0]), "one sample"),
        bad("wav header alone", lambda: wav(mono)[:40], "sound"),
        bad("wav at 0 Hz", lambda: wav(mono, 0), "sound"),
        bad("cut m4a", lambda: encoded(mono, "aac", "mp4")[:-3000], "sound", "a.m4a"),
        bad("video without sound", mute_video, "an audio track", "a.mp4"),
        bad("picture as sound", lambda: as_bytes(face(), "PNG"), "sound|audio track", "a.png"),
        bad("NaN in it", lambda: broken(np.nan), "NaN"),
        bad("infinity in it", lambda: broken(np.inf), "NaN"),
        bad("1e30 in it", lambda: broken(1e30), "-1..1"),
        nested("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.wav\n#EXT-X-ENDLIST\n"),
        nested("list.txt", "ffconcat version 1.0\nfile other.wav\n"),
        nested("remote.m3u8", "#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/other.ts\n#EXT-X-ENDLIST\n"),
        nested("session.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n"),
        Case("sound folder", lambda f: {"--speech": f}, "a sound file"),
        Case("sound missing", lambda f: {"--speech": f / "gone.wav"}, "a file for --speech"),
        Case("sound address", lambda f: {"--speech": "http://127.0.0.1:9/a.wav"}, "a file for --speech"),
        Case("sound name too long", lambda f: {"--speech": f / ("x" * 300)}, "a file for --speech"),
    ]
    return cases


# Keyframes

GOOD_KEYS = '[{"time": 0, "yaw": 0, "pitch": 0, "distance": 1}, {"time": 1, "yaw": 20, "pitch": 5, "distance": 1}]'


def key(**changes) -> str:
    """One keyframe as JSON; None takes a field away, a string stands as it is."""
    fields = {"time": "0", "yaw": "0", "pitch": "0", "distance": "1"} | changes
    return "[{" + ", ".join(f'"{name}": {value}' for name, value in fields.items() if value is not None) + "}]"


KEYFRAME_TEXTS: dict[str, tuple[str, str | None]] = {
    "plain": (GOOD_KEYS, None),
    "with spaces and lines": (GOOD_KEYS.replace(", ", ",\r\n\t"), None),
    "eased": (key(easing='"hold"'), None),
    "beyond what was trained": (key(yaw="170"), None),
    "empty": ("", "not JSON"),
    "a word": ("orbit", "not JSON"),
    "an object": ("{}", "JSON list"),
    "a number": ("7", "JSON list"),
    "an empty list": ("[]", "at least one keyframe"),
    "a list of numbers": ("[1, 2]", "keyframe 1 as a JSON object"),
    "a list in it": ("[[0, 0, 0, 1]]", "keyframe 1 as a JSON object"),
    "a comma too much": (GOOD_KEYS[:-1] + ",]", "not JSON"),
    "a field missing": (key(yaw=None), "a number for yaw"),
    "a field unknown": (key(roll="1"), "Check the spelling"),
    "text for a number": (key(yaw='"30"'), "a number for yaw"),
    "true for a number": (key(yaw="true"), "a number for yaw"),
    "null": (key(yaw="null"), "a number for yaw"),
    "NaN": (key(yaw="NaN"), "a number for yaw"),
    "infinity": (key(pitch="-Infinity"), "a number for pitch"),
    "1e999": (key(distance="1e999"), "a number for distance"),
    "an integer of 400 digits": (key(yaw="9" * 400), "a number for yaw"),
    "an integer of 5000 digits": (key(yaw="9" * 5000), "not JSON|a number for yaw"),
    "yaw of 1e308": (key(yaw="1e308"), "yaw"),
    "pitch of 1e6": (key(pitch="1e6"), "pitch"),
    "distance 0": (key(distance="0"), "distance"),
    "distance below 0": (key(distance="-1"), "distance"),
    "distance of 1e300": (key(distance="1e300"), "distance"),
    "time below 0": (key(time="-1"), "at 0 s or later"),
    "times going back": (GOOD_KEYS.replace('"time": 0', '"time": 3'), "in the order of their times"),
    "a time twice": (GOOD_KEYS.replace('"time": 1', '"time": 0'), "in the order of their times"),
    "easing unknown": (key(easing='"bounce"'), "easing"),
    "easing a list": (key(easing="[]"), "easing"),
    "100,000 deep": ("[" * 100_000, "not JSON"),
    "a megabyte of text": (json.dumps(["x" * 1_000_000]), "keyframe 1 as a JSON object"),
    "a megabyte as a name": (json.dumps([{"y" * 1_000_000: 1}]), "Check the spelling"),
    "a megabyte as easing": (key(easing=json.dumps("z" * 1_000_000)), "easing"),
    "control characters": (json.dumps([{"\x1b[2J\x07": 1}]), "Check the spelling"),
    "half a character": (r'[{"\ud800": 1}]', "Check the spelling"),
}


def keyframes() -> list[Case]:
    def case(name: str, content: str | bytes, says: str | None) -> Case:
        return Case(f"keyframes {name}", lambda f: {"--camera": put(f, "path.json", content)}, says)

    cases = [case(name, text, says) for name, (text, says) in KEYFRAME_TEXTS.items()]
    cases += [
        case("with a byte order mark", GOOD_KEYS.encode("utf-8-sig"), None),
        case("in UTF-16", GOOD_KEYS.encode("utf-16"), None),
        case("in UTF-16, big end first", b"\xfe\xff" + GOOD_KEYS.encode("utf-16-be"), None),
        case("in UTF-16 without a mark", GOOD_KEYS.encode("utf-16-le"), "JSON|UTF-8"),
        case("in latin-1", '[{"während": 1}]'.encode("latin-1"), "UTF-8"),
        case("in bytes of no text", bytes(range(256)), "UTF-8"),
        case("of 30 MB", b" " * 30_000_000 + GOOD_KEYS.encode(), "at most"),
        Case("keyframes folder", lambda f: {"--camera": f}, "keyframe file"),
        Case("keyframes missing", lambda f: {"--camera": f / "gone.json"}, "keyframe file"),
        Case("camera unknown", lambda f: {"--camera": "spiral"}, "keyframe file"),
        Case("camera of 5000 letters", lambda f: {"--camera": "x" * 5000}, "keyframe file"),
        Case("camera text instead of a file", lambda f: {"--camera": GOOD_KEYS}, "keyframe file"),
    ]
    return cases


# Identities


def identity_bytes(embedding=None, metadata: dict | None = None, **tensors: np.ndarray) -> bytes:
    from safetensors.numpy import save

    embedding = np.ones(128, np.float32) if embedding is None else embedding
    facts = {"format": "starcaster-identity-1", "backend": "dlib", "yaw": "0.0", "pitch": "0.0"} | (metadata or {})
    facts = {name: value for name, value in facts.items() if value is not None}
    return save({"embedding": embedding, **tensors}, metadata=facts)


def raw_safetensors(header: str | bytes, body: bytes = b"") -> bytes:
    header = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(header)) + header + body


IDENTITY_FILES: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "without a portrait": (identity_bytes, None),
    "of version 0.1": (lambda: identity_bytes(metadata={"yaw": None, "pitch": None}), None),
    "with a portrait": (lambda: identity_bytes(portrait=np.asarray(face(64))), None),
    "empty": (lambda: b"", "saved identity"),
    "text": (lambda: b"no identity " * 99, "saved identity"),
    "a picture": (lambda: as_bytes(face(), "PNG"), "saved identity"),
    "a pickle": (lambda: b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07os.exit\x94.", "saved identity"),
    "cut": (lambda: identity_bytes()[:-7], "saved identity"),
    "of another format": (lambda: identity_bytes(metadata={"format": "x"}), "saved identity"),
    "of another program": (lambda: raw_safetensors("{}"), "saved identity"),
    "with NaN": (lambda: identity_bytes(np.full(128, np.nan, np.float32)), "saved identity"),
    "with 1e30": (lambda: identity_bytes(np.full(128, 1e30, np.float32)), "saved identity"),
    "of 5 numbers": (lambda: identity_bytes(np.ones(5, np.float32)), "saved identity"),
    "of integers": (lambda: identity_bytes(np.ones(128, np.int64)), "saved identity"),
    "with a portrait that is no square": (
        lambda: identity_bytes(portrait=np.zeros((64, 32, 3), np.uint8)),
        "saved identity",
    ),
    "with a portrait of 6000x6000": (
        lambda: identity_bytes(portrait=np.zeros((6000, 6000, 3), np.uint8)),
        "saved identity",
    ),
    "with a word for the yaw": (lambda: identity_bytes(metadata={"yaw": "left"}), "saved identity"),
    "with a yaw of NaN": (lambda: identity_bytes(metadata={"yaw": "nan"}), "saved identity"),
    "with a yaw of 1e999": (lambda: identity_bytes(metadata={"yaw": "1e999"}), "saved identity"),
    "with a yaw of 1e9": (lambda: identity_bytes(metadata={"yaw": "1e9"}), "saved identity"),
    "with an unknown backend": (lambda: identity_bytes(metadata={"backend": "x" * 99_999}), "identity|backend"),
    "with a photo that is none": (
        lambda: identity_bytes(photo_jpeg=np.zeros(99, np.uint8)),
        "saved identity",
    ),
    "with a header of 2^60 bytes": (lambda: struct.pack("<Q", 2**60) + b"{}", "saved identity"),
    "with a header 90,000 deep": (lambda: raw_safetensors("[" * 90_000), "saved identity"),
    "with half precision of another kind": (
        lambda: raw_safetensors(
            '{"__metadata__":{"format":"starcaster-identity-1"},'
            '"embedding":{"dtype":"BF16","shape":[128],"data_offsets":[0,256]}}',
            bytes(256),
        ),
        "saved identity",
    ),
}


def identities() -> list[Case]:
    def case(name: str, content: Callable[[], bytes], says: str | None) -> Case:
        return Case(f"identity {name}", lambda f: {"--identity": put(f, "me.safetensors", content())}, says)

    return [
        *(case(name, content, says) for name, (content, says) in IDENTITY_FILES.items()),
        Case("identity folder", lambda f: {"--identity": f}, "saved identity"),
        Case("identity missing", lambda f: {"--identity": f / "gone.safetensors"}, "a file for --identity"),
    ]


# Names


def outputs() -> list[Case]:
    def out(name: str, says: str | None = None, **more) -> Case:
        return Case(f"out {name[:30]!r} {len(name)}", lambda f: {"--out": f"{f}/{name}"}, says, **more)

    def same(name: str, option: str, content: Callable[[], bytes], link: str = "") -> Case:
        """--out is the file of another option, under the same or another name."""

        def make(folder: Path) -> dict:
            given = put(folder, "given.mp4", content())
            target = given
            if link == "dots":
                target = folder / ".." / folder.name / "given.mp4"
            elif link in ("symbolic", "hard"):
                target = folder / "other.mp4"
                {"symbolic": target.symlink_to, "hard": target.hardlink_to}[link](given)
            options = {option: given, "--out": target}
            return options | ({"--identity": None} if option == "--portrait" else {})

        return Case(f"out is {option} {link}", make, "an input")

    def speech() -> bytes:
        return encoded(voice()[None], "aac", "mp4")

    def kept(folder: Path) -> bool:
        return (folder / "a.mp4").read_bytes() != b"old"

    def existing(folder: Path) -> dict:
        return {"--out": put(folder, "a.mp4", b"old")}

    def below_a_file(option: str, name: str) -> Callable[[Path], dict]:
        return lambda f: {option: put(f, "file", b"") / name}

    def saved(folder: Path, name: str) -> dict:
        return {**portrait(ASSETS / "portrait.png"), "--save-identity": folder / name}

    def saved_over(folder: Path) -> dict:
        return {**portrait(ASSETS / "portrait.png"), "--save-identity": put(folder, "me.safetensors", b"mine")}

    return [
        out("a b.mp4"),
        out("é \u65e5\u672c \U0001f600.mp4"),
        out("UPPER.MP4"),
        out("a.webm"),
        out("a.mov"),
        out("a.gif"),
        out("new/folder/a.mp4"),
        out("x" * 251 + ".mp4"),
        out("%d%s%05d.mp4"),
        out("with:colon.mp4"),
        out("line\nbreak.mp4"),
        out("a.avi", "output file ending in"),
        out("a", "output file ending in"),
        out(".mp4", "output file ending in|file name"),
        out("x" * 252 + ".mp4", "255 bytes"),
        out("\u65e5" * 84 + ".mp4", "255 bytes"),
        out("/".join(["d" * 200] * 25) + "/a.mp4", "long"),
        out("nul\0.mp4", "file name|NUL|null"),
        Case("out a folder", lambda f: {"--out": _folder(f / "a.mp4")}, "a folder"),
        Case("out exists", existing, after=kept),
        Case("out below a file", below_a_file("--out", "a.mp4"), "folder"),
        Case("out far below a file", below_a_file("--out", "b/c/a.mp4"), "folder"),
        Case("out where nothing can be written", lambda f: {"--out": "/proc/starcaster/a.mp4"}, "folder|permissions"),
        Case("out http", lambda f: {"--out": "http://127.0.0.1:9/a.mp4"}, "address"),
        Case("out rtmp", lambda f: {"--out": "rtmp://127.0.0.1/live/a.mp4"}, "address"),
        Case("out file address", lambda f: {"--out": "file:///tmp/starcaster-a.mp4"}, "address"),
        Case("out tcp", lambda f: {"--out": "tcp:/127.0.0.1:9/a.mp4"}, "address"),
        same("speech", "--speech", speech, "plain"),
        same("speech", "--speech", speech, "symbolic"),
        same("speech", "--speech", speech, "hard"),
        same("speech", "--speech", speech, "dots"),
        same("portrait", "--portrait", lambda: as_bytes(face(), "PNG")),
        same("identity", "--identity", identity_bytes),
        same("camera", "--camera", lambda: GOOD_KEYS.encode()),
        same("model", "--model", lambda: b"a model"),
        same("audio encoder", "--audio-encoder", lambda: b"an encoder"),
        Case(
            "identity saved over the photo",
            lambda f: (p := put(f, "a.png", as_bytes(face(), "PNG"))) and {**portrait(p), "--save-identity": p},
            "an input",
        ),
        Case(
            "identity saved over the video",
            lambda f: {**portrait(ASSETS / "portrait.png"), "--out": f / "a.mp4", "--save-identity": f / "a.mp4"},
            "two files|another name|different",
        ),
        Case("identity saved", lambda f: saved(f, "me.safetensors"), after=lambda f: (f / "me.safetensors").is_file()),
        Case("identity saved in a new folder", lambda f: saved(f, "n/e/w/me.safetensors"), warns=""),
        Case(
            "identity saved below a file",
            lambda f: {**portrait(ASSETS / "portrait.png"), "--save-identity": put(f, "file", b"") / "me.safetensors"},
            "folder",
        ),
        Case("identity saved under a long name", lambda f: saved(f, "x" * 300), "255 bytes"),
        Case("identity saved under a name of 255 bytes", lambda f: saved(f, "x" * 255), warns=""),
        Case("identity saved as a folder", lambda f: saved(f, "."), "a folder"),
        Case(
            "identity saved over another",
            saved_over,
            warns="me_2",
            after=lambda f: (f / "me.safetensors").read_bytes() == b"mine" and (f / "me_2.safetensors").is_file(),
        ),
    ]


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


# Settings


def settings() -> list[Case]:
    def case(option: str, value, says: str | None, **more) -> Case:
        return Case(f"{option} {str(value)[:30]}", lambda f: {option: value, **more}, says)

    camera = {"--camera": "orbit"}
    return [
        *(case("--seconds", value, "seconds") for value in (0, -1, "nan", "inf", "1e12", 90_000)),
        case("--seconds", 0.0001, None),
        *(case("--steps", value, "steps from") for value in (0, -1, 5000)),
        *(case("--seed", value, "seed from") for value in (-1, 2**64)),
        case("--seed", 2**64 - 1, None),
        *(case("--guidance-scale", value, "guidance_scale from") for value in ("nan", -1, 1e9)),
        *(case("--guidance-end", value, "guidance_end from") for value in ("nan", 2)),
        *(case("--lambda-audio", value, "lambda_audio from") for value in ("nan", 2)),
        case("--lambda-camera", -1, "lambda_camera from"),
        *(case("--head-motion", value, "head_motion from") for value in ("nan", 9)),
        *(case("--size", value, "a size from") for value in (-1, 10, 99_999)),
        *(case("--yaw", value, "yaw|angle|camera", **camera) for value in ("nan", "inf", "1e300")),
        case("--pitch", "nan", "pitch|angle|camera", **camera),
        *(case("--period", value, "a period of", **camera) for value in (-1, "nan")),
        case("--device", "toaster", "a device that"),
        case("--device", "cuda:99", "a device that"),
        case("--model", "gone.safetensors", "gone.safetensors"),
        case("--model", "x" * 5000, "shorter name"),
        Case("model folder", lambda f: {"--model": f}, "checkpoint|model"),
        Case("model text", lambda f: {"--model": put(f, "m.safetensors", "text " * 99)}, "m.safetensors"),
        Case("model pickle", lambda f: {"--model": put(f, "m.ckpt", b"\x80\x04.")}, "m.ckpt"),
        Case("face unknown", lambda f: {**portrait(ASSETS / "portrait.png"), "--face": "middle"}, "choice of a face"),
        Case("nobody", lambda f: {"--identity": None}, "--portrait or an --identity"),
        Case("portrait and identity", lambda f: {"--portrait": [ASSETS / "portrait.png"]}, "both"),
        Case("audio encoder missing", lambda f: {"--audio-encoder": f / "gone"}, "gone"),
    ]


def all_cases() -> list[Case]:
    return [*pictures(), *sounds(), *keyframes(), *identities(), *outputs(), *settings()]
