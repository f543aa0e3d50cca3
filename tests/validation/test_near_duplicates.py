"""Near duplicates between splits are found where asked for; nothing changes elsewhere."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from plumbline.validation.near_images import NearImages, fingerprint, make_block
from plumbline.validation.near_texts import MIN_CHARS, NearTexts, normalise
from plumbline.validation.settings import SplitConfig, ValidationConfig
from tests.validation.validation_run import Row, Run, failure

IMAGE_VIEW = {"all": ["image"]}
TEXT_VIEW = {"all": ["text"]}
NO_VAL = SplitConfig(val=0.0)
LONG = "Two men in green shirts are standing beside a wooden bridge"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def picture(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(pixels).resize((60, 60), Image.Resampling.BICUBIC)


def encode(image: Image.Image, form: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def changed(image: Image.Image) -> dict[str, bytes]:
    mirror = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return {
        "encoded": encode(image, "JPEG", quality=60),
        "mirrored": encode(mirror),
        "smaller": encode(image.resize((54, 54), Image.Resampling.BICUBIC)),
        "larger": encode(image.resize((66, 66), Image.Resampling.BICUBIC)),
        "cropped": encode(image.crop((3, 3, 57, 57))),
        "mirrored and cropped": encode(mirror.crop((6, 0, 60, 54))),
    }


def image_rows() -> list[Row]:
    """Copies in train of one image of test, beside others."""
    copies = changed(picture(0))
    rows = [{"sample_id": name, "split": "train", "image": data} for name, data in copies.items()]
    for number in range(1, 20):
        split = "test" if number % 2 else "train"
        rows.append({"sample_id": f"{number}", "split": split, "image": encode(picture(number))})
    return [*rows, {"sample_id": "first", "split": "test", "image": encode(picture(0))}]


def text_rows() -> list[Row]:
    texts = {
        "punctuated": ("train", f"{LONG.upper()}!"),
        "spaced": ("train", LONG.replace(" ", ",  ")),
        "edited": ("train", f"{LONG}s"),
        "other": ("train", "Some children are playing football in a park near the river"),
        "short": ("train", "A DOG."),
        "first": ("test", LONG),
        "short one": ("test", "a dog"),
    }
    return [
        {"sample_id": name, "split": split, "text": text} for name, (split, text) in texts.items()
    ]


@pytest.mark.parametrize("batch_rows", [3, 100])
def test_changed_copies_of_an_image_go_from_train(run: Run, batch_rows: int) -> None:
    run.write(image_rows()).validate(
        batch_rows, views=IMAGE_VIEW, leaks={"near_images": "drop"}, split=NO_VAL
    )
    assert run.lost() == dict.fromkeys(changed(picture(0)), "split_leak")
    assert "leaks" not in run.report


def test_near_texts_go_from_train_and_short_ones_stay(run: Run) -> None:
    run.write(text_rows()).validate(views=TEXT_VIEW, leaks={"near_texts": "drop"}, split=NO_VAL)
    assert run.lost() == dict.fromkeys(["punctuated", "spaced", "edited"], "split_leak")


def test_near_texts_of_turns_are_those_that_are_said(run: Run) -> None:
    rows: list[Row] = []
    for name, split, text in (("a", "train", LONG.upper()), ("b", "test", LONG)):
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes"}]
        rows.append({"sample_id": name, "split": split, "turns": json.dumps(turns)})
    run.write([*rows, {**rows[0], "sample_id": "c", "turns": rows[0]["turns"].replace("TWO", "X")}])
    run.validate(views={"all": ["turns"]}, leaks={"near_texts": "report"}, split=NO_VAL)
    (leak,) = run.report["leaks"]
    assert (leak["what"], leak["split"], leak["rows"]) == ("near_texts", "test", 1)
    assert leak["examples"][0]["other"]["row"] == 0


@pytest.mark.parametrize(
    ("what", "rows", "view"),
    [("near_images", image_rows(), IMAGE_VIEW), ("near_texts", text_rows(), TEXT_VIEW)],
)
def test_what_is_reported_stays_and_is_named(
    run: Run, what: str, rows: list[Row], view: dict[str, list[str]]
) -> None:
    run.write(rows).validate(views=view, leaks={what: "report"}, split=NO_VAL)
    assert run.lost() == {}
    (leak,) = run.report["leaks"]
    assert (leak["what"], leak["split"], leak["other"], leak["rows"]) == (what, "test", "train", 1)
    assert leak["examples"][0]["other"] == {"file": "part-0.parquet", "row": 0}
    assert f"validate.leaks.{what}: drop takes them from train" in " ".join(run.report["warnings"])


@pytest.mark.parametrize(
    ("what", "rows", "view"),
    [("near_images", image_rows(), IMAGE_VIEW), ("near_texts", text_rows(), TEXT_VIEW)],
)
def test_what_is_refused_is_named_by_a_row(
    run: Run, what: str, rows: list[Row], view: dict[str, list[str]]
) -> None:
    error = failure(run.write(rows), views=view, leaks={what: "refuse"}, split=NO_VAL)
    assert f"validate.leaks.{what} refuses that" in str(error)
    assert "row 0 of part-0.parquet" in str(error)


def test_files_and_batches_do_not_change_what_is_written(tmp_path: Path) -> None:
    settings = {"views": IMAGE_VIEW, "leaks": {"near_images": "drop"}, "split": NO_VAL}
    one, other = Run(tmp_path / "one"), Run(tmp_path / "other")
    rows = image_rows()
    one.write(rows).validate(2, **settings)
    other.write(rows[:9]).write(rows[9:], "part-1").validate(100, **settings)
    for split in ("train", "test"):
        assert one.rows(split) == other.rows(split)
    assert one.lost() == other.lost()
    again = Run(tmp_path / "again").write(rows).validate(100, **settings)
    assert again.files() == one.files()


def test_nothing_is_looked_for_by_default(run: Run) -> None:
    run.write(image_rows()).validate(views=IMAGE_VIEW, split=NO_VAL)
    assert run.lost() == {}
    assert "leaks" not in run.report


def test_a_val_row_that_goes_takes_no_row_of_train_with_it(run: Run) -> None:
    rows: list[Row] = [
        {"sample_id": "t", "split": "test", "text": "abcdefghij" * 8 + LONG},
        {"sample_id": "v", "split": "val", "text": "abcdefghij" * 8 + LONG[:-9]},
        {"sample_id": "n", "split": "train", "text": "abcdefghij" * 8 + LONG[:-17]},
        {"sample_id": "w", "split": "val", "text": "something else entirely, and long enough"},
    ]
    run.write(rows).validate(views=TEXT_VIEW, leaks={"near_texts": "drop", "near_overlap": 0.85})
    assert run.lost() == {"v": "split_leak"}


def test_flat_images_match_nothing() -> None:
    slope = np.repeat(np.arange(20)[:, None] // 3, 20, axis=1)  # of the same form at any level
    flat = [Image.fromarray((slope + level).astype(np.uint8)).convert("RGB") for level in (10, 200)]
    flat.append(Image.new("RGB", (20, 20)))
    block = make_block([fingerprint(image) for image in flat])
    assert set(NearImages(block, 0.98).find(block)) == set()


def test_an_image_in_other_colours_is_another_one() -> None:
    luma = picture(0).convert("L").point([64 + level // 2 for level in range(256)])  # no clipping
    planes = [Image.new("L", luma.size, level) for level in (108, 148)]
    images = [Image.merge("YCbCr", (luma, *both)).convert("RGB") for both in (planes, planes[::-1])]
    blocks = [make_block([fingerprint(image)]) for image in images]
    assert set(NearImages(blocks[0], 0.98).find(blocks[0])) == {(0, 0)}
    assert set(NearImages(blocks[0], 0.98).find(blocks[1])) == set()


def test_pairs_of_texts_are_those_with_the_overlap_asked_for() -> None:
    draw = np.random.default_rng(0)
    texts = ["".join(chr(97 + c) for c in draw.integers(0, 26, 100)) for _ in range(40)]
    others = [text[: 100 - 2 * at] for at, text in enumerate(texts)]

    def overlap(at: int) -> float:
        mine, theirs = ({t[i : i + 5] for i in range(len(t) - 4)} for t in (texts[at], others[at]))
        return len(mine & theirs) / len(mine | theirs)

    wanted = {(at, at) for at in range(40) if overlap(at) >= 0.8}
    assert 0 < len(wanted) < 40
    assert NearTexts(texts, 0.8).find(others) == wanted


def test_marks_of_letters_are_kept_and_punctuation_is_not() -> None:
    assert normalise("Straße, «\uff2er. 5»!\n") == "strassenr5"
    assert normalise("कि") != normalise("क")
    assert len(normalise("a dog")) < MIN_CHARS


@pytest.mark.parametrize("level", ["cheap", "header"])
def test_near_images_need_decoded_ones(level: str) -> None:
    with pytest.raises(ValidationError, match=r"leaks\.near_images compares decoded images"):
        ValidationConfig.model_validate(
            {"views": IMAGE_VIEW, "level": level, "leaks": {"near_images": "report"}}
        )
