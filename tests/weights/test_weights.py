"""Where checkpoints lie, which of their files count, and what is said when they cannot be had."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from plumbline.errors import ConfigError
from plumbline.files import read_json
from plumbline.kinds.vlm.settings import VlmConfig
from plumbline.models.encoder_config import TextEncoderConfig
from plumbline.weights.checkpoint import Base, known_as, locate, open_checkpoint
from plumbline.weights.files import describe_files, list_files, of_tokenizer
from plumbline.weights.hub import fetch
from plumbline.weights.named import base_of, named_checkpoints
from plumbline.weights.settings import WeightsConfig
from tests.checkpoints import record_checkpoint

COMMIT = "0123456789" * 4


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} of it", encoding="utf-8")
    return folder


def names(path: Path) -> list[str]:
    return [file.relative_to(path).as_posix() for file in list_files(path)]


def test_files_that_a_model_is_read_from_count_and_no_others(tmp_path: Path) -> None:
    write(
        tmp_path,
        *("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"),
        *("1_Pooling/config.json", "README.md", "modeling_own.py", "pytorch_model.bin"),
        *("onnx/model.json", ".cache/x.json", "checkpoint-10/config.json", "sub/.x.json"),
    )
    assert names(tmp_path) == [
        *("1_Pooling/config.json", "chat_template.jinja", "config.json"),
        *("model.safetensors", "tokenizer.json"),
    ]
    assert set(of_tokenizer(describe_files(tmp_path))) == {"chat_template.jinja", "tokenizer.json"}


def test_of_a_model_of_this_pipeline_its_history_does_not_count(tmp_path: Path) -> None:
    write(tmp_path, "model.json", "model.safetensors", "metrics.json", "config.json", "train.csv")
    write(tmp_path, "pretrained/decoder/config.json")
    assert names(tmp_path) == ["model.json", "model.safetensors", "pretrained/decoder/config.json"]


def test_a_file_counts_alone(tmp_path: Path) -> None:
    file = write(tmp_path, "trunk.pt", "other.json") / "trunk.pt"
    described = describe_files(file)
    assert set(described) == {"trunk.pt"}
    assert described["trunk.pt"]["bytes"] == len("trunk.pt of it")


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (["pytorch_model.bin"], r"pytorch_model\.bin is a pickle; save the model as safetensors"),
        (["README.md"], r"holds no checkpoint \(\*\.json, "),
        ([], "no such folder"),
    ],
)
def test_a_folder_without_a_checkpoint_is_told(tmp_path: Path, made: list[str], told: str) -> None:
    write(tmp_path / "it", *made)
    with pytest.raises(ConfigError, match=told):
        list_files(tmp_path / "it")


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"path": "x", "set": "../../elsewhere"}, "'../../elsewhere' is not a name that can be"),
        ({"path": "x", "set": ""}, "'' is not a name that can be used"),
        ({"path": "x", "revision": COMMIT}, "revision is of a hub id, and hub is null"),
        ({"path": "x", "hub": "a/b"}, "revision None is not a commit of a/b"),
        ({"path": "x", "hub": "a/b", "revision": "main"}, "revision 'main' is not a commit"),
        ({"path": ".", "hub": "a/b", "revision": COMMIT}, "the folder path '.' are both set"),
    ],
)
def test_an_entry_says_one_place(entry: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        WeightsConfig.model_validate({"set": "s"} | entry)


def test_a_hub_id_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    told = f"nobody/nothing at {COMMIT[:12]}: not on this machine and not to be had from the hub"
    with pytest.raises(ConfigError, match=told) as caught:
        fetch("nobody/nothing", COMMIT)
    assert "\n" not in str(caught.value)


def test_a_hub_id_is_found_among_what_was_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the layout of the hub's own cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = write(tmp_path / f"models--a--b/snapshots/{COMMIT}", "config.json")
    config = WeightsConfig(set="s", path="data/.gitkeep", hub="a/b", revision=COMMIT)
    assert locate(config) == snapshot


def test_a_record_is_compared_with_the_files_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "it", "config.json", "model.safetensors")
    weights = record_checkpoint(folder, "mine")
    opened = open_checkpoint(weights, "mine")
    assert opened.path == folder
    assert set(opened.digests) == {"config.json", "model.safetensors"}
    assert read_json(weights / "mine.json")["files"] == opened.files
    write(folder, "README.md")  # is not read
    assert open_checkpoint(weights, "mine") == opened
    (folder / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json: changed since resolve_weights@mine"):
        open_checkpoint(weights, "mine")
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json: gone since resolve_weights@mine"):
        open_checkpoint(weights, "mine")
    with pytest.raises(ConfigError, match="missing; run dvc repro resolve_weights@other"):
        open_checkpoint(weights, "other")


def test_a_checkpoint_is_known_by_its_id_or_its_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    entries = {
        "mine": {"set": "s", "path": "it"},
        "theirs": {"set": "s", "path": "x", "hub": "a/b", "revision": COMMIT},
    }
    Path("params.yaml").write_text(json.dumps({"weights": entries}), encoding="utf-8")
    files = {"config.json": {"bytes": 2, "sha256": "0" * 64}}
    for name in entries:
        Path(f"{name}.json").write_text(json.dumps({"files": files}), encoding="utf-8")
    assert [known_as(Path(), name) for name in entries] == [
        Base("mine", None, files),  # type: ignore[arg-type]
        Base("a/b", COMMIT, files),  # type: ignore[arg-type]
    ]


def test_settings_that_name_checkpoints_are_found() -> None:
    vlm = VlmConfig.model_validate({"decoder": {"pretrained": "qwen"}})
    (named,) = named_checkpoints(vlm)
    assert (named.key, named.name, named.reads_ids) == ("decoder.pretrained", "qwen", True)
    assert (base_of(vlm, "decoder"), base_of(vlm, "projector")) == ("qwen", None)
    text = TextEncoderConfig(name="transformer", pretrained="bert")
    assert [n.reads_ids for n in named_checkpoints(text)] == [True]
