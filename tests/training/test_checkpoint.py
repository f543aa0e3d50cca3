"""Training state is whole, newest by its number, bound to one run, and held by one process."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from plumbline import files
from plumbline.errors import CheckpointError
from plumbline.models.weights import plain_state
from plumbline.training import checkpoint
from plumbline.training.checkpoint import (
    CheckpointStore,
    TrainingState,
    fingerprint_run,
    identify_run,
    load_state,
    optimizer_tensors,
    training_state_folder,
)
from plumbline.training.history import History

SRC = Path(__file__).resolve().parents[2] / "src"


def model_and_optimizer(steps: int, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    unused = nn.Parameter(torch.zeros(2))  # never gets a gradient, so it has no state
    optimizer = torch.optim.AdamW([model.weight, unused, model.bias], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def tensors_of(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return plain_state(model), dict(optimizer_tensors(optimizer))


def state(micro_step: int = 3, fingerprint: str = "f") -> TrainingState:
    clock = {"micro_step": micro_step}
    return TrainingState(fingerprint, clock, {"value": None}, plateau={"share": 0.1})


def test_weights_optimizer_and_state_come_back_exactly(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run", "f")
    model, optimizer = model_and_optimizer(3)
    history = History(steps=[{"loss": 1 / 3}])
    store.save(*tensors_of(model, optimizer), state(), store.history.take(history), 0)
    other, other_optimizer = model_and_optimizer(0, seed=1)
    path = store.latest()
    assert path == tmp_path / "run/step-3"
    restored, read = store.read(path)
    load_state(path, other, other_optimizer)
    assert replace(restored, history=None) == state()
    assert read == history
    assert read.steps[0]["loss"] == pytest.approx(1 / 3, abs=0)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    one, two = (o.state_dict()["state"] for o in (optimizer, other_optimizer))
    assert one.keys() == two.keys() == {0, 2}
    for index, values in one.items():
        assert values.keys() == two[index].keys()
        assert all(torch.equal(values[n], two[index][n]) for n in values)


def test_the_newest_state_is_that_with_the_highest_number_whatever_its_time(
    tmp_path: Path,
) -> None:
    store = CheckpointStore(tmp_path, "f", keep_every_epochs=1)
    model, optimizer = model_and_optimizer(0)
    for step, epoch in ((10, 2), (9, 1)):
        store.save(*tensors_of(model, optimizer), state(step), [], epoch)
    os.utime(tmp_path / "step-9", (2**31, 2**31))
    assert store.latest() == tmp_path / "step-10"


def test_a_store_without_state_has_none(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run", "f")
    assert store.latest() is None
    store.remove()
    with pytest.raises(CheckpointError, match=r"best: no digests\.json"):
        store.load_best(nn.Linear(3, 2))


def test_the_state_before_goes_when_the_next_stands(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "f", keep_every_epochs=2)
    model, optimizer = model_and_optimizer(0)
    for step, epoch in ((1, 0), (2, 1), (3, 0), (4, 2), (5, 0), (6, 3)):
        store.save(*tensors_of(model, optimizer), state(step), [], epoch)
    assert {p.name for p in tmp_path.iterdir()} == {"history.jsonl", "step-4", "step-6"}


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "f")
    model, optimizer = model_and_optimizer(0)
    store.save(*tensors_of(model, optimizer), state(5), [], 0)
    store.save(*tensors_of(model, optimizer), state(5), [], 7)
    assert {p.name for p in tmp_path.iterdir()} == {"history.jsonl", "step-5"}
    assert (tmp_path / "step-5/snapshot").exists()


def test_a_failing_save_keeps_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path, "f")
    model, optimizer = model_and_optimizer(1)
    store.save(*tensors_of(model, optimizer), state(1), [], 0)

    def fail(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_tensors", fail)
    with pytest.raises(KeyboardInterrupt):
        store.save(*tensors_of(model, optimizer), state(2), [], 0)
    assert {p.name for p in tmp_path.iterdir()} == {"history.jsonl", "step-1"}


def test_the_best_weights_are_replaced_and_checked(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "f")
    first, second = (model_and_optimizer(0, seed)[0] for seed in (0, 1))
    store.save_best(plain_state(first), {"value": 2.0})
    store.save_best(plain_state(second), {"value": 1.0})
    store.load_best(first)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    file = tmp_path / "best/model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"best/model\.safetensors: its bytes changed"):
        store.load_best(first)


IDENTITY = {"settings": {"optim": {"lr": 0.1}, "seed": 0}, "inputs": {"cache": "a" * 64}}


def test_a_foreign_state_is_refused_with_what_differs(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer(0)
    CheckpointStore(tmp_path, "f", identity=IDENTITY).save(
        *tensors_of(model, optimizer), state(), [], 0
    )
    other = {"settings": {"optim": {"lr": 0.2}, "seed": 0}, "inputs": {"cache": "b" * 64}}
    store = CheckpointStore(tmp_path, "g", identity=other)
    with pytest.raises(CheckpointError) as caught:
        store.read(tmp_path / "step-3")
    a, b = (f"'{letter * 36}..." for letter in "ab")
    assert str(caught.value) == (
        f"{tmp_path}/step-3: belongs to another run (fingerprint f, this one has g): "
        f"inputs.cache: {a} there, {b} here; settings.optim.lr: 0.1 there, 0.2 here; remove it"
    )


def test_the_nearest_state_of_another_run_is_named(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer(0)
    far = {"settings": {"optim": {"lr": 0.3}, "seed": 3}, "inputs": {}}
    near = {**IDENTITY, "settings": {"optim": {"lr": 0.1}, "seed": 1}}
    own = CheckpointStore(tmp_path / "own", "f", identity=IDENTITY)
    assert own.nearest_other() is None
    for name, identity in (("far", far), ("near", near), ("own", IDENTITY)):
        store = CheckpointStore(tmp_path / name, "f", identity=identity)
        store.save(*tensors_of(model, optimizer), state(), [], 0)
    expected = f"{tmp_path}/near/step-3 differs in settings.seed: 1 there, 0 here"
    assert own.nearest_other() == expected
    (tmp_path / "far/step-3/identity.json").write_text("{", encoding="utf-8")
    assert own.nearest_other() == expected
    assert CheckpointStore(tmp_path / "own", "f").nearest_other() is None


def test_the_fingerprint_covers_settings_inputs_and_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = fingerprint_run(identify_run({"lr": 0.1, "seed": 0}, {"data": "a"}))
    assert fingerprint_run(identify_run({"seed": 0, "lr": 0.1}, {"data": "a"})) == base
    assert fingerprint_run(identify_run({"lr": 0.2, "seed": 0}, {"data": "a"})) != base
    assert fingerprint_run(identify_run({"lr": 0.1, "seed": 0}, {"data": "b"})) != base
    text = Path(checkpoint.__file__).read_text(encoding="utf-8")
    for line, changes in (("# edited\n", False), ("EDITED = 1\n", True)):
        edited = tmp_path / f"{changes}.py"
        edited.write_text(text + line, encoding="utf-8")
        monkeypatch.setattr(checkpoint, "__file__", str(edited))
        again = fingerprint_run(identify_run({"lr": 0.1, "seed": 0}, {"data": "a"}))
        assert (again != base) == changes


def test_the_fingerprint_does_not_depend_on_where_the_code_lies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = fingerprint_run(identify_run({}, {}))
    moved = tmp_path / "elsewhere.py"
    moved.write_bytes(Path(checkpoint.__file__).read_bytes())
    monkeypatch.setattr(checkpoint, "__file__", str(moved))
    assert fingerprint_run(identify_run({}, {})) == base


HOLD = """
import sys
from plumbline.training.checkpoint import training_state_folder
with training_state_folder("finetune@vqa", "f" * 64) as folder:
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def test_training_state_lies_below_the_root_of_dvc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with training_state_folder("finetune@vqa", "ab" * 32) as folder:
        assert folder == tmp_path / ".ckpt/finetune@vqa" / ("ab" * 8)


