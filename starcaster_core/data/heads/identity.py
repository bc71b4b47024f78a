"""Random people: what a seed decides about a head that does not change between its clips.

Shapes are sums of morph targets. The macro targets (sex, age, ancestry, build) are blended so that each group sums to
one, as MakeHuman does; the facial targets come in opposite pairs and get one signed weight a pair.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from .glasses import Glasses, sample_glasses
from .kit import HeadKit

OPPOSITES = (
    ("decr", "incr"),
    ("in", "out"),
    ("down", "up"),
    ("backward", "forward"),
    ("concave", "convex"),
    ("compress", "uncompress"),
)
# Standard deviation of the signed weight, by the first pattern that fits; 0 leaves a target out.
SPREADS = tuple(
    (re.compile(pattern), spread)
    for pattern, spread in (
        (r"asym/asymm-", 0.0),  # the trunk
        (r"neck/measure-|neck/neck-trans|head/head-trans|head/head-age|pointed", 0.0),
        (r"neck/neck-double", 0.10),
        (r"asym/", 0.08),
        (r"(mouth-trans-in|nose-trans-in|mouth-trans-out|nose-trans-out)", 0.04),
        (r"head/head-(angle|back|triangular|fat)", 0.14),
        (r"head/head-scale", 0.22),
        (r"head/", 0.26),
        (r"eyebrows/eyebrows-angle", 0.15),
        (r"eyes/eye-(trans|push|height|corner)", 0.2),
        (r"eyes/", 0.3),
        (r"mouth/mouth-angles", 0.14),
        (r"mouth/mouth-(lowerlip-middle|upperlip-middle|laugh|trans|lowerlip-ext|upperlip-ext)", 0.15),
        (r"forehead/forehead-(nubian|scale-vert)", 0.12),
        (r"chin/chin-jaw-drop", 0.12),
        (r"nose/nose-(volume|base|scale-vert|hump|compression)", 0.24),
        (r"", 0.3),
    )
)
# How far people lean from the kit's neutral face, in the spreads above: it looks stern.
LEANINGS = {
    "eyebrows/eyebrows-trans-down": 0.9,
    "eyebrows/eyebrows-angle-down": 1.6,
    "eyes/eye-height1-decr": 0.5,
    "eyes/eye-height2-decr": 0.9,
    "eyes/eye-height3-decr": 0.5,
    "eyes/eye-scale-decr": 0.6,
}
HAIRS = {  # name -> (weight for men, weight for women)
    "none": (0.16, 0.03),
    "short01": (0.16, 0.06),
    "short02": (0.22, 0.08),
    "short04": (0.20, 0.10),
    "afro01": (0.05, 0.05),
    "long01": (0.02, 0.30),
    "ponytail01": (0.03, 0.22),
}
HAIR_COLOURS = {  # linear RGB
    "black": (0.012, 0.010, 0.010),
    "dark brown": (0.035, 0.021, 0.014),
    "brown": (0.085, 0.048, 0.027),
    "light brown": (0.17, 0.105, 0.060),
    "blond": (0.38, 0.26, 0.13),
    "red": (0.22, 0.065, 0.025),
    "grey": (0.30, 0.29, 0.28),
}
HAIR_SHARES = {  # ancestry -> share of each colour above, grey apart
    "african": (0.75, 0.22, 0.03, 0.0, 0.0, 0.0),
    "asian": (0.70, 0.25, 0.05, 0.0, 0.0, 0.0),
    "caucasian": (0.10, 0.26, 0.26, 0.16, 0.15, 0.07),
}
IRISES = ("brown_eye", "brownlight_eye", "green_eye", "blue_eye", "grey_eye", "lightblue_eye")
LIGHT_EYED_SHARES = (0.34, 0.18, 0.12, 0.18, 0.10, 0.08)


@dataclass(frozen=True)
class Collar:
    """Of a shirt, decimetres on the base mesh: its radius round the neck, its height, and how deep it is cut in
    front."""

    radius: float
    height: float
    vee: float


@dataclass(frozen=True)
class Paint:
    """On the skin: strength 0..1 and colour, linear RGB [3], of the beard (stubble below 0.5), the lips and the
    lids."""

    beard: float = 0.0
    beard_colour: np.ndarray = field(default_factory=lambda: np.zeros(3))
    lips: float = 0.0
    lip_colour: np.ndarray = field(default_factory=lambda: np.zeros(3))
    lids: float = 0.0
    lid_colour: np.ndarray = field(default_factory=lambda: np.zeros(3))


@dataclass(frozen=True)
class HeadIdentity:
    """One person. Colours are linear RGB multipliers or albedos.

    targets: {"folder/name": weight}. skins: (light atlas, dark atlas); skin_mix 0..1 from light to dark; skin_tint [3];
    skin_saturation, 1 as painted.
    hair: a proxy name or "none"; lashes, brows, teeth: proxy names. iris: eye texture; iris_tint [3].
    """

    seed: int
    targets: dict[str, float]
    facts: dict[str, float | str]
    skins: tuple[str, str]
    skin_mix: float
    skin_tint: np.ndarray
    skin_saturation: float
    hair: str
    hair_colour: np.ndarray
    brows: str
    brow_colour: np.ndarray
    brow_density: float
    lashes: str
    teeth: str
    iris: str
    iris_tint: np.ndarray
    cloth: np.ndarray
    cloth_trim: np.ndarray
    collar: Collar
    paint: Paint
    glasses: Glasses | None


def sample_identity(kit: HeadKit, seed: int) -> HeadIdentity:
    """Draw the person of `seed`: the same for the same kit, whatever else was drawn before."""
    rng = np.random.default_rng([seed, 0x1D])
    male = _sex(rng)
    ancestry = rng.dirichlet([0.45, 0.45, 0.6])
    african, asian, caucasian = ancestry
    old = float(np.clip(rng.beta(1.1, 2.0), 0, 0.85))

    targets = _macro_targets(rng, male, old, dict(zip(("african", "asian", "caucasian"), ancestry)))
    targets |= _facial_targets(rng, kit.target_names)
    # The kit's women have pointed crowns.
    targets["forehead/forehead-nubian-decr"] = targets.get("forehead/forehead-nubian-decr", 0.0) + 0.45 * (1 - male)

    sex = "male" if male > 0.5 else "female"
    # The skins get darker less than linearly with ancestry: most mixes look mixed.
    skin_mix = float(np.clip(african * 1.15 - 0.05 + 0.06 * rng.normal(), 0, 1))
    ages = ("young",) if old < 0.25 else ("young", "middleage") if old < 0.5 else ("middleage", "old")
    age = str(rng.choice(ages))
    light, dark = _skins(rng, kit, f"{age}_lightskinned_{sex}"), _skins(rng, kit, f"{age}_darkskinned_{sex}")
    hue = np.array([1.0, 1.0 + 0.03 * rng.normal() + 0.01 * asian, 1.0 + 0.06 * rng.normal() - 0.07 * asian])
    depth = 0.80 + 0.30 * rng.random() - 0.14 * asian * rng.random() + skin_mix * rng.uniform(0.3, 1.2)
    hair_colour, brow_colour, colour_name = _hair_colour(rng, old, ancestry)
    light_eyed = caucasian > 0.55 and rng.random() < 0.7
    iris = str(rng.choice(IRISES, p=LIGHT_EYED_SHARES)) if light_eyed else "brown_eye"
    hair = _hair(rng, male, african)
    brow_names = sorted(name.split("/")[1] for name in kit.proxies if name.startswith("eyebrows/"))
    if male > 0.5:  # the pencil-thin ones
        brow_names = [name for name in brow_names if name not in ("eyebrow006", "eyebrow007")]
    teeth = sorted(name.split("/")[1] for name in kit.proxies if name.startswith("teeth/"))
    worn = np.random.default_rng([seed, 0x30A2])
    paint = _paint(worn, male, old, hair_colour)
    glasses = sample_glasses(worn) if worn.random() < 0.14 + 0.16 * old else None
    cloth = np.clip(rng.uniform(0.02, 0.5) * rng.uniform(0.4, 1.3, 3), 0.01, 0.75)
    return HeadIdentity(
        seed=seed,
        targets=targets,
        facts={
            "male": round(male, 3),
            "old": round(old, 3),
            "african": round(float(african), 3),
            "asian": round(float(asian), 3),
            "caucasian": round(float(caucasian), 3),
            "hair": hair,
            "hair_colour": colour_name,
            "iris": iris,
            "glasses": glasses is not None,
            "beard": round(paint.beard, 2),
            "make-up": round(max(paint.lips, paint.lids), 2),
        },
        skins=(light, dark),
        skin_mix=skin_mix,
        skin_tint=hue * depth,
        skin_saturation=float(rng.uniform(0.70, 0.95)),
        hair=hair,
        hair_colour=hair_colour,
        brows=str(rng.choice(brow_names)),
        brow_colour=brow_colour,
        brow_density=float(rng.uniform(0.55, 0.9)),
        lashes=str(rng.choice(["eyelashes01", "eyelashes02"])),
        teeth=str(rng.choice(teeth)),
        iris=iris,
        iris_tint=rng.uniform(0.7, 1.25) * rng.uniform(0.9, 1.1, 3),
        cloth=cloth,
        cloth_trim=cloth
        if worn.random() < 0.6
        else np.clip(worn.uniform(0.02, 0.7) * worn.uniform(0.5, 1.3, 3), 0.01, 0.8),
        collar=_collar(worn),
        paint=paint,
        glasses=glasses,
    )


def _collar(rng: np.random.Generator) -> Collar:
    vee = 0.0 if rng.random() < 0.55 else float(rng.uniform(0.2, 0.7))
    return Collar(radius=float(rng.uniform(0.72, 0.9)), height=float(rng.uniform(5.5, 5.72)), vee=vee)


def _paint(rng: np.random.Generator, male: float, old: float, hair_colour: np.ndarray) -> Paint:
    """Stubble or a beard for two men in five, make-up for half of the women."""
    dark = np.clip(0.7 * hair_colour, 0.008, 0.25)
    if male > 0.5:
        if rng.random() < 0.4:
            return Paint(beard=float(rng.beta(1.2, 1.6)), beard_colour=dark)
        return Paint(beard=float(rng.uniform(0, 0.12)), beard_colour=dark)
    made_up = float(rng.random() < 0.55)
    red = np.array([rng.uniform(0.18, 0.5), rng.uniform(0.02, 0.1), rng.uniform(0.03, 0.14)])
    shadow = rng.uniform(0.02, 0.2) * rng.uniform(0.5, 1.2, 3)
    return Paint(
        lips=made_up * float(rng.uniform(0.2, 0.85)),
        lip_colour=red,
        lids=made_up * float(rng.uniform(0, 0.6)),
        lid_colour=shadow,
    )


def _sex(rng: np.random.Generator) -> float:
    """0 female .. 1 male, mostly near the ends."""
    side = rng.random() < 0.5
    blur = abs(rng.normal(0, 0.13))
    return float(np.clip(1 - blur if side else blur, 0, 1))


def _macro_targets(rng, male: float, old: float, ancestry: dict[str, float]) -> dict[str, float]:
    muscle, weight = np.clip(rng.normal(0, 0.5, 2), -1, 1)
    builds = {
        (m, w): abs(mv) * abs(wv)
        for m, mv in _three_way(muscle, "muscle").items()
        for w, wv in _three_way(weight, "weight").items()
    }
    targets = {}
    for sex, s in (("male", male), ("female", 1 - male)):
        for age, a in (("old", old), ("young", 1 - old)):
            for people, p in ancestry.items():
                targets[f"macrodetails/{people}-{sex}-{age}"] = s * a * float(p)
            for (m, w), b in builds.items():
                targets[f"macrodetails/universal-{sex}-{age}-{m}-{w}"] = s * a * float(b)
    return {name: value for name, value in targets.items() if value > 1e-3}


def _three_way(value: float, what: str) -> dict[str, float]:
    return {f"min{what}": max(-value, 0.0), f"average{what}": 1 - abs(value), f"max{what}": max(value, 0.0)}


def _facial_targets(rng: np.random.Generator, names: tuple[str, ...]) -> dict[str, float]:
    """Signed weights for opposite pairs, the same on both sides of the face but for a little asymmetry."""
    drawn: dict[str, float] = {}
    weights: dict[str, float] = {}
    for name in sorted(n for n in names if not n.startswith("macrodetails/")):
        folder, target = name.split("/")
        both_sides = re.sub(r"^[lr]-", "", target)
        spread = next(s for pattern, s in SPREADS if pattern.search(f"{folder}/{both_sides}"))
        axis, sign = _axis(f"{folder}/{both_sides}")
        if axis not in drawn:
            drawn[axis] = float(np.clip(rng.normal(0, 1), -2, 2)) + LEANINGS.get(axis, 0.0)
        value = sign * spread * drawn[axis]
        if both_sides != target:
            value += 0.05 * spread * float(rng.normal())
        if sign and value > 0.01:
            weights[name] = min(value, 0.9)
    return weights


def _axis(name: str) -> tuple[str, int]:
    """The pair a target belongs to, and which end of it (+1, -1)."""
    for minus, plus in OPPOSITES:
        for word, sign in ((minus, -1), (plus, 1)):
            if re.search(rf"-{word}$", name):
                return name[: -len(word)] + minus, sign
    left_right = re.search(r"-[lr]$", name)  # asym-*-l against asym-*-r
    if left_right:
        return name[:-2], 1 if name.endswith("l") else -1
    return name, 1


def _skins(rng: np.random.Generator, kit: HeadKit, stem: str) -> str:
    return str(rng.choice(sorted(p.stem for p in (kit.root / "skins").glob(f"{stem}_*.png"))))


def _hair(rng: np.random.Generator, male: float, african: float) -> str:
    shares = np.array([m * male + w * (1 - male) for m, w in HAIRS.values()])
    names = list(HAIRS)
    shares[names.index("afro01")] *= 0.2 + 4 * african
    return str(rng.choice(names, p=shares / shares.sum()))


def _hair_colour(rng: np.random.Generator, old: float, ancestry: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    shares = sum(np.array(HAIR_SHARES[k]) * p for k, p in zip(("african", "asian", "caucasian"), ancestry))
    names = list(HAIR_COLOURS)
    name = str(rng.choice(names[:-1], p=shares / shares.sum()))
    colour = np.array(HAIR_COLOURS[name]) * rng.uniform(0.75, 1.35) * rng.uniform(0.93, 1.07, 3)
    grey = float(np.clip((old - 0.45) * 2.5 * rng.random() * 1.5, 0, 1))
    colour = colour * (1 - grey) + grey * np.array(HAIR_COLOURS["grey"]) * rng.uniform(0.7, 1.3)
    brow = colour * (1 - 0.4 * grey)
    if name == "blond" or grey > 0.5:
        brow = brow * 0.55
    return colour, np.minimum(brow * 1.15, 0.3), "grey" if grey > 0.5 else name
