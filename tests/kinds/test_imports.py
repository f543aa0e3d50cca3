"""A training imports what its kind needs: transformers takes twice as long as torch itself."""

import subprocess
import sys

import pytest

IMPORT = """
import sys
import plumbline.stages.finetune, plumbline.stages.pretrain_alignment, plumbline.training.run
from plumbline.kind import known_kinds

kind = known_kinds()[sys.argv[1]]
for role in ("settings", "model", "train"):
    kind.role(role)
print(*(name for name in ("transformers", "accelerate")
        if name in sys.modules))
"""


@pytest.mark.parametrize("kind", ["classification", "regression", "alignment"])
def test_kinds_without_a_decoder_import_no_language_models(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, kind], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