def test_the_same_run_in_another_process_gets_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(SRC), "DVC_ROOT": str(tmp_path)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "f" * 16
        with training_state_folder("finetune@vqa", "f" * 64) as folder:
            assert folder.name == f"{'f' * 16}-{os.getpid()}"
    finally:
        holder.kill()
        holder.communicate()
    with training_state_folder("finetune@vqa", "f" * 64) as folder:
        assert folder.name == "f" * 16


def dying_rmtree(folder: Path) -> None:
    """Removes one file, then the process is gone."""
    next(path for path in sorted(folder.rglob("*")) if path.is_file()).unlink()
    raise KeyboardInterrupt


def saved_run(folder: Path, *steps: int) -> CheckpointStore:
    store = CheckpointStore(folder, "f")
    for step in steps:
        store.save(*tensors_of(*model_and_optimizer(0)), state(step), [], 0)
    return store


def test_a_run_killed_while_its_state_is_removed_leaves_no_part_of_a_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with training_state_folder("finetune@vqa", "f" * 64) as folder:
        store = saved_run(folder, 1)
        with monkeypatch.context() as patch:
            patch.setattr(files.shutil, "rmtree", dying_rmtree)
            with pytest.raises(KeyboardInterrupt):
                store.remove()
        assert not folder.exists()
    with training_state_folder("finetune@vqa", "f" * 64) as folder:
        assert {path.name for path in folder.parent.iterdir()} == {f"{'f' * 16}.lock"}


