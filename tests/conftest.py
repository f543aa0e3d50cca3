"""What all tests share: a quiet environment, and small artefacts that are built once."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

# Read when torch and the hub's client are imported, which is later: in fixtures and test modules.
os.environ["PLUMBLINE_TRACKING"] = "off"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DVC_NO_ANALYTICS"] = "true"
# Tiny models are faster on one thread, and float sums depend on the number.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
for _name in ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
    os.environ.pop(_name, None)

SPLIT_SCENES = {"train": (0, 24), "val": (24, 32), "test": (32, 40)}
"""Split -> first and last scene of the tiny dataset."""


@pytest.fixture(scope="session")
def scenes_clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cleaned dataset of 40 drawings, 16 x 16 pixels, two captions and five questions each."""
    from plumbline.sources.scenes import SCHEMA, ScenesConfig, scene_rows

    clean = tmp_path_factory.mktemp("scenes") / "clean"
    clean.mkdir()
    config = ScenesConfig(images=40, image_size=16, captions_per_image=2, faulty_share=0.0)
    for split, (first, end) in SPLIT_SCENES.items():
        rows = [row for index in range(first, end) for row in scene_rows(config, index)]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), clean / f"{split}.parquet")
    return clean


@pytest.fixture(scope="session")
def scenes_cache(scenes_clean: Path) -> Path:
    """The training cache of `scenes_clean`; tests only read it."""
    from plumbline.files import write_digests
    from plumbline.shapes import ShapesConfig, detect_shapes
    from plumbline.tokenization.cache import TokenizeConfig, build_cache
    from plumbline.tokenization.tokenizer import TokenizerConfig

    out = scenes_clean.parent / "cache"
    out.mkdir()
    config = TokenizeConfig(tokenizer=TokenizerConfig(vocab_size=300))
    build_cache(scenes_clean, out, config, detect_shapes(scenes_clean, ShapesConfig()))
    write_digests(out)
    return out


@pytest.fixture(scope="session")
def aligned_folder(scenes_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored dual encoder with random weights, as `pretrain_alignment` writes one."""
    from plumbline.files import write_digests
    from plumbline.loading.cache_reader import TrainingCache
    from plumbline.models.config import TextEncoderConfig, VitConfig
    from plumbline.models.stored import save_model
    from plumbline.tasks.alignment import build_alignment
    from plumbline.tasks.config import AlignmentModelConfig, AlignmentTaskConfig

    vit = VitConfig(
        name="vit",
        image_size=16,
        patch_size=8,
        width=16,
        layers=1,
        heads=2,
        mlp_width=16,
        feature_layers=[0, -1],
    )
    text = TextEncoderConfig(width=16, layers=1, heads=2, mlp_width=16, max_tokens=64)
    model = AlignmentModelConfig(image_encoder=vit, text_encoder=text, embed_dim=8)
    job = build_alignment(TrainingCache(scenes_cache), model, AlignmentTaskConfig(), seed=0)
    folder = tmp_path_factory.mktemp("aligned")
    save_model(folder, job.model, job.spec, job.tokenizer)
    write_digests(folder)
    return folder
