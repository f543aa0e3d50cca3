"""Small tokenizers with chat templates of the types that published models have."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

CORPUS = [
    "What is one plus one? Two. And one more? Three, of course, if the question is meant.",
    "the red circle and the blue square are in the picture; answer briefly: red blue green",
    "user assistant system model INST <|im_start|> <|user|> <start_of_turn> be brief, be kind",
    "1 2 3 4 5 6 7 8 9 10 11 12 \n\n and \n so on\t[1] (2) {3}: def f(x):\n    return x\n",
    "so\n\nand\n\nor\n\nif\n\n1\n\n",
]

CHATML = """{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""Qwen 2.5: a system turn of its own where there is none."""

THINKING = """{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' and loop.index0 > ns.last %}
        {{- '<think>\\n\\n</think>\\n\\n' + message.content.lstrip('\\n') }}
    {%- else %}
        {{- message.content }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
"""Qwen 3: an empty block of thoughts in front of the last answer alone."""

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = '' -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/...') }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else '') }}
    {{- message['content'] | trim }}
    {{- '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""
"""The system turn is part of the first one of the user."""

INST = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
"""Mistral and Llama 2: marks that are no special tokens, a blank before an answer."""

ZEPHYR = """{% for message in messages %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token }}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""


class Checkpoint(NamedTuple):
    """What the folder of a chat model has of its tokenizer."""

    template: str
    end: str
    """The special token that ends an answer."""
    make: Callable[[list[str]], Tokenizer]
    tokens: dict[str, str]
    """Such as `bos_token`."""
    others: tuple[str, ...] = ()
    """More special tokens."""


def make_bytes(special: list[str]) -> Tokenizer:
    """As GPT-2, Qwen and Llama 3 do."""
    tokenizer = Tokenizer(BPE())
    words = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    return tokenizer


def _pieces(special: list[str], *, first: bool) -> Tokenizer:
    """As SentencePiece does: blanks are written out, unknown characters are bytes."""
    tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if first:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
    trainer = BpeTrainer(
        vocab_size=560, special_tokens=["<unk>", *special, *tokens], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    described = json.loads(tokenizer.to_str())
    # Bytes are in the vocabulary, but nobody can type them.
    described["added_tokens"] = [t for t in described["added_tokens"] if t["content"] not in tokens]
    tokenizer = Tokenizer.from_str(json.dumps(described))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if first else []),
        ]
    )
    return tokenizer


def _gemma(special: list[str]) -> Tokenizer:
    return _pieces(special, first=False)


def _mistral(special: list[str]) -> Tokenizer:
    return _pieces(special, first=True)


_QWEN = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
CHECKPOINTS: dict[str, Checkpoint] = {
    "chatml": Checkpoint(CHATML, "<|im_end|>", make_bytes, _QWEN, ("<|im_start|>",)),
    "thinking": Checkpoint(THINKING, "<|im_end|>", make_bytes, _QWEN, ("<|im_start|>",)),
    "llama3": Checkpoint(
        LLAMA3,
        "<|eot_id|>",
        make_bytes,
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        ("<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"),
    ),
    "gemma": Checkpoint(
        GEMMA,
        "<end_of_turn>",
        _gemma,
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    "inst": Checkpoint(INST, "</s>", _mistral, {"bos_token": "<s>", "eos_token": "</s>"}),
    "zephyr": Checkpoint(ZEPHYR, "</s>", _mistral, {"bos_token": "<s>", "eos_token": "</s>"}),
}
"""Type -> what it has; `write_checkpoint` writes it."""


def write_checkpoint(folder: Path, name: str) -> Path:
    """Write the tokenizer of a type into a new folder, as the hub has it; returns the folder."""
    checkpoint = CHECKPOINTS[name]
    folder.mkdir(parents=True)
    special = list(dict.fromkeys([*checkpoint.tokens.values(), *checkpoint.others]))
    checkpoint.make(special).save(str(folder / "tokenizer.json"))
    config: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast", **checkpoint.tokens}
    if name in ("gemma", "inst"):  # older checkpoints have it among the settings
        config["chat_template"] = checkpoint.template
    else:
        (folder / "chat_template.jinja").write_text(checkpoint.template, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
