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
# class: the symbols of IPA that belong to it and that the others lack
_IPA = {
    "sil": "ʔ",
    "aa": "ɑ ɑː ɒ",
    "ae": "æ",
    "ah": "ʌ",
    "ao": "ɔ ɔː oː",
    "aw": "aʊ",
    "ax": "ə ɐ",
    "ay": "aɪ",
    "ch": "tʃ",
    "dh": "ð",
    "eh": "ɛ",
    "er": "ɜ ɜː ɚ",
    "ey": "eɪ",
    "g": "ɡ",
    "ih": "ɪ ᵻ",
    "iy": "iː",
    "jh": "dʒ",
    "ng": "ŋ",
    "ow": "oʊ",
    "oy": "ɔɪ",
    "r": "ɹ",
    "sh": "ʃ",
    "t": "ɾ",
    "th": "θ",
    "uh": "ʊ",
    "uw": "uː",
    "zh": "ʒ",
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
