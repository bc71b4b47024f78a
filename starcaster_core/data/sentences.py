"""Things to say: proverbs, pangrams and lines from books long out of copyright, and sentences from a small grammar."""

from __future__ import annotations

import numpy as np

COMPOSED = 600

# Proverbs, pangrams, nursery rhymes and openings of books printed before 1900: all in the public domain.
CLASSIC = tuple(
    line.strip()
    for line in """
    The quick brown fox jumps over the lazy dog.
    Pack my box with five dozen liquor jugs.
    How vexingly quick daft zebras jump!
    The five boxing wizards jump quickly.
    A stitch in time saves nine.
    Actions speak louder than words.
    All that glitters is not gold.
    An apple a day keeps the doctor away.
    Birds of a feather flock together.
    Every cloud has a silver lining.
    Fortune favours the brave.
    A watched pot never boils.
    Honesty is the best policy.
    Look before you leap.
    Many hands make light work.
    Measure twice and cut once.
    No man is an island.
    Practice makes perfect.
    The early bird catches the worm.
    The pen is mightier than the sword.
    There is no smoke without fire.
    Too many cooks spoil the broth.
    When in Rome, do as the Romans do.
    Where there is a will, there is a way.
    You can lead a horse to water, but you cannot make it drink.
    Peter Piper picked a peck of pickled peppers.
    She sells sea shells by the sea shore.
    How much wood would a woodchuck chuck if a woodchuck could chuck wood?
    Betty bought a bit of butter, but the butter was bitter.
    Round the rugged rocks the ragged rascal ran.
    Around the world the thirty three thieves thought they thrilled the throne.
    Call me Ishmael.
    It was the best of times, it was the worst of times.
    Alice was beginning to get very tired of sitting by her sister on the bank.
    You will rejoice to hear that no disaster has accompanied the beginning.
    There was no possibility of taking a walk that day.
    My father's family name being Pirrip, and my Christian name Philip.
    Squire Trelawney asked me to write down the whole particulars.
    All happy families are alike; each unhappy family is unhappy in its own way.
    To Sherlock Holmes she is always the woman.
    The sun did not shine on the far side of the valley.
    Mary had a little lamb, its fleece was white as snow.
    Humpty Dumpty sat on a wall, Humpty Dumpty had a great fall.
    Twinkle, twinkle, little star, how I wonder what you are.
    Jack and Jill went up the hill to fetch a pail of water.
    The rain in Spain falls mainly on the plain.
    To be, or not to be, that is the question.
    Friends, Romans, countrymen, lend me your ears.
    Now is the winter of our discontent.
    Shall I compare thee to a summer's day?
    A rose by any other name would smell as sweet.
    Four score and seven years ago our fathers brought forth a new nation.
    We hold these truths to be self evident.
    The moon was a ghostly galleon tossed upon cloudy seas.
    Water, water, everywhere, nor any drop to drink.
    Tyger, tyger, burning bright, in the forests of the night.
    I wandered lonely as a cloud that floats on high o'er vales and hills.
    Once upon a midnight dreary, while I pondered, weak and weary.
    Because I could not stop for Death, he kindly stopped for me.
    O Captain, my Captain, our fearful trip is done.
    """.splitlines()
    if line.strip()
)

