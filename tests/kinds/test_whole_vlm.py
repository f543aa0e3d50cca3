"""A whole vision-language model of a checkpoint gives what it gives in transformers."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from plumbline.batch import IGNORE_INDEX, Sample
from plumbline.data.image_lists import pack_images
from plumbline.data.turns import IMAGE_ID, IMAGE_MARK, Turn, as_parts, dump_turns
from plumbline.errors import ConfigError
from plumbline.kinds.vlm.model import Vlm
from plumbline.kinds.vlm.settings import VlmConfig, VlmTaskConfig
from plumbline.kinds.vlm.talks import make_prompt
from plumbline.kinds.vlm.train import build
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import load_model
from plumbline.training.checkpointing import Checkpointing
from plumbline.training.task import JobContext, TrainingJob
from tests.checkpoints import record_checkpoint, write_checkpoint
from tests.conftest import store
from tests.models.test_processor import picture
from tests.tiny import DECODER, VIT, make_cache, write_rows
from tests.training.test_checkpointing import gradients
from tests.whole_checkpoints import (
    END,
    IMAGE_TOKENS,
    LONGEST,
    MODELS,
    SIDE,
    as_published,
    make_processor,
    write_whole,
)

THEIRS = {"pretrained": "theirs"}
WHOLE = {
    "image_encoder": {"name": "transformers", **THEIRS},
    "projector": {"name": "pixel_shuffle", **THEIRS},
    "decoder": THEIRS,
}
INPUTS = {"modality": "image", "normalize": {"preset": "checkpoint"}, "resize": "checkpoint"}
TASK = {"text": "turns", "block_size": 200, "inputs": INPUTS}
TOKENIZE = {
    "tokenizer": THEIRS,
    "image_size": [SIDE, SIDE],
    "image_resize": {"resample": "lanczos", "longest_edge": LONGEST},
}
SIZES = [(40, 50), (33, 17), (32, 32), (7, 90)]
"""Heights and widths."""


def shows(content: str) -> Turn:
    marks = list(range(content.count(IMAGE_MARK)))
    turn: Turn = {"role": "user", "content": content}
    return {**turn, "images": marks} if marks else turn


def says(content: str) -> Turn:
    return {"role": "assistant", "content": content}


I = IMAGE_MARK  # noqa: E741
TALKS: dict[str, tuple[list[Turn], list[int]]] = {
    "one image": ([shows(f"{I}What is in the picture?"), says("A red circle.")], [0]),
    "two images": (
        [
            {"role": "system", "content": "Be brief."},
            shows(f"red {I} and {I} blue?"),
            says("Yes."),
            shows("And one more?"),
            says("three, of course"),
        ],
        [1, 0],
    ),
    "an image alone": ([shows(I), says("green")], [2]),
    "neighbours": ([shows(f"{I}{I}\n"), says("2"), shows(f"or{I}"), says("1")], [3, 1, 0]),
    "no image": ([shows("What is one plus one?"), says("Two.")], []),
}


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # features of frozen encoders and checkpoints go below it


def cache_of(folder: Path, weights: Path, **tokenize: Any) -> TrainingCache:
    (folder / "clean").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for name, (turns, images) in TALKS.items():
        row = {"sample_id": name, "turns": dump_turns(turns)}
        shown = pack_images([picture(*SIZES[at]) for at in images])
        rows.append(row | ({"images": shown} if images else {}))
    write_rows(folder / "clean", "train", rows)
    made: TrainingCache = make_cache(
        folder, TOKENIZE | tokenize, {"min_train_rows": 1}, weights=weights
    )
    return made


def job_of(
    weights: Path,
    model: dict[str, Any] = WHOLE,
    task: dict[str, Any] = TASK,
    cache: TrainingCache | None = None,
    **context: Any,
) -> TrainingJob:
    cache = cache or cache_of(Path("data"), weights)
    return build(
        JobContext(cache=cache, seed=0, weights=weights, **context),
        VlmConfig.model_validate(model),
        VlmTaskConfig.model_validate(task),
    )


def opened(at: int) -> Image.Image:
    return Image.open(io.BytesIO(picture(*SIZES[at]))).convert("RGB")


def processed(name: str, talk: str) -> Any:
    """What transformers makes of a conversation, without tiles."""
    turns, images = TALKS[talk]
    messages = [as_parts(turn) for turn in turns]
    for message in messages:
        if isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
    processor = make_processor(name)
    text = processor.apply_chat_template(messages, tokenize=False)
    shown = {"images": [[opened(at) for at in images]]} if images else {}
    return processor(text=[text], return_tensors="pt", **shown)


def logits_of(job: TrainingJob, sample: Sample) -> Tensor:
    """[seq, vocab] of one conversation, as the training makes them."""
    model = job.model
    assert isinstance(model, Vlm)
    batch = job.task.collate([sample])
    with torch.no_grad():
        features = (
            model.image_encoder(batch["pixel_values"]).tokens
            if len(sample["pixels"])
            else (torch.zeros(0, model.image_encoder.tokens, model.image_encoder.token_width))
        )
        names = ("input_ids", "position_ids", "mask", "image_places")
        hidden = model.hidden_states(features, *(batch[name] for name in names))
        return model.logits(hidden)[0]


def compare(job: TrainingJob, reference: Any, name: str) -> None:
    """Ids, pixels and logits of every conversation with those of transformers."""
    job.model.eval()
    image_id = reference.config.image_token_id
    for at, talk in enumerate(TALKS):
        sample, theirs = job.train.sample(at, 0), processed(name, talk)
        ids = np.where(sample["ids"] == IMAGE_ID, image_id, sample["ids"])
        # Behind the last answer's end stands a line end, of which nothing is learnt.
        whole = theirs["input_ids"][0]
        np.testing.assert_array_equal(ids, whole[: len(ids)])
        assert len(whole) == len(ids) + 1
        with torch.no_grad():
            expected = reference(**theirs).logits[0, : len(ids) - 1]
        torch.testing.assert_close(logits_of(job, sample), expected, rtol=0, atol=1e-5)
        if "pixel_values" in theirs:
            pixels = job.task.collate([sample])["pixel_values"]
            torch.testing.assert_close(pixels, theirs["pixel_values"][0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_ids_pixels_and_logits_are_those_of_transformers(
    tmp_path: Path, name: str, tied: bool
) -> None:
    reference = write_whole(tmp_path / "theirs", name, tied=tied)
    compare(job_of(record_checkpoint(tmp_path / "theirs")), reference, name)


def test_a_checkpoint_laid_out_as_published_ones_gives_the_same(tmp_path: Path) -> None:
    reference = write_whole(tmp_path / "theirs", "idefics3")
    as_published(tmp_path / "theirs")
    job = job_of(record_checkpoint(tmp_path / "theirs"))
    compare(job, reference, "idefics3")
    # Stored and loaded, it is whole without the checkpoint.
    (tmp_path / "stored").mkdir()
    stored = load_model(store(job, tmp_path / "stored"))
    compare(replace(job, model=stored.model), reference, "idefics3")


def test_what_an_image_shows_matters_to_the_logits(tmp_path: Path) -> None:
    """So the comparison above would see a part that is not the checkpoint's."""
    write_whole(tmp_path / "theirs")
    job = job_of(record_checkpoint(tmp_path / "theirs"))
    sample = job.train.sample(0, 0)
    before = logits_of(job, sample)
    for part in ("image_encoder", "projector", "decoder"):
        job_of_part = job.model.get_submodule(part)
        kept = {name: tensor.clone() for name, tensor in job_of_part.state_dict().items()}
        with torch.no_grad():
            for parameter in job_of_part.parameters():
                parameter.mul_(1.1)
        assert (logits_of(job, sample) - before).abs().max() > 1e-3
        job_of_part.load_state_dict(kept)
    torch.testing.assert_close(logits_of(job, sample), before, rtol=0, atol=0)


