"""Settings of different stages that contradict each other: refused before any stage of data."""

from pathlib import Path
from typing import Any

import pytest

from plumbline.config import compose_yaml
from plumbline.errors import ConfigError
from plumbline.stages import check_params
from plumbline.stages.check_params import check_machine_of, check_settings

CONF = Path(__file__).resolve().parents[2] / "conf"
SHAKESPEARE = "tasks.shakespeare"
STATES = "tasks.states.train"
QWEN = "+weights.qwen={set: theirs, path: checkpoints/qwen}"


def pretrained(entry: str, part: str) -> list[str]:
    """Let a part start from a checkpoint."""
    return [f"{entry}.train.model.{part}pretrained=qwen", f"{entry}.weights=work/weights/theirs"]


CONTRADICTIONS: dict[str, tuple[list[str], str]] = {
    "a section that no stage reads": (
        ["+datasets.scenes.validat.level=header"],
        "datasets.scenes.validat: no stage reads it; did you mean validate?",
    ),
    "the test split of an evaluation": (
        ["datasets.scenes.validate.split.test=0.0"],
        "align.image.evaluate.split = 'test': there will be no such split: datasets.scenes."
        "validate.split.test is 0, and the source gives no split; set it above 0, or choose",
    ),
    "the test split of a task's evaluation": (
        ["datasets.scenes.validate.split.test=0.0", "align.image.evaluate.split=val"],
        "tasks.vqa.evaluate.split = 'test': there will be no such split",
    ),
    "the test split of an export": (
        ["experiment=shakespeare", f"{SHAKESPEARE}.export.split=test"],
        "tasks.shakespeare.export.split = 'test': there will be no such split: the source of "
        "datasets.tinyshakespeare gives train, val, and",
    ),
    "the splits of an alignment's bundle": (
        [
            "datasets.scenes.validate.split.val=0.0",
            "align.image.train.trainer.validate_every_epochs=0",
            "tasks.vqa.train.trainer.validate_every_epochs=0",
            "align.image.export.enabled=true",
        ],
        "align.image.export.gallery_split = 'val': there will be no such split",
    ),
    "a task whose bundle would hold those of alignments": (
        ["+tasks.align=${tasks.vqa}"],
        "tasks.align: its bundle would hold those of alignments, which lie in exports/align/; give",
    ),
    "a test split that is drawn only where none is given": (
        [
            "experiment=shakespeare",
            f"{SHAKESPEARE}.evaluate.split=test",
            "datasets.tinyshakespeare.validate.split.test=0.2",
        ],
        "draws rows only where it gives no split; add one to its files",
    ),
    "the validation split of a training": (
        ["datasets.scenes.validate.split.val=0.0"],
        "align.image.train.trainer.validate_every_epochs: there will be no validation split",
    ),
    "a dataset that is not selected": (
        ["tasks.vqa.data=scnes"],
        "tasks.vqa.data = 'scnes': no such dataset is selected; datasets are scenes",
    ),
    "a listing that nothing makes": (
        [
            "+objects.photos={url: 's3://bucket/photos'}",
            "datasets.scenes.path=work/objects/photo.jsonl",
        ],
        "datasets.scenes.path = 'work/objects/photo.jsonl': no such entry of objects; there is "
        "photos",
    ),
    "a url in the place of a listing": (
        ["datasets.scenes.path='s3://bucket/photos'"],
        "datasets.scenes.path = 's3://bucket/photos': a path is expected, since DVC compares files",
    ),
    "a start that nothing makes": (
        ["tasks.vqa.start=models/align/imgae"],
        "tasks.vqa.start = 'models/align/imgae': nothing makes it; there will be "
        "models/align/image",
    ),
    "a start without a model": (
        ["tasks.vqa.start=work/cache/scenes"],
        "tasks.vqa.start = 'work/cache/scenes' holds no model, but the task takes its encoder",
    ),
    "a classifier's start without a model": (
        ["experiment=signals", f"{STATES}.model.encoder=null"],
        "tasks.states.start = 'work/cache/signals' holds no model",
    ),
    "a start of another modality": (
        [
            "experiment=fsdd_align",
            "tasks=[vqa]",
            "tasks.vqa.data=fsdd",
            "tasks.vqa.start=models/align/spoken",
        ],
        "its encoder takes audio, and this task needs one for image",
    ),
    "rates of the inputs and the cache": (
        ["experiment=fsdd", "datasets.fsdd.tokenize.sample_rate=8000"],
        "tasks.spoken.train.task.inputs.sample_rate = 16000, but datasets.fsdd.tokenize.sample_rat",
    ),
    "channels of the statistics and the cache": (
        ["datasets.scenes.tokenize.image_mode=gray"],
        "align.image.train.task.inputs.normalize has statistics of 3 channels, but datasets.scenes."
        "tokenize.image_mode = 'gray' gives 1: make them agree",
    ),
    "channels of a start and the cache": (
        [
            "datasets=[scenes,easy_vqa]",
            "tasks.vqa.data=easy_vqa",
            "datasets.easy_vqa.tokenize.image_mode=gray",
        ],
        "tasks.vqa.start: align.image.train.task.inputs.normalize has statistics of 3 channels, ",
    ),
    "images that would be resized twice": (
        ["datasets.scenes.tokenize.image_size=[48,48]", "align.image.train.task.inputs.resize={}"],
        "align.image.train.task.inputs.resize is of images as they are, but datasets.scenes."
        "tokenize.image_size = [48, 48] has stretched them: set image_resize beside it",
    ),
    "images of a start that would be resized twice": (
        [
            "datasets=[scenes,easy_vqa]",
            "tasks.vqa.data=easy_vqa",
            "datasets.scenes.tokenize.image_size=[48,48]",
            "datasets.scenes.tokenize.image_resize={}",
            "datasets.easy_vqa.tokenize.image_size=[48,48]",
        ],
        "tasks.vqa.start: align.image.train.task.inputs.resize is of images as they are, but data",
    ),
    "a decoder from a checkpoint that is no entry": (
        ["tasks.vqa.train.model.decoder.pretrained=qwn", QWEN],
        "tasks.vqa.train.model.decoder.pretrained = 'qwn': no such entry of weights; there is qwen",
    ),
    "a checkpoint that the training does not depend on": (
        ["tasks.vqa.train.model.decoder.pretrained=qwen", QWEN],
        "tasks.vqa.train.model.decoder.pretrained = 'qwen', but tasks.vqa.weights = "
        "'data/.gitkeep': set it to work/weights/theirs",
    ),
    "a tokenizer that the dataset does not depend on": (
        ["datasets.scenes.tokenize.tokenizer.pretrained=qwen", QWEN],
        "datasets.scenes.tokenize.tokenizer.pretrained = 'qwen', but datasets.scenes.weights = "
        "'data/.gitkeep': set it to work/tokenizers/theirs",
    ),
    "the ids of a pretrained decoder": (
        [*pretrained("tasks.vqa", "decoder."), QWEN],
        "tasks.vqa.train.model.decoder.pretrained = 'qwen', but datasets.scenes.tokenize.",
    ),
    "the ids of a pretrained text encoder": (
        [*pretrained("align.image", "text_encoder."), QWEN],
        "align.image.train.model.text_encoder.pretrained = 'qwen', but datasets.scenes",
    ),
    "the ids of a pretrained masked model": (
        ["experiment=shakespeare_masked", *pretrained("tasks.shakespeare_masked", ""), QWEN],
        "tasks.shakespeare_masked.train.model.pretrained = 'qwen', but datasets.tinyshakesp",
    ),
    "the ids of a pretrained encoder-decoder": (
        ["experiment=multi30k", *pretrained("tasks.translate", ""), QWEN],
        "tasks.translate.train.model.pretrained = 'qwen', but datasets.multi30k",
    ),
    "the ids of a classifier's pretrained encoder": (
        ["experiment=sst2", *pretrained("tasks.sentiment", "encoder."), QWEN],
        "tasks.sentiment.train.model.encoder.pretrained = 'qwen', but datasets.sst2",
    ),
    "classes of data without labels": (
        ["+datasets.scenes.detect_shapes.classes.x=[a, b]"],
        "datasets.scenes.detect_shapes.classes is set, but no view of datasets.scenes.validate",
    ),
    "features of data without features": (
        ["datasets.scenes.detect_shapes.features=[null, 3]"],
        "datasets.scenes.detect_shapes.features is set, but no view",
    ),
    "two lists of classes": (
        [
            "experiment=signals",
            "+datasets.signals.detect_shapes.classes.pain=[low, high]",
            "+datasets.signals.validate.labels.pain=[low, none]",
        ],
        "datasets.signals.detect_shapes.classes and datasets.signals.validate.labels name other",
    ),
    "two numbers of channels": (
        [
            "experiment=signals",
            "datasets.signals.detect_shapes.features=[null, 3]",
            "datasets.signals.validate.channels=4",
        ],
        "datasets.signals.detect_shapes.features says 3 channels, datasets.signals.validate.chan",
    ),
    "two class counts": (
        [
            "experiment=signals",
            "+datasets.signals.detect_shapes.classes.pain=[low, high]",
            f"+{STATES}.model.num_classes.pain=3",
        ],
        "tasks.states.train.model.num_classes.pain is for 3 classes, but datasets.signals.detect_",
    ),
    "class weights and classes": (
        [
            "experiment=signals",
            "+datasets.signals.detect_shapes.classes.pain=[low, high]",
            f"{STATES}.task.class_weights={{pain: [1.0, 2.0, 3.0]}}",
        ],
        "tasks.states.train.task.class_weights.pain is for 3 classes, but datasets.signals.detect",
    ),
    "the bundle's longest answer and its limit": (
        ["tasks.vqa.export.limits.max_new_tokens=10"],
        "tasks.vqa.export: max_new_tokens 64 is above limits.max_new_tokens 10",
    ),
    "the bundle's longest continuation and its limit": (
        ["experiment=shakespeare", f"{SHAKESPEARE}.export.limits.max_new_tokens=10"],
        "export: sampling.max_new_tokens 200 is above limits.max_new_tokens 10",
    ),
    "the bundle's longest translation and its limit": (
        ["experiment=multi30k", "tasks.translate.export.limits.max_new_tokens=10"],
        "tasks.translate.export: max_new_tokens 100 is above limits.max_new_tokens 10",
    ),
}


