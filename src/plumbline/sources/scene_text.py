"""What is said of a scene: a varied caption grammar, and questions that need the image."""

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.random import Generator

SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "large")
COLORS = {
    "red": (214, 40, 40),
    "green": (38, 140, 56),
    "blue": (40, 70, 214),
    "yellow": (240, 220, 50),
    "purple": (128, 40, 160),
    "orange": (245, 140, 20),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
CELLS = (
    "top left",
    "top",
    "top right",
    "left",
    "center",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
NUMBERS = ("zero", "one", "two", "three")

_SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
_OPENINGS = ("", "", "there is ", "a picture of ", "the image shows ", "i see ")


@dataclass(frozen=True)
class SceneObject:
    """One object: everything that a caption tells and a question can ask."""

    size: str
    color: str
    shape: str
    cell: str


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _pick(random: Generator, options: Sequence[str]) -> str:
    return options[int(random.integers(len(options)))]


def _place(cell: str, random: Generator) -> str:
    if cell == "center":
        return _pick(random, ("in the center", "in the middle"))
    if " " in cell:
        return _pick(random, (f"at the {cell}", f"in the {cell} corner"))
    return _pick(random, (f"at the {cell}", f"on the {cell} side"))


def caption(objects: Sequence[SceneObject], random: Generator) -> str:
    """One sentence that tells size, colour, shape and place of every object, in random order."""
    phrases = []
    for index in random.permutation(len(objects)):
        thing = objects[index]
        size = _pick(random, _SIZE_WORDS[thing.size])
        phrases.append(f"a {size} {thing.color} {thing.shape} {_place(thing.cell, random)}")
    listed = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return _pick(random, _OPENINGS) + listed


def _refer(
    objects: Sequence[SceneObject], thing: SceneObject, hidden: str, random: Generator
) -> str:
    """Describe `thing` so that it is the only match, without telling its attribute `hidden`."""
    ways = []
    for fields in (("color",), ("shape",), ("color", "shape"), ("size", "shape"), ("cell",)):
        matches = [o for o in objects if all(getattr(o, f) == getattr(thing, f) for f in fields)]
        if hidden not in fields and matches == [thing]:
            ways.append(_describe(thing, fields))
    return _pick(random, ways)


def _describe(thing: SceneObject, fields: Sequence[str]) -> str:
    if fields == ("cell",):
        where = "in the center" if thing.cell == "center" else f"at the {thing.cell}"
        return f"object {where}"
    words = [getattr(thing, f) for f in ("size", "color") if f in fields]
    return " ".join([*words, thing.shape if "shape" in fields else "object"])


def _is_there(objects: Sequence[SceneObject], random: Generator) -> tuple[str, str]:
    """A yes-no question, as often true as false; half of the false ones mix real attributes."""
    present = {(o.color, o.shape) for o in objects}
    if random.random() < 0.5:
        color, shape = sorted(present)[int(random.integers(len(present)))]
        return f"is there {_a(color)} {shape}?", "yes"
    mixed = sorted({(a.color, b.shape) for a in objects for b in objects} - present)
    if mixed and random.random() < 0.5:
        color, shape = mixed[int(random.integers(len(mixed)))]
        return f"is there {_a(color)} {shape}?", "no"
    while True:
        color, shape = _pick(random, tuple(COLORS)), _pick(random, SHAPES)
        if (color, shape) not in present:
            return f"is there {_a(color)} {shape}?", "no"


def _how_many(
    objects: Sequence[SceneObject], max_objects: int, random: Generator
) -> tuple[str, str]:
    if max_objects > 1 and random.random() < 0.5:
        return "how many objects are there?", NUMBERS[len(objects)]
    # Ask for a shape that is there twice as often as for any: else "zero" would be a safe guess.
    present = [o.shape for o in objects]
    shape = _pick(random, present if random.random() < 0.5 else SHAPES)
    plural = "crosses" if shape == "cross" else f"{shape}s"
    return f"how many {plural} are there?", NUMBERS[present.count(shape)]


def questions(
    objects: Sequence[SceneObject], max_objects: int, random: Generator
) -> list[tuple[str, str]]:
    """Five questions with answers: what, which colour, where, how many, is there."""
    asked = [objects[int(random.integers(len(objects)))] for _ in range(3)]
    return [
        (f"what shape is the {_refer(objects, asked[0], 'shape', random)}?", asked[0].shape),
        (f"what color is the {_refer(objects, asked[1], 'color', random)}?", asked[1].color),
        (f"where is the {_refer(objects, asked[2], 'cell', random)}?", asked[2].cell),
        _how_many(objects, max_objects, random),
        _is_there(objects, random),
    ]