def test_answers_and_their_ends_alone_are_learnt(tmp_path: Path) -> None:
    write_whole(tmp_path / "theirs")
    job = job_of(record_checkpoint(tmp_path / "theirs"))
    assert job.tokenizer is not None
    for at, (turns, _) in enumerate(TALKS.values()):
        sample = job.train.sample(at, 0)
        learnt = sample["ids"][sample["labels"] != IGNORE_INDEX].tolist()
        said = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        # The blank behind `Assistant:` is the model's to write: its prompt has none.
        assert job.tokenizer.decode(learnt, skip_special_tokens=False) == "".join(
            f" {answer}{END}" for answer in said
        )


def test_a_prompt_is_the_processor_s_and_what_training_saw(tmp_path: Path) -> None:
    write_whole(tmp_path / "theirs")
    job = job_of(record_checkpoint(tmp_path / "theirs"))
    spec: Any = job.spec
    assert job.tokenizer is not None
    processor = make_processor("smolvlm")
    for at, (turns, images) in enumerate(TALKS.values()):
        ids = job.train.sample(at, 0)["ids"].tolist()
        prompt = make_prompt(spec, job.tokenizer, IMAGE_TOKENS, turns[:-1])
        assert ids[: len(prompt)] == prompt
        messages = [
            {
                "role": turn["role"],
                "content": parts if isinstance(parts, list) else [{"type": "text", "text": parts}],
            }
            for turn in turns[:-1]
            for parts in [as_parts(turn)["content"]]
        ]
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        shown = {"images": [[opened(image) for image in images]]} if images else {}
        theirs = processor(text=[text], **shown)["input_ids"][0]
        image_id = processor.image_token_id
        assert [image_id if token == IMAGE_ID else token for token in prompt] == theirs


