"""Settings of one training that contradict each other: refused by both keys, before any work."""

from typing import Any

import pytest

from plumbline.config import check_config
from plumbline.errors import ConfigError
from plumbline.training.alignment_sections import PRETRAIN_ALIGNMENT
from plumbline.training.task_sections import FINETUNE
from tests.tiny import CASES, DECODER, SEQUENCE, SPECTROGRAM, TEXT, VIT

CASES_THAT_FIT = sorted(CASES)


def check(name: str, train: dict[str, Any]) -> None:
    """Check the section `train` of a tiny case, with some settings changed."""
    case = CASES[name]
    sections = {
        "model": case.model | train.get("model", {}),
        "task": case.task | train.get("task", {}),
        "loader": train.get("loader", {}),
        "trainer": train.get("trainer", {}),
    }
    entry = {
        "kind": case.kind,
        "data": "d",
        "start": "models/align/x",
        "weights": "data/.gitkeep",
        "train": sections,
    }
    align = case.kind == "alignment"
    spec: Any = PRETRAIN_ALIGNMENT if align else FINETUNE
    if align:
        del entry["kind"], entry["start"]
    params = {"seed": 0, "threads": 1, "tasks": {"t": entry}, "align": {"t": entry}}
    check_config(spec.schema_for("t", params), spec.sections("t"), params)