def compose(overrides: list[str]) -> dict[str, Any]:
    return compose_yaml(CONF, "config", overrides)


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_between_stages_is_refused(name: str) -> None:
    overrides, message = CONTRADICTIONS[name]
    with pytest.raises(ConfigError) as refused:
        check_settings(compose(overrides))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["datasets.scenes.validate.split.val=0.0"]
        + [f"{of}.train.trainer.validate_every_epochs=0" for of in ("align.image", "tasks.vqa")],
        # What rows say of their splits is known only when they are read.
        [
            "experiment=sst2",
            "datasets.sst2.prepare.splits={}",
            "+datasets.sst2.prepare.columns.split=split",
        ],
        ["experiment=shakespeare", "datasets.tinyshakespeare.validate.split.val=0.0"],
    ],
)
def test_what_agrees_or_cannot_be_told_is_accepted(overrides: list[str]) -> None:
    check_settings(compose(overrides))


def test_what_the_machine_lacks_is_refused_for_every_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check_params, "count_gpus", lambda: 0)
    for override in (
        "align.image.train.trainer.device=cuda",
        "tasks.vqa.train.trainer.device=cuda",
    ):
        with pytest.raises(ConfigError, match=rf"^{override[:-5]} = 'cuda': no GPU here"):
            check_machine_of(check_settings(compose([override])))


def test_settings_that_no_machine_lacks_ask_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> int:
        raise AssertionError("torch takes seconds to import")

    monkeypatch.setattr(check_params, "count_gpus", never)
    check_machine_of(check_settings(compose([])))
