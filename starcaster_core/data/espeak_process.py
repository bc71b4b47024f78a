"""One utterance by espeak-ng, as a process of its own: JSON on stdin, a JSON line and 16-bit samples on stdout.

Or only how things are pronounced: with a list of texts in "spell", the answer is a JSON list of their IPA.

A process for each utterance because the library keeps state between calls (noise, pitch flutter, the last clause), so
that only a fresh one gives the same sound twice; and because it is not thread-safe. Standard library only, which makes
the start cheap (about 30 ms).
"""

import ctypes
import json
import sys

SYNCHRONOUS, PHONEME_EVENTS, UTF8, END_OF_LIST, PHONEME, IPA = 2, 1, 1, 0, 7, 2
RATE, PITCH = 1, 3
NO_LIBRARY, NO_VOICE = 3, 4  # exit codes the parent knows


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds: where the phoneme begins
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def main() -> int:
    request = json.load(sys.stdin)
    try:
        library = ctypes.CDLL("libespeak-ng.so.1")
    except OSError:
        return NO_LIBRARY
    sample_rate = library.espeak_Initialize(SYNCHRONOUS, 0, None, PHONEME_EVENTS)
    if sample_rate <= 0:
        return NO_LIBRARY
    if library.espeak_SetVoiceByName(request["voice"].encode()) != 0:
        return NO_VOICE
    if "spell" in request:
        json.dump([_spell(library, text) for text in request["spell"]], sys.stdout)
        return 0

    pcm, phonemes = [], []

    @_Callback
    def collect(samples, count, events):
        if count > 0 and samples:
            pcm.append(ctypes.string_at(samples, 2 * count))
        i = 0
        while events[i].type != END_OF_LIST:
            if events[i].type == PHONEME:
                phonemes.append([events[i].audio_position, events[i].id.string.decode("utf8", "ignore")])
            i += 1
        return 0

    library.espeak_SetSynthCallback(collect)
    library.espeak_SetParameter(RATE, request["rate"], 0)
    library.espeak_SetParameter(PITCH, request["pitch"], 0)
    text = request["text"].encode()
    library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 1, 0, UTF8, None, None)
    library.espeak_Synchronize()

    header = json.dumps({"sample_rate": sample_rate, "phonemes": phonemes})
    sys.stdout.buffer.write(header.encode() + b"\n" + b"".join(pcm))
    return 0


def _spell(library: ctypes.CDLL, text: str) -> str:
    """IPA with stress marks, words apart; the library takes a clause at a call and leaves a null pointer at the end."""
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    rest, clauses = ctypes.c_char_p(text.encode()), []
    while rest.value:
        clauses.append(library.espeak_TextToPhonemes(ctypes.byref(rest), UTF8, IPA).decode("utf8", "ignore"))
    return " ".join(clauses)


if __name__ == "__main__":
    sys.exit(main())
