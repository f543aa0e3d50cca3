"""`plumbline try` serves a bundle as long as its server runs; of the page itself: test_page."""

import webbrowser
from pathlib import Path

import pytest

from plumbline.cli.main import call
from plumbline.errors import ConfigError

SERVER = """import sys
print("listening on http://127.0.0.1:4711", file=sys.stderr)
print(" ".join(sys.argv[1:]), file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture
def exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exports/mine").mkdir(parents=True)
    (tmp_path / "exports/mine/server.py").write_text(SERVER, encoding="utf-8")
    return tmp_path / "exports"


def test_its_page_is_opened_and_its_end_is_ours(
    exports: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    with pytest.raises(SystemExit) as ended:
        call(["try", "mine", "--port", "5"])
    assert ended.value.code == 3
    assert opened == ["http://127.0.0.1:4711"]
    assert capsys.readouterr().err.endswith("--host 127.0.0.1 --port 5\n")
    with pytest.raises(SystemExit):
        call(["try", "exports/mine", "--no-browser"])
    assert len(opened) == 1


def test_what_is_no_bundle_with_a_server_is_refused(exports: Path) -> None:
    with pytest.raises(ConfigError, match=r"min: no bundle; did you mean mine\? \(there is mine\)"):
        call(["try", "min"])
    (exports / "weights").mkdir()
    with pytest.raises(ConfigError, match=r"weights: weights alone; set export\.formats"):
        call(["try", "weights"])


def test_an_alignment_is_named_with_its_group_where_a_task_has_the_name_too(
    exports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mine", "other"):
        (exports / f"align/{name}").mkdir(parents=True)
        script = SERVER.replace("4711", f"4711/{name}")
        (exports / f"align/{name}/server.py").write_text(script, encoding="utf-8")
    for asked, said in (("mine", ""), ("align.mine", "/mine"), ("other", "/other")):
        with pytest.raises(SystemExit):
            call(["try", asked, "--no-browser"])
        assert f"listening on http://127.0.0.1:4711{said}\n" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"othr: .*there is align\.mine, align\.other, mine\)"):
        call(["try", "othr"])
    (exports / "align/none").mkdir()
    with pytest.raises(ConfigError, match=r"none: no bundle; set align\.none\.export\.enabled"):
        call(["try", "none"])