def test_a_run_killed_while_an_old_state_is_removed_has_the_new_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = saved_run(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", dying_rmtree)
        with pytest.raises(KeyboardInterrupt):
            store.save(*tensors_of(*model_and_optimizer(0)), state(2), [], 0)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-2"]


@pytest.mark.parametrize("name", ["step-4", "best"])
def test_a_state_that_was_moved_aside_for_its_successor_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with training_state_folder("finetune@vqa", "f" * 64) as folder:
        saved_run(folder, 4).save_best(plain_state(model_and_optimizer(0)[0]), {"value": 1.0})
        digests = (folder / name / "digests.json").read_text(encoding="utf-8")
        # As a kill between the two renames of a replacement leaves it.
        (folder / name).rename(folder / f".{name}.before-1")
        (folder / f".{name}.partial-1").mkdir()
        (folder / ".step-9.partial-2").mkdir()
    with training_state_folder("finetune@vqa", "f" * 64) as folder:
        assert {path.name for path in folder.iterdir()} == {"history.jsonl", "step-4", "best"}
        assert (folder / name / "digests.json").read_text(encoding="utf-8") == digests


def test_of_two_states_the_successor_stays_when_both_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with training_state_folder("finetune@vqa", "f" * 64) as folder:
        saved_run(folder, 4)
        (folder / ".step-4.before-1").mkdir()
    with training_state_folder("finetune@vqa", "f" * 64) as folder:
        assert {path.name for path in folder.iterdir()} == {"history.jsonl", "step-4"}
        assert (folder / "step-4/state.json").exists()


def test_a_state_of_another_form_is_refused_in_one_line(tmp_path: Path) -> None:
    """Until its rows had a file of their own, a state held the whole history."""
    store = saved_run(tmp_path, 1)
    path = tmp_path / "step-1"
    former = {**files.read_json(path / "state.json"), "plateau_share": 0.1}
    (path / "state.json").write_text(json.dumps(former), encoding="utf-8")
    files.write_digests(path)
    with pytest.raises(CheckpointError) as caught:
        store.read(path)
    assert str(caught.value) == (
        f"{path}: was written by another version of plumbline; remove {tmp_path}, and the training "
        "begins anew when run again"
    )


def test_a_checkpoint_with_missing_and_unexpected_keys_is_refused_by_name(tmp_path: Path) -> None:
    store = saved_run(tmp_path, 1)
    path = store.latest()
    assert path is not None
    _, optimizer = model_and_optimizer(0)
    with pytest.raises(
        CheckpointError, match=r"missing \['0\.bias', '0\.weight'\], unexpected \['bias', 'weight'"
    ):
        load_state(path, nn.Sequential(nn.Linear(3, 2)), optimizer)
