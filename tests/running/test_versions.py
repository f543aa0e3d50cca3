from plumbline.running.versions import Version, join_settings, pair_figures


def version(name: str, lr: float, figures: dict[str, float], **more: object) -> Version:
    params = {"tasks": {"vqa": {"lr": lr, **more}}}
    return Version(name, params, {"task vqa": figures}, {"task vqa": figures})


def interval(value: float, half: float) -> dict[str, float]:
    return {"accuracy": value, "accuracy_low": value - half, "accuracy_high": value + half}


def test_settings_of_three_versions_stand_in_one_row() -> None:
    found = join_settings(
        [version("a", 0.1, {}), version("b", 0.2, {}), version("c", 0.1, {}, width=3)]
    )
    assert found == [
        ("tasks.vqa.lr", [0.1, 0.2, 0.1]),
        ("tasks.vqa.width", ["nothing", "nothing", 3]),
    ]


def test_intervals_are_compared_with_that_of_the_first() -> None:
    one, near, far = (
        version(name, 0.1, interval(value, 0.05))
        for name, value in (("a", 0.5), ("b", 0.54), ("c", 0.7))
    )
    (pair,) = pair_figures(one, near, every=True)
    assert (pair["values"], pair["apart"]) == ([0.5, 0.54], False)
    (three,) = pair_figures(one, near, far, every=True)
    assert (three["values"], three["apart"]) == ([0.5, 0.54, 0.7], True)
    (missing,) = pair_figures(one, version("d", 0.1, {"accuracy": 0.9}), every=True)
    assert missing["apart"] is None
