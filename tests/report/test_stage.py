import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from plumbline.files import verify_digests
from plumbline.stages import report

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_TRACKING", "off")
    monkeypatch.delenv("DVC_ROOT", raising=False)


def test_the_stage_writes_one_page_and_the_same_again(project) -> None:
    params = {"seed": 0, "report": {}, **project.selection}
    (project.root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    report.main([])
    folder = project.root / "report"
    names = ["cards", "config.json", "digests.json", "index.html"]
    assert sorted(path.name for path in folder.iterdir()) == names
    first = verify_digests(folder)
    report.main([])
    assert verify_digests(folder) == first


def test_the_stage_needs_neither_torch_nor_pyplot(project) -> None:
    (project.root / "params.yaml").write_text(
        yaml.safe_dump({"report": {}, **project.selection}), encoding="utf-8"
    )
    code = (
        "import json, sys; from plumbline.stages import report;"
        "early = 'matplotlib' in sys.modules;"
        "report.main([]); print(json.dumps([early, 'torch' in sys.modules,"
        "'matplotlib.pyplot' in sys.modules, 'matplotlib' in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT), "PLUMBLINE_TRACKING": "off", "HOME": str(Path.home())},
    )
    assert json.loads(done.stdout) == [False, False, False, True]
