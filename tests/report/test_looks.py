from pathlib import Path

import numpy as np
import pytest

from plumbline.errors import CheckpointError
from plumbline.files import write_digests
from plumbline.report.looks import veil_of
from plumbline.report.page import render_page
from tests.report.outline import Outline


def test_the_veil_is_lifted_where_the_weight_is_largest() -> None:
    veil = veil_of(np.array([[0.1, 0.2], [0.3, 0.5]]))
    assert veil[..., :3].max() == 0
    assert veil[..., 3].tolist() == [[175, 131], [88, 0]]


def test_equal_weights_have_a_veil_too() -> None:
    assert (veil_of(np.full((2, 2), 0.25))[..., 3] == 175).all()


def add_attention(chosen: tuple[int, ...]) -> Path:
    folder = Path("work/evaluation/tasks/vqa")
    maps = np.full((len(chosen), 3, 2, 2), 0.25, np.float32)
    maps[:, 1] = 0.125
    np.save(folder / "attention.npy", maps)
    np.save(folder / "attention_of.npy", np.array(chosen, np.int64))
    np.save(folder / "attention_images.npy", np.zeros((len(chosen), 4, 4, 3), np.uint8))
    write_digests(folder)
    return folder


def test_an_answer_stands_beside_what_its_middle_layer_read(project) -> None:
    add_attention((1, 0))
    page = render_page(project.chosen())
    outline = Outline(page)
    assert "mean over the heads of layer 2 of 3" in outline.text
    assert outline.text.count("0.500 of the attention is on the image") == 2
    looks = page[page.index("Where the model looks") :]
    assert looks.index("expected cat") < looks.index("s0")  # the mistake comes first, as stored


def test_attention_of_a_prediction_that_is_not_there_is_named(project) -> None:
    add_attention((7,))
    with pytest.raises(CheckpointError, match="attention of prediction 7, which is not there"):
        render_page(project.chosen())


def test_arrays_that_do_not_fit_are_named(project) -> None:
    folder = add_attention((0, 1))
    np.save(folder / "attention_of.npy", np.array([0]))
    write_digests(folder)
    with pytest.raises(CheckpointError, match=r"attention .* does not fit"):
        render_page(project.chosen())


def test_changed_bytes_are_refused(project) -> None:
    folder = add_attention((0,))
    (folder / "attention.npy").write_bytes(b"other")
    with pytest.raises(CheckpointError, match=r"attention\.npy: not as it was written"):
        render_page(project.chosen())
