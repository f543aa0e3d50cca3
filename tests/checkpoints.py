"""Small checkpoints in the formats of the libraries, and their records."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CohereConfig,
    CohereForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    HubertConfig,
    HubertForCTC,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    SequenceFeatureExtractor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SmolVLMImageProcessor,
    T5Config,
    T5ForConditionalGeneration,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForPreTraining,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from plumbline import paths
from plumbline.params import installed_versions
from plumbline.stages import resolve_weights
from plumbline.tokenization.tokenizer import TokenizerConfig, train_tokenizer
from tests.whole_checkpoints import PROCESSED, make_model

SET = "theirs"
VOCAB = 500
"""More ids than the tokenizers of the tests have: checkpoints often have rows to spare."""

_DECODER = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_BERT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
_BART = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_T5 = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 1,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
_TOWER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
_SIGLIP = {
    "vision_config": _TOWER | {"image_size": 32, "patch_size": 8},
    "text_config": _TOWER | {"vocab_size": VOCAB, "max_position_embeddings": 64},
}
_WHISPER = {
    **_BART,
    "num_mel_bins": 20,
    "max_source_positions": 12,  # 24 frames, which are 0.24 s
    "max_target_positions": 16,
    "encoder_layerdrop": 0.5,
    "dropout": 0.1,
}
_WAVES = _TOWER | {
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 3, 3],
    "conv_stride": [5, 2, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.5,
    "mask_time_prob": 0.5,  # drawn from numpy's generator, which no training state holds
    "mask_time_length": 2,
}
_LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}

_OTHER_WHOLE = {
    "vision_config": _SIGLIP["vision_config"] | {"model_type": "clip_vision_model"},
    "text_config": _DECODER | {"model_type": "llama"},
}

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_DECODER, tie_word_embeddings=True)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_DECODER)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**_DECODER, final_logit_softcapping=5.0, sliding_window=16)
    ),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**_DECODER, logits_scaling=4.0)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**_DECODER, logit_scale=0.25)),
    "bert": lambda: BertModel(BertConfig(**_BERT)),
    "masked_bert": lambda: BertForMaskedLM(BertConfig(**_BERT)),
    "bart": lambda: BartForConditionalGeneration(BartConfig(**_BART)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**_T5)),
    "siglip": lambda: SiglipModel(SiglipConfig(**_SIGLIP)),
    "clip": lambda: CLIPModel(CLIPConfig(**_SIGLIP)),
    "sentences": lambda: BertModel(BertConfig(**_BERT)),
    "whisper": lambda: WhisperForConditionalGeneration(WhisperConfig(**_WHISPER)),
    "wav2vec2": lambda: Wav2Vec2ForPreTraining(
        Wav2Vec2Config(**_WAVES, **_LAYER_NORM, num_codevectors_per_group=8)
    ),
    "hubert": lambda: HubertForCTC(HubertConfig(**_WAVES)),
    "wavlm": lambda: WavLMModel(WavLMConfig(**_WAVES)),
    "smolvlm": lambda: make_model("smolvlm"),
    "llava": lambda: LlavaForConditionalGeneration(LlavaConfig(**_OTHER_WHOLE)),
    "qwen2_5_vl": lambda: Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=_DECODER, vision_config={"depth": 1, "hidden_size": 32, "num_heads": 2}
        )
    ),
}

Processor = (
    SequenceFeatureExtractor | SiglipImageProcessor | CLIPImageProcessor | SmolVLMImageProcessor
)
_SQUARE = {"height": 32, "width": 32}
PROCESSORS: dict[str, Callable[[], Processor]] = {
    "siglip": lambda: SiglipImageProcessor(size=_SQUARE),
    "clip": lambda: CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=_SQUARE),
    "whisper": lambda: WhisperFeatureExtractor(feature_size=20, chunk_length=1),
    "wav2vec2": lambda: Wav2Vec2FeatureExtractor(return_attention_mask=True),
    "hubert": lambda: Wav2Vec2FeatureExtractor(),
    "wavlm": lambda: Wav2Vec2FeatureExtractor(do_normalize=False),
    "smolvlm": lambda: SmolVLMImageProcessor(**PROCESSED),
}
_SENTENCES: dict[str, object] = {
    "modules.json": [
        {"path": path, "type": f"sentence_transformers.models.{path[2:] or 'Transformer'}"}
        for path in ("", "1_Pooling", "2_Dense", "3_Normalize")
    ],
    "sentence_bert_config.json": {"max_seq_length": 128, "do_lower_case": False},
    "1_Pooling/config.json": {"embedding_dimension": 32, "pooling_mode": ["cls", "mean"]},
    "2_Dense/config.json": {"in_features": 64, "out_features": 24},
}


def write_checkpoint(name: str, folder: Path, seed: int = 0) -> Path:
    """Save a model of random weights as its library does, with its processor of media."""
    torch.manual_seed(seed)
    MODELS[name]().save_pretrained(folder)
    if name in PROCESSORS:
        PROCESSORS[name]().save_pretrained(folder)
        seen = name in ("siglip", "clip", "smolvlm")
        auto = AutoImageProcessor if seen else AutoFeatureExtractor
        auto.from_pretrained(folder)  # it is what others read
    if name == "sentences":
        for file, content in _SENTENCES.items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(json.dumps(content), encoding="utf-8")
        dense = {"linear.weight": torch.randn(24, 64) / 8, "linear.bias": torch.zeros(24)}
        save_file(dense, folder / "2_Dense/model.safetensors")
    return folder


def write_tokenizer(texts: list[str], folder: Path) -> Tokenizer:
    """Train a tokenizer and put it beside a model."""
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=400))
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def record_checkpoint(path: Path, name: str = "theirs", **entry: Any) -> Path:
    """Make a checkpoint an entry of `weights` in the project of the working folder.

    Returns:
        The folder of its record, which a training or a tokenizer depends on.
    """
    params = Path("params.yaml")
    settings = json.loads(params.read_text(encoding="utf-8")) if params.is_file() else {}
    settings["versions"] = installed_versions()
    settings.setdefault("weights", {})[name] = {"set": SET, "path": str(path), **entry}
    params.write_text(json.dumps(settings), encoding="utf-8")  # which YAML holds too
    resolve_weights.main([name])
    return Path.cwd() / paths.weights(SET)
