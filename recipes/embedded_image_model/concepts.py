"""What the embedded model draws: its concepts, and the icons each one is drawn from.

The names are those of the demo's concept bank (`configs/concepts/embedded.tsv`); a test holds the
two equal. The order is the class order of the text encoder's and the judge's heads.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One drawable thing.

    icons: icon names tried in every pack; all that a pack has are used.
    also: other words that name it in a caption.
    paintable: whether any hue is natural (a car), or only small shifts are (a banana).
    """

    name: str
    icons: tuple[str, ...]
    also: tuple[str, ...] = ()
    paintable: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """Every wording that counts as naming the concept, longest first."""
        return tuple(sorted({self.name, self.plural, *self.also}, key=len, reverse=True))

    @property
    def plural(self) -> str:
        """The plural of the name."""
        if self.name.endswith("y") and self.name[-2] not in "aeiou":
            return f"{self.name[:-1]}ies"
        if self.name.endswith(("x", "sh")):
            return f"{self.name}es"
        return self.name if self.name.endswith("s") else f"{self.name}s"


def _c(name: str, icons: str, also: str = "", *, paint: bool = False) -> Concept:
    """Build a concept; `icons` is separated by spaces, `also` by `|`."""
    others = tuple(word for word in also.split("|") if word)
    return Concept(name=name, icons=tuple(icons.split()), also=others, paintable=paint)


CONCEPTS: tuple[Concept, ...] = (
    _c("cat", "cat-face", "kitten|kitty"),
    _c("dog", "dog-face", "puppy|puppies"),
    _c("fox", "fox", "foxes"),
    _c("rabbit", "rabbit-face", "bunny|bunnies"),
    _c("bear", "bear"),
    _c("panda", "panda", "panda bear"),
    _c("pig", "pig-face", "piglet"),
    _c("frog", "frog", "toad"),
    _c("lion", "lion"),
    _c("elephant", "elephant"),
    _c("penguin", "penguin"),
    _c("owl", "owl"),
    _c("turtle", "turtle", "tortoise"),
    _c("fish", "fish", "fishes", paint=True),
    _c("octopus", "octopus", "octopuses", paint=True),
    _c("crab", "crab"),
    _c("butterfly", "butterfly", "butterflies", paint=True),
    _c("ladybug", "lady-beetle", "ladybird|beetle"),
    _c("bee", "honeybee", "honeybee|bumblebee"),
    _c("snail", "snail"),
    _c("flamingo", "flamingo", "flamingoes"),
    _c("apple", "red-apple green-apple"),
    _c("banana", "banana"),
    _c("grapes", "grapes", "grape"),
    _c("strawberry", "strawberry", "strawberries"),
    _c("watermelon", "watermelon"),
    _c("pineapple", "pineapple"),
    _c("lemon", "lemon"),
    _c("cherries", "cherries", "cherry"),
    _c("carrot", "carrot"),
    _c("broccoli", "broccoli"),
    _c("mushroom", "mushroom", "toadstool"),
    _c("pizza", "pizza"),
    _c("hamburger", "hamburger", "burger"),
    _c("donut", "doughnut", "doughnut"),
    _c("ice cream", "soft-ice-cream", "ice cream cone|ice-cream"),
    _c("cake", "birthday-cake", "birthday cake"),
    _c("eggplant", "eggplant", "aubergine"),
    _c("pumpkin", "jack-o-lantern", "jack-o-lantern"),
    _c("sunflower", "sunflower"),
    _c("rose", "rose", paint=True),
    _c("cactus", "cactus", "cacti|cactuses"),
    _c("palm tree", "palm-tree", "palm"),
    _c("pine tree", "evergreen-tree", "pine|fir tree"),
    _c("car", "automobile", "automobile", paint=True),
    _c("bus", "bus", "buses", paint=True),
    _c("train", "locomotive", "locomotive", paint=True),
    _c("airplane", "airplane", "plane|aeroplane|jet"),
    _c("helicopter", "helicopter", paint=True),
    _c("rocket", "rocket", "spaceship"),
    _c("sailboat", "sailboat", "boat|sailing boat", paint=True),
    _c("house", "house", "home|cottage"),
    _c("castle", "castle"),
    _c("tent", "tent", paint=True),
    _c("volcano", "volcano", "volcanoes"),
    _c("umbrella", "umbrella", "parasol", paint=True),
    _c("balloon", "balloon", paint=True),
    _c("guitar", "guitar", "electric guitar", paint=True),
    _c("key", "key"),
    _c("crown", "crown"),
    _c("diamond", "gem-stone", "gem|jewel", paint=True),
    _c("gift", "wrapped-gift", "gift box|present", paint=True),
    _c("clock", "alarm-clock", "alarm clock", paint=True),
    _c("heart", "red-heart", paint=True),
    _c("snowman", "snowman snowman-without-snow", "snowmen"),
    _c("basketball", "basketball"),
    _c("trophy", "trophy", "trophies"),
    _c("robot", "robot", paint=True),
)

NAMES: tuple[str, ...] = tuple(concept.name for concept in CONCEPTS)
