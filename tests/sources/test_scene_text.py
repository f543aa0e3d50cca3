"""What is said of a scene is true of it, tells everything, and cannot be guessed blind."""

import re
from collections import Counter, defaultdict

import pytest
from numpy.random import default_rng

from plumbline.sources.scene_text import CELLS, COLORS, NUMBERS, SHAPES, SceneObject, caption
from plumbline.sources.scenes import ScenesConfig, sample_scene, scene_rows

SIZE_WORDS = {"small": "small", "little": "small", "large": "large", "big": "large"}
OPENINGS = ("there is ", "a picture of ", "the image shows ", "i see ")

CONFIG = ScenesConfig(images=1000, image_size=16, object_weights=[0.2, 0.4, 0.4], faulty_share=0.0)


@pytest.fixture(scope="module")
def scenes() -> list[tuple[tuple[SceneObject, ...], list[str], list[tuple[str, str]]]]:
    """Objects, captions and questions with answers of 1000 scenes, as the source gives them."""
    told = []
    for index in range(CONFIG.images):
        rows = scene_rows(CONFIG, index)
        captions = [str(r["caption"]) for r in rows if r["caption"] is not None]
        asked = [(str(r["question"]), str(r["answer"])) for r in rows if r["question"] is not None]
        told.append((sample_scene(CONFIG, index).objects, captions, asked))
    return told


def parse_caption(text: str) -> set[SceneObject]:
    """Read a caption back, knowing its grammar but not its code."""
    for opening in OPENINGS:
        text = text.removeprefix(opening)
    found = set()
    for phrase in re.split(r", | and ", text):
        match = re.fullmatch(r"a (\w+) (\w+) (\w+) (?:in|at|on) the (.+)", phrase)
        assert match, phrase
        size, color, shape, place = match.groups()
        cell = re.sub(r" (corner|side)$", "", place).replace("middle", "center")
        found.add(SceneObject(SIZE_WORDS[size], color, shape, cell))
    return found


def refer(objects: tuple[SceneObject, ...], words: str) -> SceneObject:
    """The one object that a description fits."""
    if match := re.fullmatch(r"object (?:at|in) the (.+)", words):
        fitting = [o for o in objects if o.cell == match[1]]
    else:
        *adjectives, noun = words.split()
        fitting = [
            o
            for o in objects
            if noun in ("object", o.shape) and all(a in (o.size, o.color) for a in adjectives)
        ]
    assert len(fitting) == 1, words
    return fitting[0]


def answer_to(objects: tuple[SceneObject, ...], question: str) -> str:
    """Answer from the objects alone."""
    if match := re.fullmatch(r"what (shape|color) is the (.+)\?", question):
        return str(getattr(refer(objects, match[2]), match[1]))
    if match := re.fullmatch(r"where is the (.+)\?", question):
        return refer(objects, match[1]).cell
    if match := re.fullmatch(r"how many (\w+) are there\?", question):
        kind = re.sub(r"e?s$", "", match[1]) if match[1] == "crosses" else match[1][:-1]
        return NUMBERS[sum(kind in ("object", o.shape) for o in objects)]
    match = re.fullmatch(r"is there (an?) (\w+) (\w+)\?", question)
    assert match, question
    assert match[1] == ("an" if match[2][0] in "aeiou" else "a")
    return "yes" if (match[2], match[3]) in {(o.color, o.shape) for o in objects} else "no"


def test_captions_tell_every_attribute_of_every_object(scenes: list) -> None:
    for objects, captions, _ in scenes:
        assert len(captions) == CONFIG.captions_per_image
        for text in captions:
            assert parse_caption(text) == set(objects), text


def test_captions_vary() -> None:
    thing = SceneObject("small", "red", "circle", "top left")
    random = default_rng(0)
    assert len({caption([thing], random) for _ in range(400)}) == 5 * 2 * 2


def test_every_answer_follows_from_the_objects(scenes: list) -> None:
    for objects, _, asked in scenes:
        for question, answer in asked:
            assert answer == answer_to(objects, question), question


def test_a_question_does_not_tell_its_answer(scenes: list) -> None:
    for _, _, asked in scenes:
        for question, answer in asked:
            if question.startswith(("what", "where")):
                assert not re.search(rf"\b{answer}\b", question), question


def test_no_question_has_two_answers_and_each_scene_asks_five(scenes: list) -> None:
    for _, _, asked in scenes:
        assert len(asked) == 5
        assert len(set(asked)) == len(dict(asked))


def best_blind_guess(learnt: list[tuple[str, str]], asked: list[tuple[str, str]]) -> float:
    """Share of answers that are right when always the most frequent one for a question is said."""
    known: dict[str, Counter[str]] = defaultdict(Counter)
    starts: dict[str, Counter[str]] = defaultdict(Counter)
    for question, answer in learnt:
        known[question][answer] += 1
        starts[" ".join(question.split()[:2])][answer] += 1
    hits = 0
    for question, answer in asked:
        counts = known.get(question) or starts[" ".join(question.split()[:2])]
        hits += answer == min(counts, key=lambda a: (-counts[a], a))
    return hits / len(asked)


@pytest.mark.parametrize("weights", [[0.25, 0.75], [0.2, 0.4, 0.4]])
def test_guessing_without_the_image_is_right_half_the_time_at_most(weights: list[float]) -> None:
    config = CONFIG.model_copy(update={"object_weights": weights})
    pairs = [
        (str(row["question"]), str(row["answer"]))
        for index in range(1000)
        for row in scene_rows(config, index)
        if row["question"] is not None
    ]
    assert best_blind_guess(pairs[:3500], pairs[3500:]) <= 0.50


def test_all_attributes_occur(scenes: list) -> None:
    things = [thing for objects, _, _ in scenes for thing in objects]
    assert {t.color for t in things} == set(COLORS)
    assert {t.shape for t in things} == set(SHAPES)
    assert {t.cell for t in things} == set(CELLS)
    assert {t.size for t in things} == {"small", "large"}
