"""Small whole vision-language models, with the processor and the template of published ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.smolvlm import processing_smolvlm

from tests.chat_checkpoints import make_bytes

END = "<end_of_utterance>"
SPECIAL = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<fake_token_around_image>", "<global-img>", "<image>", END),
]
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""Of Idefics3 and SmolVLM: a blank in front of content that begins with no image."""

SIDE, LONGEST, SCALE = 32, 80, 2
IMAGE_TOKENS = (SIDE // 8 // SCALE) ** 2
_TEXT = {
    "model_type": "llama",
    "vocab_size": 500,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # so that what is seen matters
}
_VISION = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
    "initializer_range": 0.2,
}
PROCESSED = {
    "size": {"longest_edge": LONGEST},
    "max_image_size": {"longest_edge": SIDE},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.6, 0.7],
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One of bytes with the special tokens of Idefics3."""
    return PreTrainedTokenizerFast(
        tokenizer_object=make_bytes(SPECIAL),
        bos_token="<|im_start|>",
        eos_token=END,
        pad_token="<|im_end|>",
    )


def _sizes(tied: bool) -> dict[str, Any]:
    return {
        "vision_config": _VISION,
        "text_config": _TEXT,
        "scale_factor": SCALE,
        "image_token_id": make_tokenizer().convert_tokens_to_ids("<image>"),
        "tie_word_embeddings": tied,
    }


MODELS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "idefics3": lambda sizes: Idefics3ForConditionalGeneration(Idefics3Config(**sizes)),
    "smolvlm": lambda sizes: SmolVLMForConditionalGeneration(SmolVLMConfig(**sizes)),
}


def make_model(name: str, *, tied: bool = False) -> Any:
    """A model of random weights."""
    return MODELS[name](_sizes(tied)).eval()


def make_processor(name: str, *, split: bool = False) -> Any:
    """The processor of a type, with PIL as its backend."""
    tokenizer = make_tokenizer()
    known: dict[str, Any] = {"image_seq_len": IMAGE_TOKENS, "chat_template": TEMPLATE}
    if name == "idefics3":
        images = Idefics3ImageProcessorPil(**PROCESSED, do_image_splitting=split)
        return Idefics3Processor(images, tokenizer, **known)
    # Of a package that videos alone are spoken of with.
    processing_smolvlm.num2words = processing_smolvlm.num2words or str
    images = SmolVLMImageProcessorPil(**PROCESSED, do_image_splitting=split)
    return SmolVLMProcessor(images, tokenizer, SmolVLMVideoProcessor(), **known)


def write_whole(
    folder: Path, name: str = "smolvlm", *, tied: bool = False, seed: int = 0, **saving: Any
) -> Any:
    """Save a model of random weights with its processor, as transformers does; returns the model.

    The processor cuts images into tiles, as those of published checkpoints are set to.
    """
    torch.manual_seed(seed)
    model = make_model(name, tied=tied)
    model.save_pretrained(folder, **saving)
    make_processor(name, split=True).save_pretrained(folder)
    return model


def as_published(folder: Path) -> None:
    """Bring a folder to the layout in which SmolVLM-256M-Instruct lies on the hub."""
    config = _read(folder / "config.json")
    rope = config["text_config"].pop("rope_parameters")
    config["vision_config"] |= {
        "model_type": "idefics3",
        "size": {"longest_edge": 2048},
        "max_image_size": {"longest_edge": SIDE},
        "use_base_siglip": False,
        "tie_word_embeddings": False,
    }
    config["text_config"] |= {
        "architectures": ["VLlama3ForCausalLM"],
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None,
        "pixel_shuffle_factor": SCALE,
        "perceiver_config": {"hidden_act": "silu", "model_type": "vllama3"},
        "torch_dtype": "bfloat16",
    }
    config |= {"torch_dtype": "bfloat16", "scale_factor": SCALE, "use_cache": False}
    _write(folder / "config.json", config)
    joint = _read(folder / "processor_config.json")
    images = joint.pop("image_processor")
    images["processor_class"] = joint["processor_class"]
    _write(folder / "preprocessor_config.json", images)
    joint.pop("video_processor", None)
    _write(folder / "processor_config.json", joint)
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    _write(folder / "chat_template.json", {"chat_template": template})


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _write(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2), encoding="utf-8")