WORDS = {
    "person": "my mother|the young boy|our new teacher|the old fisherman|a very cheerful nurse|the judge|your cousin "
    "George|the girl with the yellow umbrella|Matthew|Charlotte|both of the pilots|the village choir|a famous chef|"
    "my favourite author|the shy musician|everybody in the office|the tall athlete|a voice on the radio",
    "verb_past": "found|brought|painted|borrowed|watched|measured|chose|forgot|described|threw away|shook|caught|"
    "polished|admired|followed|repaired|photographed|hid|washed|unwrapped",
    "thing": "a broken watch|the wooden bridge|seven fresh oranges|a bowl of hot soup|the blue vase|a pair of leather "
    "boots|the garden gate|a huge purple balloon|this strange picture|the missing key|a jar of honey|my father's "
    "violin|an ancient map|the first chapter|a cup of coffee|some fresh fish|the kitchen table|a box of matches",
    "place": "in the valley|near the harbour|behind the church|at the edge of the forest|on the roof|under the stairs|"
    "beside the river|across the square|in the museum|at the bus stop|on a quiet beach|along the northern shore",
    "time": "yesterday morning|last Thursday|an hour ago|before the storm|in the middle of the night|every other week|"
    "just after breakfast|at half past five|during the long journey|when the music began|in early January",
    "adjective": "beautiful|terribly noisy|rather unusual|warm and smooth|cheap|far too heavy|perfectly round|very "
    "fragile|quite delicious|thick and rough|enormous|surprisingly useful|bright yellow|a little sour",
    "how": "slowly|with great pleasure|without a word|quite by chance|carefully|in a hurry|for the third time|"
    "with both hands|as usual|very quietly",
    "number": "two|three|five|eleven|thirteen|twenty four|fifty six|a hundred|two thousand",
    "plural": "sheep|children|bicycles|questions|photographs|flowers|journeys|mushrooms|windows|voices|treasures|"
    "fathers",
    "want": "I would like to|We ought to|You should never|They always try to|Would you please|Nobody wants to|She used "
    "to",
    "verb": "choose|measure|watch|borrow|carry|describe|throw away|look at|pay for|think about|worry about|push",
}

TEMPLATES = (
    "{person} {verb_past} {thing} {place}.",
    "{time}, {person} {verb_past} {thing}.",
    "{person} {how} {verb_past} {thing}, and then {verb_past} {thing}.",
    "{thing} {place} is {adjective}.",
    "I think {thing} was {adjective}, but {person} thought otherwise.",
    "{want} {verb} {thing} {place}.",
    "Did you hear that {person} {verb_past} {thing} {time}?",
    "There were {number} {plural} {place}.",
    "{number} {plural} and {number} {plural} make a lot of noise!",
    "Why is {thing} so {adjective}?",
    "{want} {verb} {thing}, because it looks {adjective}.",
    "Yes, {person} counted {number} {plural} {time}.",
)


def _compose(rng: np.random.Generator) -> str:
    """One sentence of the grammar: every {slot} of a template filled by a random entry of its list."""
    sentence = TEMPLATES[rng.integers(len(TEMPLATES))]
    while "{" in sentence:
        slot = sentence[sentence.index("{") + 1 : sentence.index("}")]
        choices = WORDS[slot].split("|")
        sentence = sentence.replace("{" + slot + "}", choices[rng.integers(len(choices))], 1)
    return sentence[0].upper() + sentence[1:]


def _all_sentences() -> tuple[str, ...]:
    rng = np.random.default_rng(20260101)
    sentences = dict.fromkeys(CLASSIC)  # a dict keeps the order and drops repetitions
    while len(sentences) < len(CLASSIC) + COMPOSED:
        sentences.setdefault(_compose(rng))
    return tuple(sentences)


SENTENCES = _all_sentences()


def random_sentence(rng: np.random.Generator) -> str:
    """Draw one of `SENTENCES`."""
    return SENTENCES[rng.integers(len(SENTENCES))]


def nonsense(rng: np.random.Generator, words: int = 8) -> str:
    """Make words that do not exist, in plausible spelling: sounds without the habits of a language's words."""

    def syllable() -> str:
        return _ONSETS[rng.integers(len(_ONSETS))] + _RHYMES[rng.integers(len(_RHYMES))]

    made = ["".join(syllable() for _ in range(rng.integers(1, 3))) for _ in range(words)]
    comma = rng.integers(2, words)
    return (" ".join(made[:comma]) + ", " + " ".join(made[comma:]) + ".").capitalize()


_ONSETS = (
    "b c ch d f g h j k l m n p qu r s sh t th v w y z bl br cl cr dr fl fr gl gr pl pr sc sk sl sm sn sp st sw tr tw"
).split()
_RHYMES = (
    "ab ack ad ade aft ail ain air ake ale all am an and ane ang ap ape ar arch ark ate atch aw awn aze eck ed eech "
    "eel eem een eep eer eet ell em en end ent est etch ib ick ide idge ife ight ike ill im ime in ind ing ip ire ish "
    "ite ive ize oat ob ock od oil oin oke old ole ome on ood ook oom oot op ope ord ore orn oth ouch ound out ouse "
    "ove ow oy oys ub uck uff ug ull um un unch ung up ure urn us use ush ut"
).split()
