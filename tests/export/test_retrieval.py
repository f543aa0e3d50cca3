"""The bundle of an alignment: what lies nearest is what the checkpoint says, of its gallery."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plumbline.errors import ExportError
from plumbline.export.bundle import write_bundle
from plumbline.export.plan import BundleSource
from plumbline.export.runtime.files import BundleError, InputError
from plumbline.export.runtime.model import Model, selftest
from plumbline.files import read_json, staged_folder, write_digests
from plumbline.kinds.alignment.evaluate import Embedder
from plumbline.kinds.alignment.runtime import TASK
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import Stored
from tests.export.conftest import settings_of
from tests.export.opening import model_of

BundleOf = Callable[..., Path]
SourceOf = Callable[[str], BundleSource]
KINDS = pytest.mark.parametrize("kind", ["align_image", "align_audio"])
FIELD = {"align_image": "image", "align_audio": "audio"}


def listed(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder / "gallery/list.json")
    return found


def embedder(source: BundleSource[Any, Any]) -> Embedder:
    stored: Stored[Any, Any] = source.stored
    return Embedder(stored, source.cache, torch.device("cpu"), 16)


def captioned(cache: TrainingCache, split: str, source: str) -> dict[int, list[str]]:
    """Number of a medium -> its captions, of all that have any."""
    rows = [row for row in cache.by_medium(split, source) if len(row.captions)]
    return {
        row.number: [cache.text(int(number)) for number in dict.fromkeys(row.captions.tolist())]
        for row in rows
    }


@KINDS
def test_a_medium_of_the_gallery_finds_itself_with_its_captions(
    bundle_of: BundleOf, kind: str
) -> None:
    model, gallery = model_of(bundle_of(kind)), listed(bundle_of(kind))
    assert len(gallery["media"]) >= 5
    for medium in gallery["media"]:
        data = (bundle_of(kind) / medium["file"]).read_bytes()
        first: Any = model.predict({FIELD[kind]: data, "nearest": 1})["media"]
        assert first[0]["score"] == pytest.approx(1, abs=1e-5)
        known = next(m for m in gallery["media"] if m["file"] == first[0]["file"])
        assert first[0]["texts"] == [gallery["texts"][number] for number in known["texts"]]
        assert (bundle_of(kind) / first[0]["file"]).read_bytes() == data


@KINDS
def test_what_is_nearest_to_a_text_is_so_by_the_embeddings_of_the_checkpoint(
    bundle_of: BundleOf, source_of: SourceOf, kind: str
) -> None:
    source, model = source_of(kind), model_of(bundle_of(kind))
    known = captioned(source.cache, "val", FIELD[kind])
    media = embedder(source).embed_media(np.array(list(known), np.int32))
    text = "to be or not"
    (query,) = embedder(source).embed_texts([text])
    scores = media @ query
    answer: Any = model.predict({"text": text, "nearest": len(known)})
    assert list(answer) == ["media"]
    assert len(answer["media"]) == len(known)
    found = [one["score"] for one in answer["media"]]
    np.testing.assert_allclose(found, np.sort(scores)[::-1], atol=1e-5)
    first = list(known.values())[int(scores.argmax())]
    assert answer["media"][0]["texts"] == first


@KINDS
def test_texts_are_found_by_a_medium(bundle_of: BundleOf, source_of: SourceOf, kind: str) -> None:
    source, model = source_of(kind), model_of(bundle_of(kind))
    gallery = listed(bundle_of(kind))
    number = next(iter(captioned(source.cache, "val", FIELD[kind])))
    (query,) = embedder(source).embed_media(np.array([number], np.int32))
    scores = embedder(source).embed_texts(gallery["texts"]) @ query
    data = (bundle_of(kind) / gallery["media"][0]["file"]).read_bytes()
    answer: Any = model.predict({FIELD[kind]: data, "nearest": 3})
    got = [(one["text"], one["score"]) for one in answer["texts"]]
    order = np.argsort(-scores, kind="stable")[:3]
    assert [text for text, _ in got] == [gallery["texts"][at] for at in order]
    np.testing.assert_allclose([score for _, score in got], scores[order], atol=1e-5)


@KINDS
def test_both_formats_agree_with_the_checkpoint_and_prove_it(
    bundle_of: BundleOf, kind: str
) -> None:
    formats = read_json(bundle_of(kind) / "metadata.json")["formats"]
    assert set(formats) == {"onnx", "torchscript"}
    for result in formats.values():
        assert result["parity"]["retrieval_agreement"] == 1
        assert result["parity"]["max_logits_difference"] < 1e-5
        assert result["parity"]["samples"] > 9  # texts beside media
    assert selftest(model_of(bundle_of(kind)))["selftest"] == "ok"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "text or image: give one of them"),
        ({"text": "a", "image": b"x"}, "text or image: give one of them"),
        ({"text": "a", "nearest": 0}, "nearest: 0 is outside 1 to"),
        ({"text": "a", "nearest": 10**6}, "nearest: 1e.06 is outside 1 to"),
        ({"image": b"no picture"}, "image: "),
    ],
)
def test_what_cannot_be_answered_is_refused(
    bundle_of: BundleOf, request_: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        model_of(bundle_of("align_image")).predict(request_)


def test_a_long_text_is_cut_and_said_so(bundle_of: BundleOf) -> None:
    answer = model_of(bundle_of("align_image")).predict({"text": "be " * 300})
    cut = answer["cut_tokens"]
    assert isinstance(cut, int)
    assert cut > 100
    assert "cut_tokens" not in model_of(bundle_of("align_image")).predict({"text": "be"})


@pytest.mark.parametrize("name", ["list.json", "media.npy", "texts.npy"])
def test_a_gallery_that_has_changed_is_not_used(
    bundle_of: BundleOf, tmp_path: Path, name: str
) -> None:
    shutil.copytree(bundle_of("align_image"), tmp_path / "copy")
    file = tmp_path / "copy/gallery" / name
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(BundleError, match=name):
        Model(tmp_path / "copy", task_class=TASK)


def test_an_index_of_another_gallery_is_refused_by_its_name(
    bundle_of: BundleOf, tmp_path: Path
) -> None:
    shutil.copytree(bundle_of("align_image"), tmp_path / "copy")
    np.save(tmp_path / "copy/gallery/media.npy", np.zeros((2, 8), np.float32))
    (tmp_path / "copy/digests.json").unlink()
    write_digests(tmp_path / "copy")
    with pytest.raises(BundleError, match=r"gallery/list\.json.*gallery/media\.npy is no float32"):
        Model(tmp_path / "copy", task_class=TASK)


def exported(source: BundleSource, out: Path, **settings: Any) -> Path:
    with staged_folder(out) as partial:
        config = settings_of("align_image", formats=["onnx"], **settings)
        write_bundle(source, config, partial)
    return out


def test_a_gallery_holds_no_more_media_than_asked_for_and_their_captions_alone(
    source_of: SourceOf, tmp_path: Path
) -> None:
    source = source_of("align_image")
    out = exported(source, tmp_path / "out", gallery_split="test", gallery_media=3, nearest=2)
    known = captioned(source.cache, "test", "image")
    gallery = listed(out)
    assert len(gallery["media"]) == len(list((out / "gallery").glob("*.png"))) == 3
    texts = [[gallery["texts"][number] for number in m["texts"]] for m in gallery["media"]]
    places = [0, (len(known) - 1) // 2, len(known) - 1]
    assert texts == [list(known.values())[at] for at in places]
    assert sorted(gallery["texts"]) == sorted({text for own in texts for text in own})
    answer: Any = model_of(out).predict({"text": "be"})
    assert len(answer["media"]) == 2


def test_a_split_that_is_not_there_and_raw_texts_are_refused_with_the_remedy(
    source_of: SourceOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExportError, match=r"reads raw texts.*export\.enabled to false"):
        exported(source_of("align_ngrams"), tmp_path / "ngrams")
    source = source_of("align_image")
    monkeypatch.setattr(TrainingCache, "splits", ["test", "train"])
    with pytest.raises(ExportError, match=r"export\.gallery_split = 'val': the dataset has only"):
        exported(source, tmp_path / "split")