def test_a_token_of_an_image_that_somebody_typed_is_text(tmp_path: Path) -> None:
    write_whole(tmp_path / "theirs")
    job = job_of(record_checkpoint(tmp_path / "theirs"))
    spec: Any = job.spec
    assert job.tokenizer is not None
    typed = "<image> <fake_token_around_image><global-img><end_of_utterance>"
    prompt, plain = (
        make_prompt(spec, job.tokenizer, IMAGE_TOKENS, [shows(f"{said}{I}")])
        for said in (typed, "a")
    )
    special = {job.tokenizer.token_to_id(name) for name in ("<image>", "<global-img>", END)}
    assert [t for t in prompt if t in special] == [t for t in plain if t in special]
    assert prompt.count(IMAGE_ID) == IMAGE_TOKENS


def test_packed_rows_and_frozen_features_give_the_same_loss(tmp_path: Path) -> None:
    write_whole(tmp_path / "theirs")
    weights = record_checkpoint(tmp_path / "theirs")
    cache = cache_of(Path("data"), weights)
    found: list[tuple[float, int]] = []
    for rows in ("padded", "packed"):
        for freeze in ([], ["image_encoder"]):
            job = job_of(weights, task=TASK | {"rows": rows}, cache=cache, freeze=freeze)
            batch = job.task.collate([job.train.sample(at, 0) for at in range(len(TALKS))])
            assert ("image_features" in batch) == bool(freeze)
            with torch.no_grad():
                loss = job.task.loss(job.model.eval(), batch)
            found.append((loss.total.item(), int(loss.count)))
    for total, count in found:
        assert total == pytest.approx(found[0][0], rel=1e-5)
        assert count == found[0][1] > 0


def test_layers_that_are_computed_again_give_the_same_gradients(tmp_path: Path) -> None:
    write_whole(tmp_path / "theirs")
    job = job_of(record_checkpoint(tmp_path / "theirs"))
    _, expected = gradients(job)
    assert {name.split(".")[0] for name in expected} == {"image_encoder", "projector", "decoder"}
    Checkpointing(job.model)
    again = {name for name, module in job.model.named_modules() if "forward" in vars(module)}
    assert {name.split(".")[0] for name in again} == {"image_encoder", "decoder"}
    _, found = gradients(job)
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=0, atol=0, msg=parameter)


PARTS: dict[str, dict[str, Any]] = {
    "decoder": {"image_encoder": VIT | {"image_size": SIDE}, "decoder": THEIRS},
    "image encoder": {"image_encoder": WHOLE["image_encoder"], "decoder": DECODER},
    "image encoder and projector": {key: WHOLE[key] for key in ("image_encoder", "projector")}
    | {"decoder": DECODER | {"width": 32, "heads": 4}},
    "projector of random weights": {
        "image_encoder": WHOLE["image_encoder"],
        "projector": {"name": "pixel_shuffle", "scale": 4},
        "decoder": THEIRS,
    },
}


@pytest.mark.parametrize("start", PARTS)
def test_some_parts_may_start_from_it_and_others_from_random_weights(
    tmp_path: Path, start: str
) -> None:
    reference = write_whole(tmp_path / "theirs")
    weights = record_checkpoint(tmp_path / "theirs")
    inputs = {"modality": "image"} | ({} if start == "decoder" else INPUTS)
    job = job_of(weights, PARTS[start], TASK | {"inputs": inputs})
    loss = job.task.loss(job.model, job.task.collate([job.train.sample(0, 0)]))
    loss.total.backward()
    assert torch.isfinite(loss.total)
    theirs = {
        "decoder": (job.model.get_submodule("decoder"), reference.model.text_model),
        "image_encoder": (job.model.get_submodule("image_encoder"), reference.model.vision_model),
        "projector": (job.model.get_submodule("projector"), reference.model.connector),
    }
    for part, (own, other) in theirs.items():
        setting = PARTS[start].get(part, {})
        same = all(
            any(torch.equal(tensor, found) for found in own.state_dict().values())
            for tensor in other.state_dict().values()
        )
        assert same == ("pretrained" in setting), part


