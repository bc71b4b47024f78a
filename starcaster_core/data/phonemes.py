"""One alphabet for the sounds of English, whatever synthesizer spelled them.

Classes are the 39 phonemes of ARPABET, schwa and silence. espeak-ng's own mnemonics (its `phsource/ph_english*`),
flite's names and the IPA of American English are mapped to them; no alphabet has a symbol that means another sound in
another one, but for flite's "aa", which `tts.py` renames.
"""

from __future__ import annotations

CLASS_NAMES = tuple(
    (
        "sil aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y z zh"
    ).split()
)
SILENCE = 0
AH_OR_AX = len(CLASS_NAMES)  # in labels only: either of the two, where an aligner without a schwa says "ah"

# class: the symbols of espeak-ng that belong to it (its accents included)
_ESPEAK = {
    "sil": "_ _: _! _| _^_ ? |",
    "aa": "A: A A@ A# 0 A~ A2 A:r",
    "ae": "a aa a2 &",
    "ah": "V V2 VR",
    "ao": "O: O O@ o@ O2 O3 0# 02 O~ O@r o:",
    "aw": "aU aU@ aU2",
    "ax": "@ a# @2 @L @# @5 I2# @1 @-",
    "ay": "aI aI@ aI3 aI2 aI5",
    "b": "b b#",
    "ch": "tS tS;",
    "d": "d d[ d# d2",
    "dh": "D D2 DH",
    "eh": "E e@ E@ e E2 e: E# e@r ER E:",
    "er": "3: 3 IR @r 3r V# @3",
    "ey": "eI eI2 e:j",
    "f": "f",
    "g": "g Q Q^ gh",
    "hh": "h h2 C x H",
    "ih": "I I2 I# i@3 i@ i2 I@",
    "iy": "i: i i:2",
    "jh": "dZ J",
    "k": "k k# x2",
    "l": "l l/ L l# l/2 l/3 l^",
    "m": "m m-",
    "n": "n n- n^",
    "ng": "N",
    "ow": "oU o oU# oU2",
    "oy": "OI",
    "p": "p",
    "r": "r r- r/ R * r/2 R2",
    "s": "s",
    "sh": "S S;",
    "t": "t t# t[ t2 *t",
    "th": "T",
    "uh": "U U@ U2 U# u@",
    "uw": "u: u u:2 U:",
    "v": "v",
    "w": "w w# w2 hw",
    "y": "j ;",
    "z": "z z# z/2",
    "zh": "Z",
}
# class: the symbols of IPA that belong to it and that the others lack. They are escaped here and elsewhere, since some
# tools on Windows read sources as cp1252.
_IPA = {
    "sil": "\u0294",
    "aa": "\u0251 \u0251\u02d0 \u0252",
    "ae": "æ",
    "ah": "\u028c",
    "ao": "\u0254 \u0254\u02d0 o\u02d0",
    "aw": "a\u028a",
    "ax": "\u0259 \u0250",
    "ay": "a\u026a",
    "ch": "t\u0283",
    "dh": "ð",
    "eh": "\u025b",
    "er": "\u025c \u025c\u02d0 \u025a",
    "ey": "e\u026a",
    "g": "\u0261",
    "ih": "\u026a \u1d7b",
    "iy": "i\u02d0",
    "jh": "d\u0292",
    "ng": "\u014b",
    "ow": "o\u028a",
    "oy": "\u0254\u026a",
    "r": "\u0279",
    "sh": "\u0283",
    "t": "\u027e",
    "th": "\u03b8",
    "uh": "\u028a",
    "uw": "u\u02d0",
    "zh": "\u0292",
}
PHONEME_CLASSES = {name: index for index, name in enumerate(CLASS_NAMES)}  # flite's names are ARPABET's
PHONEME_CLASSES["pau"] = SILENCE
for _name, _symbols in (*_ESPEAK.items(), *_IPA.items()):
    PHONEME_CLASSES.update(dict.fromkeys(_symbols.split(), CLASS_NAMES.index(_name)))


def class_of(symbol: str) -> int:
    """Return the class of a phoneme of espeak-ng, flite or IPA, or that of its longest listed beginning."""
    for end in range(len(symbol), 0, -1):
        if symbol[:end] in PHONEME_CLASSES:
            return PHONEME_CLASSES[symbol[:end]]
    return SILENCE
