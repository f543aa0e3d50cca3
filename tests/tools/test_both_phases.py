"""What `python -m bench.both_phases` counts and composes, without its trainings."""

from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from bench import both_phases
from plumbline.tokenization.tokenizer import BOS, EOS, PAD, TokenizerConfig, train_tokenizer

ROWS = [("what color is it?", "red"), ("is it a circle?", "yes"), ("what is it?", "a rectangle")]


def make_tokenizer() -> PreTrainedTokenizerFast:
    texts = [text for row in ROWS for text in row]
    trained: Tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=280))
    return PreTrainedTokenizerFast(
        tokenizer_object=trained, pad_token=PAD, bos_token=BOS, eos_token=EOS
    )


def greedy(model: Qwen3ForCausalLM, prompt: list[int], eos: int) -> list[int]:
    said: list[int] = []
    while len(said) < 12 and (not said or said[-1] != eos):
        logits = model(input_ids=torch.tensor([[*prompt, *said]])).logits
        said.append(int(logits[0, -1].argmax()))
    return said


def test_exact_match_is_that_of_greedy_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(both_phases, "VOCAB", 280)
    tokenizer = make_tokenizer()
    model = both_phases.make_decoder(tokenizer)
    ids, labels = both_phases.frame(ROWS, tokenizer)
    both_phases.learn_words(model, ids[:2].repeat(320, 1), labels[:2].repeat(320, 1))
    eos = tokenizer.eos_token_id
    right = 0
    for question, answer in ROWS:
        prompt = [*tokenizer(question)["input_ids"], tokenizer.bos_token_id]
        right += greedy(model, prompt, eos) == [*tokenizer(answer)["input_ids"], eos]
    assert right == 2  # what it has seen
    assert both_phases.exact_match(model, ids, labels) == right / 3


def test_the_recipe_composes_at_the_size_of_a_test(tmp_path: Path) -> None:
    both_phases.open_checkout(tmp_path, "from_checkpoints", epochs=5)
    params = yaml.safe_load((tmp_path / "params.yaml").read_text(encoding="utf-8"))
    train = params["tasks"]["vqa"]["train"]
    assert train["trainer"]["epochs"] == 5
    adapter = train["adapters"]["decoder"]
    assert (adapter["rank"], adapter["quantize"]) == (16, "nf4")
    assert params["weights"].keys() == {"siglip", "qwen3"}
