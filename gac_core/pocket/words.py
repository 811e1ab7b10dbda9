"""Words and numbers for the tasks, each of them either in training or held out.

The hash of a word alone says where it belongs, so a held-out name, value or tool never occurs in
training, whatever the seeds.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

Split = Literal["train", "heldout"]


def split_of(key: str) -> Split:
    """Where this word or combination belongs: one in eight is held out."""
    return "heldout" if hashlib.sha256(key.encode()).digest()[0] % 8 == 0 else "train"


FIRST_NAMES = (
    "Ada Ben Cleo Dan Eva Finn Gina Hugo Iris Jack Kira Leo Mia Noah Olga Paul Quinn Rosa Sam "
    "Tina Uma Vera Walt Xena Yara Zoe Anna Bruno Carla David Ella Felix Greta Henry Ida Jonas "
    "Karin Lars Maria Nils Otto Petra Ralf Sofia Tom Ursula Viktor Wanda Alan Bella Chris Diana "
    "Emil Flora Georg Hanna Ivan Julia Klaus Laura Max Nora Oscar Pia Rita Stefan Thea Udo "
    "Amir Bao Chen Dara Elif Farid Goran Hana Imani Jin Kofi Lena Malik Nadia Omar Priya Ravi "
    "Sana Tariq Usha Vikram Wei Yuki Zara Aisha Boris Celia Dmitri Elena Fatima Gustav Helga"
).split()
CITIES = (
    "Paris London Berlin Madrid Rome Vienna Oslo Lisbon Athens Dublin Prague Warsaw Helsinki "
    "Cairo Tokyo Lima Delhi Seoul Boston Chicago Toronto Sydney Nairobi Zurich Geneva Lyon "
    "Porto Milan Turin Hamburg Munich Cologne Bergen Graz Basel Ghent Leeds Krakow Riga Tallinn "
    "Bristol Cardiff Dakar Hanoi Havana Jakarta Karachi Lagos Manila Mumbai Naples Osaka Quito "
    "Seville Tunis Utrecht Venice Vilnius York Malaga Dresden Leipzig Bremen Rotterdam Antwerp"
).split()
COLOURS = (
    "red blue green yellow black white orange purple brown pink grey silver golden violet "
    "turquoise beige crimson scarlet indigo cream"
).split()
JOBS = (
    "doctor teacher baker pilot farmer painter nurse lawyer singer driver cook writer builder "
    "sailor tailor dentist gardener engineer plumber waiter judge guard librarian chemist "
    "actor banker butcher carpenter dancer editor fisher hunter miner potter welder"
).split()
ANIMALS = (
    "cat dog horse parrot rabbit goat hamster turtle pony sheep donkey duck fox owl goose "
    "lizard mouse pigeon snake spider"
).split()
THINGS = (
    "apples books coins stamps pencils marbles cards shells eggs cups stickers flowers buttons "
    "candles tickets balloons cookies oranges pears plums toys bottles boxes keys stones "
    "baskets brushes hats lamps mirrors nails onions pillows ribbons scarves spoons tomatoes"
).split()
NOUNS = (
    "price size weight height length number status rank score level grade budget salary owner "
    "leader founder author winner captain mother father brother sister neighbour manager street "
    "hotel school bank team club language currency capital river birthday birthplace nickname "
    "password phone address title song film dish drink fruit flower sport hobby instrument boat "
    "house garden room floor gate seat train flight balance capacity category depth distance "
    "duration deadline engine fee format frequency goal index label limit location mission "
    "model origin partner population position prize quality rating record region result route "
    "schedule season sector signal source speed stock supplier target temperature topic total "
    "value version voltage volume width yield area amount brand colour country customer design"
).split()

_LISTED = (*FIRST_NAMES, *CITIES, *COLOURS, *JOBS, *ANIMALS, *THINGS, *NOUNS)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ONSETS = "b d f g h k l m n p r s t v w z br dr fl gr kl pl st tr".split()
_VOWELS = "a e i o u".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "k", "m", "x"]
_ALPHABETS = (  # of which names abroad are made
    "áàâäãåæçéèêëíìîïñóòôöõøúùûüýšžčřłńśabdeilmnorstu",
    "αβγδεζηθικλμνξοπρστυφχψωάέήίόύώ",
    "абвгдежзийклмнопрстуфхцчшщыьэюя",
    "אבגדהוזחטיכלמנסעפצקרשת",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわ",
    "一二三人大小中国王李张刘陈杨黄赵周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董程曹袁邓许傅沈",
    "가나다라마바사아자차카타파하김이박최정강조윤장임한오서신권황안송류홍",
)


@dataclass(frozen=True)
class Source:
    """Random words and numbers of one split.

    Attributes:
        rng: where chance comes from.
        split: which words may be used.
        made_up: the share of words that are on no list. A member that meets only the words of a
            list learns the list by heart, and writes one of them where it should copy a new one.
        spliced: the share of these that are made of parts of listed words.
        more_forms: whether there are forms of tool questions and names that came later. The
            questions that judge do without, so that figures of different members can be compared.

    """

    rng: random.Random
    split: Split
    made_up: float = 0.0
    spliced: float = 0.0
    more_forms: bool = False

    def pick(self, words: Sequence[str]) -> str:
        """A word of a list, or a made-up one that is written like those in the list."""
        if self.made_up and self.rng.random() < self.made_up:
            is_spliced = self.spliced and self.rng.random() < self.spliced
            word = self._spliced() if is_spliced else self.invented()
            return word if words[0].istitle() else word.lower()
        return self.rng.choice(_own_words(tuple(words), self.split))

    def has(self, key: str) -> bool:
        """Whether this combination belongs to the split."""
        return split_of(key) == self.split

    def invented(self) -> str:
        """A name no list holds, of two or three syllables, such as "Fodun"."""
        rng = self.rng
        while True:
            count = rng.choice((2, 2, 3))
            syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(count)]
            word = ("".join(syllables) + rng.choice(_CODAS)).capitalize()
            if self.has(word):
                return word

    def _spliced(self) -> str:
        """The beginning of one listed word and the end of another, one letter in eight changed."""
        rng = self.rng
        while True:
            first, last = rng.choices(_own_words(_LISTED, self.split), k=2)
            word = first[: rng.randint(1, len(first))] + last[rng.randrange(len(last)) :]
            letters = [rng.choice(_LETTERS) if rng.random() < 0.125 else c for c in word.lower()]
            word = "".join(letters).capitalize()
            if 3 <= len(word) <= 10 and self.has(word) and self.has(word.lower()):
                return word

    def foreign(self) -> str:
        """A name in letters that English does not have."""
        while True:
            letters = self.rng.choice(_ALPHABETS)
            word = "".join(self.rng.choices(letters, k=self.rng.randint(2, 6))).capitalize()
            if self.has(word):
                return word

    def name(self) -> str:
        """A first name, more often than not an invented one."""
        if self.more_forms and self.rng.random() < 0.04:
            return self.foreign()
        return self.invented() if self.rng.random() < 0.6 else self.pick(FIRST_NAMES)

    def names(self, count: int) -> list[str]:
        """Different names."""
        names: list[str] = []
        while len(names) < count:
            name = self.name()
            if name not in names:
                names.append(name)
        return names

    def city(self) -> str:
        """A city, half of them invented."""
        return self.invented() if self.rng.random() < 0.5 else self.pick(CITIES)

    def digits(self, count: int) -> str:
        """A code of so many digits."""
        while True:
            code = "".join(self.rng.choice("0123456789") for _ in range(count))
            if self.has(code):
                return code

    def number(self, low: int, high: int) -> int:
        """A number from low to high, both included."""
        while True:
            number = self.rng.randint(low, high)
            if self.has(f"number {number}"):
                return number


@cache
def _own_words(words: tuple[str, ...], split: Split) -> tuple[str, ...]:
    own = tuple(word for word in words if split_of(word) == split)
    if not own:
        raise ValueError(f"no word of {words[:3]}... is {split}")
    return own