def test_shards_of_a_checkpoint_are_read_as_one(tmp_path: Path) -> None:
    reference = write_whole(tmp_path / "theirs", max_shard_size="40KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    job = job_of(record_checkpoint(tmp_path / "theirs"))
    own = job.model.get_submodule("projector").state_dict()["proj.weight"]
    torch.testing.assert_close(
        own, reference.model.connector.modality_projection.proj.weight, rtol=0, atol=0
    )


def refuse_settings(model: dict[str, Any], task: dict[str, Any]) -> str:
    with pytest.raises((ValueError, ValidationError)) as raised:
        VlmTaskConfig.model_validate(task).check_model(VlmConfig.model_validate(model))
    return str(raised.value)


@pytest.mark.parametrize(
    ("model", "task", "said"),
    [
        (WHOLE, TASK | {"inputs": None}, "image_encoder is set, and task.inputs is null"),
        ({"decoder": THEIRS}, TASK, "task.inputs is of model.image_encoder, which is null"),
        (
            WHOLE,
            TASK | {"inputs": INPUTS | {"augment": {"flip": 0.5}}},
            "task.inputs.augment: what is said of images may be untrue of changed ones",
        ),
        (
            WHOLE | {"image_encoder": {"name": "transformers", "channels": 1, **THEIRS}},
            TASK,
            "task.inputs.normalize is for images of 3 channels",
        ),
        (
            WHOLE | {"projector": {"name": "pixel_shuffle"}},
            TASK,
            "scale 0 is that of the checkpoint, and pretrained is null",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    model: dict[str, Any], task: dict[str, Any], said: str
) -> None:
    assert said in refuse_settings(model, task)


@pytest.mark.parametrize(
    ("projector", "said"),
    [
        ({"name": "pixel_shuffle", "scale": 4, **THEIRS}, r"scale = 4, and the projector of .*2"),
        ({"name": "pixel_shuffle", "scale": 3}, "scale = 3: the encoder gives 16 tokens"),
    ],
)
def test_a_projector_of_another_scale_is_refused(
    tmp_path: Path, projector: dict[str, Any], said: str
) -> None:
    write_whole(tmp_path / "theirs")
    weights = record_checkpoint(tmp_path / "theirs")
    with pytest.raises(ConfigError, match=said):
        job_of(weights, WHOLE | {"projector": projector})


def test_a_projector_between_other_parts_is_refused(tmp_path: Path) -> None:
    write_whole(tmp_path / "theirs")
    weights = record_checkpoint(tmp_path / "theirs")
    said = "its projector maps 96 numbers to 32, and between this encoder and this decoder are 96"
    with pytest.raises(ConfigError, match=f"{said} and 16"):
        job_of(weights, WHOLE | {"decoder": DECODER})


def with_other_model(folder: Path, name: str) -> Path:
    """The tokenizer of a whole model beside a model of another type."""
    write_whole(folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    return write_checkpoint(name, folder)


@pytest.mark.parametrize(
    ("part", "name", "said"),
    [
        ("projector", "llama", "a model of type llama; model.projector.pretrained is for whole"),
        ("projector", "siglip", "a model of type siglip; model.projector.pretrained is for whole"),
        ("image_encoder", "llama", "a model of type llama, which sees no images"),
        ("decoder", "siglip", "no model of this kind can be loaded"),
        ("decoder", "llava", "it is a whole vision-language model of type llava; parts are taken"),
        ("image_encoder", "llava", "it is a whole vision-language model of type llava; parts "),
        ("projector", "llava", "a model of type llava; model.projector.pretrained is for whole"),
        ("decoder", "qwen2_5_vl", "it is a whole vision-language model of type qwen2_5_vl; parts"),
    ],
)
def test_a_checkpoint_of_another_type_is_one_clear_line(
    tmp_path: Path, part: str, name: str, said: str
) -> None:
    weights = record_checkpoint(with_other_model(tmp_path / "theirs", name))
    model: dict[str, Any] = {
        "image_encoder": VIT | {"image_size": SIDE},
        "decoder": DECODER,
        part: WHOLE[part],
    }
    inputs = {"modality": "image"}
    if part == "image_encoder":
        inputs |= {"normalize": {"preset": "half"}}
    with pytest.raises(ConfigError, match=said) as raised:
        job_of(weights, model, TASK | {"inputs": inputs})
    assert "\n" not in str(raised.value)
