"""The adapter in a bundle gives with its base what the merged weights give, by peft."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from plumbline.export.bundle import write_bundle
from plumbline.export.plan import BundleSource
from plumbline.files import read_json, write_digests
from plumbline.kinds.causal_lm.settings import CausalLmExportConfig
from plumbline.loading.cache_reader import TrainingCache
from plumbline.models.stored import ADAPTERS, load_model, save_model
from plumbline.models.weights import load_weights
from plumbline.training.adapter_config import AdapterConfig
from plumbline.training.adapters import attach_adapters, merge_adapters, save_adapters
from plumbline.weights.checkpoint import known_as
from tests.checkpoints import record_checkpoint, write_checkpoint
from tests.tiny import CASES

MakeJob = Callable[..., Any]
Caches = Callable[[str], TrainingCache]


def bundle_of(
    make_job: MakeJob, cache: TrainingCache, folder: Path, adapter: dict[str, Any] | None
) -> tuple[Path, Any]:
    """A bundle of weights alone from a decoder of a checkpoint, adapted or not, and its model."""
    weights = record_checkpoint(write_checkpoint("qwen3", folder / "theirs"))
    model = {"decoder": {"pretrained": "theirs"}}
    job = make_job("causal_lm_rows", model=model, weights=weights)
    stored, out = folder / "model", folder / "bundle"
    stored.mkdir()
    out.mkdir()
    if adapter is not None:
        configs = {"decoder": AdapterConfig.model_validate(adapter)}
        adapters = attach_adapters(job.model, configs, seed=0, compute_dtype=torch.float32)
        with torch.no_grad():
            for parameter in job.model.parameters():
                if parameter.requires_grad:
                    parameter += torch.randn_like(parameter) * 0.1
        save_adapters(stored, adapters, {"decoder": known_as(weights, "theirs")})
        merge_adapters(job.model, adapters)
    save_model(stored, job.model, job.spec, job.tokenizer)
    write_digests(stored)
    there = stored / ADAPTERS
    source = BundleSource(
        load_model(stored), cache, {}, threads=1, adapters=there if there.is_dir() else None
    )
    write_bundle(source, CausalLmExportConfig(formats=[]), out)
    write_digests(out)
    load_weights(job.model, out / "model.safetensors")
    return out, job.model.eval()


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_base_and_adapter_give_what_the_merged_weights_give(
    make_job: MakeJob,
    caches: Caches,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    cache = caches(CASES["causal_lm_rows"].data)
    bundle, merged = bundle_of(make_job, cache, tmp_path, {"rank": 3, "method": method})
    folder = bundle / ADAPTERS / "decoder"
    base = read_json(folder / "base.json")
    assert base["name"] == read_json(folder / "adapter_config.json")["base_model_name_or_path"]
    assert base["files"] == read_json(Path("work/weights/theirs/theirs.json"))["files"]
    assert f"{ADAPTERS}/decoder/adapter_model.safetensors" in read_json(bundle / "digests.json")
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float32)
    ids = torch.randint(5, 40, (3, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        untouched = theirs.eval()(input_ids=ids).logits
        found = PeftModel.from_pretrained(theirs, folder).eval()(input_ids=ids).logits
        expected = merged.decoder(input_ids=ids).logits
    assert (expected - untouched).abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_without_adapters_there_are_none(
    make_job: MakeJob, caches: Caches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle, _ = bundle_of(make_job, caches(CASES["causal_lm_rows"].data), tmp_path, None)
    assert not (bundle / ADAPTERS).exists()
