"""A causal decoder, from sizes or from a checkpoint: the part that several kinds build from."""

from pathlib import Path

from torch import nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from plumbline.models.decoder_config import DecoderConfig
from plumbline.models.pretrained import build_from_checkpoint


def build_decoder(
    config: DecoderConfig, vocab_size: int, pad: int, stored: Path | None = None
) -> PreTrainedModel:
    """A Qwen3-type decoder: random weights from these sizes, or a checkpoint.

    Args:
        config: sizes, or the place of a checkpoint.
        vocab_size: number of token ids; a checkpoint's embedding grows to it where it is smaller.
        pad: id of the padding token.
        stored: folder with the architecture of a trained decoder, whose weights come later.
    """
    model = build_from_checkpoint(
        AutoModelForCausalLM,
        stored=stored,
        pretrained=config.pretrained,
        setting="decoder.pretrained",
    )
    if model is not None:
        table = model.get_input_embeddings()
        assert isinstance(table, nn.Embedding)
        # A stored one has grown before it was stored. It never shrinks: the rows of a checkpoint
        # beyond the tokenizer are often padding for the sake of the hardware.
        if stored is None and table.num_embeddings < vocab_size:
            model.resize_token_embeddings(vocab_size)
        return model
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.width // config.heads,
            intermediate_size=config.mlp_width,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=True,
            attention_dropout=0.0,  # as in the published models of this type
            pad_token_id=pad,
        )
    )
