"""Mistakes of typing: one line each with the nearest that is right, before any stage runs."""

from pathlib import Path

import pytest

from plumbline.cli.main import call
from plumbline.errors import ConfigError
from plumbline.running.checks import check_targets, compose_run, dvc_overrides, stage_outputs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written: DVC is not called."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("plumbline.cli.run.run_dvc", lambda *_: pytest.fail("dvc was called"))


MISTAKES = {
    # names
    "run smok": "smok: no such experiment; did you mean smoke?",
    "run smoke -S tasks=vqqa": "tasks=vqqa: no such file in conf/tasks; did you mean vqa?",
    "run -S datasets=[scene]": (
        "datasets=scene: no such file in conf/datasets; did you mean scenes?"
    ),
    "run -S optim@tasks.vqa.train.trainer.optim=admw": "optim=admw: .* did you mean adamw?",
    "run -t finetun@vqa": "finetun@vqa: no such stage; did you mean finetune@vqa?",
    "run -t finetune@vqaa": "finetune@vqaa: no such stage; did you mean finetune@vqa?",
    "rnu": "rnu: no such command; did you mean run?",
    # keys
    "run -S sead=3": "sead: unknown key; did you mean seed?",
    "run -S tasks.vqaa.train.trainer.epochs=3": "tasks.vqaa: unknown key; did you mean tasks.vqa?",
    "run smoke -S tasks.vqa.train.trainer.epocs=3": "did you mean tasks.vqa.train.trainer.epochs?",
    "run -S tasks.vqa.train.model.decoder.layrs=2": (
        "did you mean tasks.vqa.train.model.decoder.layers?"
    ),
    "run -S +tasks.vqa.train.trainer.epocs=3": (
        "tasks.vqa.train.trainer.epocs: unknown key; did you mean epochs?"
    ),
    "run -S +tasks.vqa.trian={}": "tasks.vqa.trian: no stage reads it; did you mean train?",
    "run -S datasets.scenes.tokenise.image_size=3": (
        "datasets.scenes.tokenise: unknown key; did you mean datasets.scenes.tokenize?"
    ),
    # values
    "run -S tasks.vqa.train.trainer.epochs=ten": (
        "tasks.vqa.train.trainer.epochs = 'ten': input should be a valid integer"
    ),
    "run -S tasks.vqa.train.trainer.epochs=0": "tasks.vqa.train.trainer.epochs = 0: .*greater than",
    "run -S tasks.vqa.train.trainer.optim.lr=-1": (
        "tasks.vqa.train.trainer.optim.lr = -1: .*greater than"
    ),
    "run -S tasks.vqa.train.trainer.precision=fp61": (
        "tasks.vqa.train.trainer.precision = 'fp61': .*'fp16'"
    ),
    "run -S tasks.vqa.train.model.decoder.heads=5": "width 128 is not a multiple of heads 5",
    "run -S datasets.scenes.validate.views={caption:[image,captoin]}": "captoin",
    # kinds
    "run -S tasks.vqa.kind=vlmm": "tasks.vqa.kind = 'vlmm': .* did you mean vlm?",
    "run -S tasks.vqa.train.trainer.optim.name=adanw": (
        "optim.name = 'adanw': .* did you mean adamw?"
    ),
    "run -S align.image.train.model.image_encoder.name=vt": (
        "image_encoder.name = 'vt': .* did you mean vit?"
    ),
    "run -S datasets.scenes.prepare.source=scens": "source = 'scens': .* did you mean scenes?",
    "run -S tasks.vqa.train.task.loss=cross_entrpy": (
        "loss = 'cross_entrpy': .* did you mean cross_entropy?"
    ),
    # paths
    "run -S datasets.scenes.path=data/nope": (
        "datasets.scenes.path = data/nope: the files of a dataset: not there"
    ),
    "run -S tasks.vqa.data=scene": (
        "tasks.vqa.data = 'scene': no such dataset is selected; datasets are scenes"
    ),
    "run -S tasks.vqa.start=models/align/imag": (
        "tasks.vqa.start = .*: nothing makes it; there will be models/align/image"
    ),
    "run -S tasks.vqa.weights=work/weights/nope": (
        "tasks.vqa.weights = .*: no entry of weights is of that set"
    ),
    # the command line
    "run -s seed=1": "plumbline run: unrecognized arguments: -s; did you mean -S?",
    "run --chek": "plumbline run: unrecognized arguments: --chek; did you mean --check?",
    "inspect vqa overfitt": (
        "plumbline inspect: argument what: invalid choice: 'overfitt'; did you mean overfit?"
    ),
    "run -S seed": "-S seed: key=value is expected",
    "run -S experiment=smoke": "-S experiment=smoke: name it without -S: plumbline run smoke",
    "run -S seed=1,2": "-S seed=1,2: one value for one run; several are a sweep",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line_with_the_nearest_right_one(command: str) -> None:
    with pytest.raises(ConfigError, match=MISTAKES[command].replace("?", r"\?")) as error:
        call(command.split())
    assert "\n" not in str(error.value)


def test_an_experiment_and_settings_are_composed_as_dvc_does() -> None:
    params = compose_run(ROOT, "smoke", ["tasks.vqa.train.trainer.epochs=3"])
    assert params["tasks"]["vqa"]["train"]["trainer"]["epochs"] == 3
    assert params["threads"] == 1  # of the preset
    assert dvc_overrides(ROOT, "smoke", ["seed=1"]) == ["experiment=smoke", "seed=1"]


def test_a_list_is_one_value_and_no_sweep() -> None:
    params = compose_run(ROOT, "smoke", ["align.image.train.task.widths=[16,32]"])
    assert params["align"]["image"]["train"]["task"]["widths"] == [16, 32]


def test_every_stage_of_the_dag_is_known_with_its_outputs() -> None:
    outputs = stage_outputs(ROOT, compose_run(ROOT, "signals", []))
    assert "prepare@signals" in outputs
    assert outputs["finetune@states"] == ["models/tasks/states"]
    assert outputs["report"] == ["report"]
    check_targets(["finetune", "finetune@states", "report"], list(outputs))


def test_what_is_tracked_and_not_there_is_to_be_pulled(tmp_path: Path) -> None:
    for name in ("conf", "plugins", "sweeps"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "dvc.yaml").symlink_to(ROOT / "dvc.yaml")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/.gitkeep").touch()
    (tmp_path / "data/mine.dvc").write_text("outs: []\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not there; dvc pull data/mine"):
        compose_run(tmp_path, "smoke", ["datasets.scenes.path=data/mine"])