PLATEAU = {"name": "plateau", "plateau_patience": 2}
STOPPING = {"patience": 3}
CONTRADICTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a micro-batch larger than a batch": (
        "image",
        {"loader": {"batch_size": 4}, "trainer": {"micro_batch_size": 5}},
        "trainer.micro_batch_size 5 is a part of a batch, and loader.batch_size is 4",
    ),
    "an estimate of spread layers": (
        "image",
        {"trainer": {"micro_batch_size": "auto", "shard_layers": True, "processes": 2}},
        "shard_layers contradicts micro_batch_size: auto",
    ),
    "block and positions of a causal model": (
        "causal_lm_rows",
        {"task": {"block_size": 97}},
        "block_size 97 is longer than model.decoder.max_positions 96",
    ),
    "block and positions of a masked model": (
        "masked_lm_rows",
        {"task": {"block_size": 97}},
        "block_size 97 is longer than model.max_positions 96",
    ),
    "texts and positions of an encoder-decoder": (
        "seq2seq",
        {"task": {"max_source_tokens": 95}},
        "up to 97 with what frames them, more than model.max_positions 96",
    ),
    "text and positions of a text encoder": (
        "text",
        {"task": {"inputs": {"modality": "text", "max_tokens": 79}}},
        "task.inputs.max_tokens: up to 81 with what frames them, more than model.encoder."
        "max_tokens 80",
    ),
    "captions and positions of a text encoder": (
        "align_image",
        {"task": {"max_text_tokens": 79}},
        "task.max_text_tokens 79: with bos and eos that is more than model.text_encoder.max_tok",
    ),
    "steps of the inputs and of the encoder": (
        "features",
        {"task": {"inputs": {"modality": "features", "max_steps": 65}}},
        "task.inputs.max_steps: up to 65 with what frames them, more than model.encoder.max_st",
    ),
    "widths and the shared space": (
        "align_image",
        {"task": {"widths": [4, 16]}},
        "task.widths: 16 is larger than model.embed_dim 8",
    ),
    "image for an encoder of sequences": (
        "features",
        {"task": {"inputs": {"modality": "image"}}},
        "modality 'image', but model.encoder takes audio or features",
    ),
    "colour for an encoder of gray images": (
        "gray",
        {"task": {"inputs": {"modality": "image"}}},
        "task.inputs.normalize is for images of 3 channels, but model.encoder.channels is 1",
    ),
    "gray images for an encoder of colour": (
        "align_image",
        {"task": {"inputs": CASES["gray"].task["inputs"]}},
        "task.inputs.normalize is for images of 1 channels, but model.image_encoder.channels is 3",
    ),
    "features for an encoder of images": (
        "features",
        {"model": {"encoder": VIT}},
        "modality 'features', but model.encoder takes image",
    ),
    "features for an encoder of texts": (
        "features",
        {"model": {"encoder": TEXT}},
        "modality 'features', but model.encoder takes text",
    ),
    "ids for an encoder of raw texts": (
        "text",
        {"model": {"encoder": {"name": "ngrams"}}},
        "modality 'text', but model.encoder takes raw texts, which only alignments",
    ),
    "image for the audio side": (
        "align_audio",
        {"task": {"inputs": {"modality": "image"}}},
        "modality 'image', but model.audio_encoder takes audio or features",
    ),
    "audio for the image side": (
        "align_ngrams",
        {"task": {"inputs": SPECTROGRAM}},
        "modality 'audio', but model.image_encoder takes image",
    ),
    "a pair alone": (
        "align_image",
        {"loader": {"batch_size": 1}},
        "loader.batch_size 1 and trainer.grad_accum_steps 1: a pair is told from the others",
    ),
    "lengths of blocks of a stream": (
        "causal_lm_stream",
        {"loader": {"max_tokens": 100}},
        "loader.max_tokens: the samples of this task all count as equally long",
    ),
    "lengths of images with questions": (
        "vlm",
        {"loader": {"bucket_by_length": True}},
        "loader.bucket_by_length: the samples of this task all count as equally long",
    ),
    "processes and the batch": (
        "image",
        {"loader": {"batch_size": 2}, "trainer": {"processes": 3}},
        "trainer.processes 3 share a batch, and loader.batch_size is 2",
    ),
    "drop_last and a limit on tokens": (
        "text",
        {"loader": {"drop_last": True, "max_tokens": 99}},
        "drop_last and max_tokens 99 contradict",
    ),
    "fp16 on a CPU": (
        "image",
        {"trainer": {"device": "cpu", "precision": "fp16"}},
        "precision fp16 needs a GPU, and device is cpu",
    ),
    "patience and epochs": (
        "image",
        {"trainer": {"epochs": 4, "early_stopping": STOPPING}},
        "early_stopping.patience 3 can never run out before the end of 4 validations",
    ),
    "patience and the interval of validation": (
        "image",
        {"trainer": {"epochs": 10, "validate_every_epochs": 3, "early_stopping": STOPPING}},
        "early_stopping.patience 3 can never run out before the end of 4 validations",
    ),
    "patience and the steps between validations": (
        "image",
        {
            "trainer": {
                "epochs": 9,
                "max_steps": 40,
                "validate_every_epochs": 0,
                "validate_every_steps": 10,
                "early_stopping": STOPPING,
            }
        },
        "early_stopping.patience 3 can never run out before the end of 4 validations",
    ),
    "a plateau's patience and epochs": (
        "image",
        {"trainer": {"epochs": 4, "schedule": PLATEAU}},
        "schedule.plateau_patience 2 can never run out before the end of 4 validations",
    ),
    "warm-up and steps": (
        "image",
        {"trainer": {"max_steps": 9, "schedule": {"warmup_steps": 10}}},
        "schedule.warmup_steps 10 is longer than the training: max_steps 9",
    ),
    "heads and width": (
        "causal_lm_rows",
        {"model": {"decoder": DECODER | {"heads": 3}}},
        "width 16 is not a multiple of heads 3",
    ),
    "image and patches": (
        "image",
        {"model": {"encoder": VIT | {"patch_size": 5}}},
        "image_size 16 is not a multiple of patch_size 5",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_refused_by_both_keys(name: str) -> None:
    case, train, message = CONTRADICTIONS[name]
    with pytest.raises(ConfigError) as refused:
        check(case, train)
    group = "align" if CASES[case].kind == "alignment" else "tasks"
    assert str(refused.value).startswith(f"{group}.t.train")
    assert message in str(refused.value)


@pytest.mark.parametrize("name", CASES_THAT_FIT)
def test_every_case_that_fits_is_accepted(name: str) -> None:
    check(name, {})


NEARLY: dict[str, tuple[str, dict[str, Any]]] = {
    "block": ("causal_lm_rows", {"task": {"block_size": 96}}),
    "source": ("seq2seq", {"task": {"max_source_tokens": 94}}),
    "text": ("text", {"task": {"inputs": {"modality": "text", "max_tokens": 78}}}),
    "steps": ("features", {"task": {"inputs": {"modality": "features", "max_steps": 64}}}),
    "accumulated pairs": (
        "align_image",
        {"loader": {"batch_size": 1}, "trainer": {"grad_accum_steps": 2}},
    ),
    "patience": ("image", {"trainer": {"epochs": 5, "early_stopping": STOPPING}}),
    "patience by data": (
        "image",
        {"trainer": {"epochs": 1, "validate_every_steps": 1, "early_stopping": STOPPING}},
    ),
    "plateau": ("image", {"trainer": {"epochs": 5, "schedule": PLATEAU}}),
    "features for the audio side": ("align_audio", {"task": {"inputs": {"modality": "features"}}}),
    "steps of a longer encoder": (
        "features",
        {
            "model": {"encoder": SEQUENCE | {"max_steps": 65}},
            "task": {"inputs": {"modality": "features", "max_steps": 65}},
        },
    ),
}


@pytest.mark.parametrize("name", NEARLY)
def test_the_last_value_that_fits_is_accepted(name: str) -> None:
    check(*NEARLY[name])
