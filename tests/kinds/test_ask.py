"""What a stored model is asked is answered with the scores of its own outputs."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from numpy.typing import NDArray

from plumbline.files import write_json
from plumbline.kinds.alignment.ask import predictions
from plumbline.kinds.alignment.settings import AlignmentTaskConfig
from plumbline.kinds.classification.ask import answer as classify
from plumbline.kinds.masked_lm.ask import answer as fill
from plumbline.kinds.regression.ask import answer as estimate
from plumbline.loading.cache_reader import TrainingCache
from plumbline.loading.inputs import build_input
from plumbline.models.stored import Stored, load_model
from tests.tiny import CASES, SIZES, array, clip, picture

Caches = Callable[[str], TrainingCache]
Folders = Callable[[str], Path]
Outputs = dict[str, NDArray[np.float64]]

CPU = torch.device("cpu")
FIRST = SIZES["train"] + SIZES["val"]
"""Number of the first input of the test split."""
FILES: dict[str, Callable[[int], bytes]] = {"image": picture, "audio": clip, "features": array}


def asked_of(stored: Stored, cache: TrainingCache, folder: Path) -> tuple[Namespace, Outputs]:
    """The first input of the test split as a file or text, and what is said of it in the cache.

    The outputs are by part, [outputs] each.
    """
    config = stored.spec.inputs  # type: ignore[attr-defined]
    number = int(cache.rows("test")[config.source][0])
    inputs = build_input(config, cache, image_size=16)
    batch = inputs.collate([inputs.fetch(number)], [number], None)
    with torch.inference_mode():
        outputs = {p: x[0].double().numpy() for p, x in stored.model(**batch).items()}
    if config.modality == "text":
        return Namespace(text=cache.text(number)), outputs
    file = folder / "asked"
    file.write_bytes(FILES[config.modality](FIRST))
    return Namespace(**{config.modality: file}), outputs


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[TrainingCache], Path]:
    """Works where the statistics of a cache lie; the folder of a model that was trained on it."""

    def stand(cache: TrainingCache) -> Path:
        place = tmp_path / "work/cache/tiny"
        place.mkdir(parents=True)
        (place / "cache.json").write_bytes((cache.folder / "cache.json").read_bytes())
        write_json(tmp_path / "config.json", {"data": "tiny"})
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return stand


@pytest.mark.parametrize("name", ["text", "image", "gray", "audio", "features"])
def test_classes_have_the_probabilities_of_the_models_logits(
    stored_case: Folders, caches: Caches, checkout: Callable[[TrainingCache], Path], name: str
) -> None:
    """From a file as from the cache, which was made of it."""
    stored, cache = load_model(stored_case(name)), caches(CASES[name].data)
    folder = checkout(cache)
    options, logits = asked_of(stored, cache, folder)
    found = classify(stored, options, CPU, folder)
    classes: dict[str, list[str]] = stored.spec.classes  # type: ignore[attr-defined]
    heads = found["heads"] if len(classes) > 1 else {next(iter(classes)): found}
    for part, names in classes.items():
        expected = dict(zip(names, scipy.special.softmax(logits[part]), strict=True))
        assert heads[part]["probabilities"] == pytest.approx(expected, rel=1e-5)
        assert heads[part]["class"] == max(expected, key=lambda label: expected[label])
        assert heads[part]["confidence"] == pytest.approx(max(expected.values()), rel=1e-5)


def test_numbers_are_outputs_in_the_units_of_the_data(
    stored_case: Folders, caches: Caches, checkout: Callable[[TrainingCache], Path]
) -> None:
    stored, cache = load_model(stored_case("regression")), caches("numbers")
    folder = checkout(cache)
    options, outputs = asked_of(stored, cache, folder)
    values = cache.values("train")
    expected = {}
    for at, part in enumerate(cache.facts["parts"]):
        of_part = values[(cache.rows("train")["part"] == at) & ~np.isnan(values)]
        expected[part] = float(outputs[part][0] * of_part.std() + of_part.mean())
    found = estimate(stored, options, CPU, folder)["values"]
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_gap_has_the_likeliest_tokens_with_their_probabilities(stored_case: Folders) -> None:
    stored: Any = load_model(stored_case("masked_lm_rows"))
    special, mask = stored.spec.special_ids, stored.spec.mask_id
    before, behind = (stored.text.encode(t, add_special_tokens=False).ids for t in ("to ", " not"))
    ids = torch.tensor([[special.bos, *before, mask, *behind, special.eos]])
    with torch.inference_mode():
        logits = stored.model(ids, torch.ones_like(ids))[0, 1 + len(before)].double()
    best = logits.softmax(dim=0).topk(4)
    options = Namespace(text="to <mask> not", candidates=4)
    (found,) = fill(stored, options, CPU, Path())["masks"]
    assert [one["text"] for one in found] == [stored.text.decode([t]) for t in best.indices]
    given = [one["probability"] for one in found]
    np.testing.assert_allclose(given, best.values, rtol=1e-5)


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_texts_fit_a_medium_by_the_loss_that_was_trained(loss: str) -> None:
    """One of all texts by softmax, or each by itself, from scaled cosines of any lengths."""
    draw = np.random.default_rng(0)
    media, texts = (draw.standard_normal(shape) for shape in ((3, 5), (4, 5)))
    embedded = SimpleNamespace(
        media=torch.from_numpy(media),
        texts=torch.from_numpy(texts),
        logit_scale=torch.tensor(7.0),
        logit_bias=torch.tensor(-2.0),
    )
    settings = {"inputs": {"modality": "image"}, "loss": loss}
    config = AlignmentTaskConfig.model_validate(settings)
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (media, texts))
    logits = 7 * one @ other.T
    expected = scipy.special.softmax(logits, axis=1)
    if loss == "sigmoid":
        expected = scipy.special.expit(logits - 2)
    found = predictions({"": embedded}, config)["texts"].probabilities
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=1e-5)
