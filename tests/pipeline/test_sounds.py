"""The recipe of a Whisper encoder, from a folder of weights to the bundle, at the size of a test.

The stages run in this process, on the recipe's own settings.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from plumbline import paths
from plumbline.config import compose_yaml
from plumbline.export.media import encode_wav
from plumbline.stages import (
    detect_shapes,
    evaluate_model,
    export_model,
    finetune,
    prepare,
    resolve_weights,
    tokenize_text,
    validate,
)
from tests.checkpoints import write_checkpoint

CONF = Path(__file__).resolve().parents[2] / "conf"
TASK = "whisper_spoken"
SMALLER = [
    f"tasks.{TASK}.train.trainer.epochs=12",
    f"tasks.{TASK}.train.trainer.precision=fp32",
    f"tasks.{TASK}.train.trainer.optim.lr=3.0e-3",
    f"tasks.{TASK}.train.trainer.validate_every_epochs=0",
    f"tasks.{TASK}.train.loader.batch_size=8",
    f"tasks.{TASK}.export.parity_samples=6",
    f"tasks.{TASK}.export.selftest_samples=2",
    "datasets.fsdd.validate.split.val=0.0",
]


def write_digits(folder: Path) -> None:
    """Two digits at two pitches, by two speakers of unequal loudness, 80 to 200 ms of 8 kHz."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for split, count in (("train", 32), ("test", 8)):
        rows = []
        for number in range(count):
            digit, speaker = number % 2, number // 2 % 2
            time = np.arange(int(random.integers(640, 1600))) / 8000
            wave = np.sin(2 * np.pi * (500 + 1500 * digit) * time)
            buzz = speaker * np.sin(2 * np.pi * 3500 * time)
            noise = 0.01 * random.standard_normal(len(time))
            clip = (0.3 * (wave + buzz) + noise).astype(np.float32)
            rows.append(
                {
                    "sample_id": f"{split}-{number}",
                    "audio_bytes": encode_wav(clip, 8000),
                    "caption": f"the digit {('zero', 'one')[digit]}",
                    "digit": ("zero", "one")[digit],
                    "speaker": ("jackson", "nicolas")[speaker],
                }
            )
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")


def test_a_whisper_encoder_learns_spoken_digits_and_answers_in_its_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLUMBLINE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PLUMBLINE_CHECKPOINTS", str(tmp_path / "checkpoints"))
    write_digits(tmp_path / "data/fsdd")
    write_checkpoint("whisper", tmp_path / "checkpoints/whisper")
    params = compose_yaml(CONF, "config", ["experiment=whisper_fsdd", *SMALLER])
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    resolve_weights.main(["whisper"])
    for stage in (prepare, validate, detect_shapes, tokenize_text):
        stage.main(["fsdd"])
    for task_stage in (finetune, evaluate_model, export_model):
        task_stage.main([TASK])
    spec = json.loads((paths.finetuned(TASK) / "model.json").read_text(encoding="utf-8"))
    assert (spec["inputs"]["form"], spec["inputs"]["n_mels"]) == ("log_mel", 20)
    assert spec["inputs"]["min_steps"] == spec["inputs"]["max_steps"] == 24
    assert spec["model"]["encoder"]["pretrained"] is None
    details = json.loads((paths.task_evaluation(TASK) / "details.json").read_text(encoding="utf-8"))
    assert details["figures"]["digit/accuracy"] == 1.0
    assert details["figures"]["speaker/accuracy"] == 1.0
    metadata = json.loads((paths.export(TASK) / "metadata.json").read_text(encoding="utf-8"))
    for result in metadata["formats"].values():
        assert result["status"] == "ok"
        assert result["parity"]["class_agreement"] == 1.0
