"""One smoke run of the whole DAG, shared by the tests of this folder."""

from pathlib import Path

import pytest

from tests.pipeline.checkout import Checkout, make_checkout


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout after its first `dvc repro`, committed."""
    checkout = make_checkout(Path(tmp_path_factory.mktemp("pipeline")) / "smoke")
    checkout.run("dvc", "repro")
    checkout.commit("Reproduce")
    return checkout
