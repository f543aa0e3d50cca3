"""`plumbline verify` on the real DAG: equal twice, and a planted difference is found."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.checkout import Checkout, make_checkout


def verify(checkout: Checkout, *arguments: str) -> dict[str, Any]:
    """Run the command with the checkout's own code, and read the certificate."""
    source = f"PYTHONPATH={checkout.folder / 'src'}"
    command = ("env", source, "python", "-m", "plumbline", "verify", *arguments)
    done = checkout.run(*command, check=False)
    files = sorted((checkout.folder / ".plumbline" / "certificates").glob("*.json"))
    assert files, done.stderr
    certificate: dict[str, Any] = json.loads(files[-1].read_text(encoding="utf-8"))
    assert done.returncode == (0 if certificate["passed"] else 1)
    for file in files[-1].parent.iterdir():
        file.unlink()
    return certificate


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Nothing of it has run: the certificate needs its commit alone."""
    return make_checkout(Path(tmp_path_factory.mktemp("certificate")) / "smoke")


def plant(checkout: Checkout, file: str, old: str, new: str) -> None:
    checkout.replace(file, old, new)
    checkout.commit("Plant")


def test_a_clock_in_the_token_cache_is_located(checkout: Checkout) -> None:
    fact = '"texts": len(self._indexes["texts"]),'
    clock = '"built": __import__("time").time_ns(),'
    plant(checkout, "src/plumbline/tokenization/cache.py", fact, f"{fact} {clock}")
    certificate = verify(checkout, "--runs", "2", "--targets", "tokenize_text")
    checkout.run("git", "revert", "--no-edit", "HEAD")
    *before, tokens = certificate["stages"]
    assert certificate["first_difference"] == tokens["name"] == "tokenize_text@scenes"
    assert (tokens["output"], tokens["file"]) == ("work/cache/scenes", "cache.json")
    assert tokens["changed_inputs"] == []
    assert len(before) == 5
    assert {stage["status"] for stage in before} == {"equal"}


@pytest.mark.slow
def test_a_random_number_in_the_evaluation_is_located(checkout: Checkout) -> None:
    written = '{"bleu_signature": signature, **looked}'
    noise = f'{written} | {{"noise": __import__("random").random()}}'
    plant(checkout, "src/plumbline/kinds/vlm/evaluate.py", written, noise)
    certificate = verify(checkout, "--preset", "smoke")
    checkout.run("git", "revert", "--no-edit", "HEAD")
    results = {stage["name"]: stage for stage in certificate["stages"]}
    culprit = results["evaluate_model@vqa"]
    assert certificate["first_difference"] == "evaluate_model@vqa"
    assert (culprit["output"], culprit["file"]) == ("work/evaluation/tasks/vqa", "details.json")
    unequal = {name for name, stage in results.items() if stage["status"] != "equal"}
    assert unequal <= {"evaluate_model@vqa", "report"}
    if "report" in unequal:
        assert results["report"]["consequence_of"] == "evaluate_model@vqa"


@pytest.mark.slow
def test_the_record_of_a_checkout_is_had_again(reproduced: Checkout) -> None:
    certificate = verify(reproduced)
    assert certificate["passed"], certificate
    assert certificate["compared_with"] == "the committed dvc.lock"
    assert {stage["status"] for stage in certificate["stages"]} == {"equal"}
    assert len(certificate["stages"]) == 13
