from plumbline.report.predictions import SHOWN, Sample, Shown


def shown(image: int, prompt: str) -> Shown:
    return Shown(image, prompt, ["yes"], "yes", True)


def test_kinds_take_turns_and_images_do_not_repeat() -> None:
    sample = Sample()
    for image in range(20):
        for prompt in ("what color is it?", "is there a cat?", "how many are there?"):
            sample.offer(shown(image, prompt))
    chosen = sample.chosen()
    assert sample.count == 60
    assert len(chosen) == SHOWN
    assert len({one.image for one in chosen}) == SHOWN
    starts = [one.prompt.split()[0] for one in chosen]
    assert starts[:4] == ["what", "is", "how", "what"]


def test_few_predictions_are_all_shown_even_of_one_image() -> None:
    sample = Sample()
    for prompt in ("what is it?", "what is red?", "where is it?"):
        sample.offer(shown(0, prompt))
    assert [one.prompt for one in sample.chosen()] == ["what is it?", "where is it?"]
    assert sample.count == 3


def test_what_is_kept_does_not_grow_with_the_predictions() -> None:
    sample = Sample()
    for number in range(5000):
        sample.offer(shown(number, f"kind{number} is it?"))
    assert sum(len(kept) for kept in sample._by_kind.values()) <= 64 * 2 * SHOWN
    assert len(sample.chosen()) == SHOWN
