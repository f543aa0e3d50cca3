from plumbline.report.blocks import Shown
from plumbline.report.choice import Sample, Surest
from plumbline.report.samples import Key
from plumbline.report.settings import MOST_SAMPLES

SHOWN = 8


def offer(sample: Sample, image: int, prompt: str) -> None:
    shown = Shown(Key("image", image), "yes", ["yes"], prompt, correct=True)
    sample.offer(shown, " ".join(prompt.split()[:2]))


def test_groups_take_turns_and_images_do_not_repeat() -> None:
    sample = Sample()
    for image in range(20):
        for prompt in ("what color is it?", "is there a cat?", "how many are there?"):
            offer(sample, image, prompt)
    chosen = sample.chosen(SHOWN)
    assert sample.count == 60
    assert len(chosen) == SHOWN
    assert len({one.key for one in chosen}) == SHOWN
    starts = [one.prompt.split()[0] for one in chosen]
    assert starts[:4] == ["what", "is", "how", "what"]


def test_few_predictions_are_all_shown_even_of_one_image() -> None:
    sample = Sample()
    for prompt in ("what is it?", "what is red?", "where is it?"):
        offer(sample, 0, prompt)
    assert [one.prompt for one in sample.chosen(SHOWN)] == ["what is it?", "where is it?"]
    assert sample.count == 3


def test_what_is_kept_does_not_grow_with_the_predictions() -> None:
    sample = Sample()
    for number in range(5000):
        offer(sample, number, f"kind{number} is it?")
    assert sum(len(kept) for kept in sample._by_group.values()) <= 64 * 2 * MOST_SAMPLES
    assert len(sample.chosen(SHOWN)) == SHOWN


def test_the_surest_come_first_and_of_equal_ones_the_first() -> None:
    surest = Surest()
    for number in range(100):
        confidence = 0.9 if number in (3, 5) else number / 200
        surest.offer(Shown(Key("sample_id", str(number)), "no", confidence=confidence))
    surest.offer(Shown(Key("sample_id", "unknown"), "no"))
    chosen = [shown.key.value for shown in surest.chosen(SHOWN)]
    assert chosen[:4] == ["3", "5", "99", "98"]
    assert len(chosen) == SHOWN
