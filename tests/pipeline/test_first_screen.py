"""The first screen of the README, as it stands there: from `pip install` to a model of a folder."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.pipeline.checkout import ENVIRONMENT, ROOT, make_checkout

README = (ROOT / "README.md").read_text(encoding="utf-8")
SCREEN = README.partition("## Two commands")[0]


def commands() -> list[str]:
    (block,) = re.findall(r"^```\n(pip .*?)^```$", SCREEN, re.MULTILINE | re.DOTALL)
    return [re.sub(r"\s+#.*", "", line) for line in block.splitlines()]


def short_run() -> str:
    """The run with one epoch that the text below names."""
    (found,) = re.findall(r"`(plumbline run photos -S [^`]+)`", SCREEN)
    return found


def draw_photos(folder: Path) -> None:
    """Forty pictures in two folders: a dot or a bar, in any colour and place."""
    rng = random.Random(0)
    for number in range(40):
        label = ("dot", "bar")[number % 2]
        picture = Image.effect_noise((48, 40), 40).convert("RGB")
        x, y = rng.randrange(4, 20), rng.randrange(4, 16)
        colour = tuple(rng.randrange(256) for _ in range(3))
        draw = ImageDraw.Draw(picture)
        if label == "dot":
            draw.ellipse((x, y, x + 14, y + 14), fill=colour)
        else:
            draw.rectangle((x, y, x + 24, y + 5), fill=colour)
        file = folder / label / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)


def test_the_first_screen_has_at_most_four_commands() -> None:
    assert 3 <= len(commands()) <= 4
    assert not [line for line in commands() if re.search(r"&&|;|\|", line)]
    assert short_run().startswith(commands()[-1])
    assert len(SCREEN.splitlines()) < 60


@pytest.mark.slow
def test_the_first_screen_leads_from_a_folder_to_a_bundle(tmp_path: Path) -> None:
    """As it stands, but for where the repository lies; packages are those of this environment."""
    home, project, venv = tmp_path / "home", tmp_path / "project", tmp_path / "venv"
    project.mkdir()
    draw_photos(home / "photos")
    checkout = make_checkout(tmp_path / "repository")
    checkout.replace("conf/config.yaml", "experiment: smoke", "experiment: null")
    checkout.commit("Have the default back")
    repository = checkout.folder
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    site = next(venv.glob("lib/python3*/site-packages"))
    (site / "shared.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")))
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"} | {
        "HOME": str(home),
        "PATH": f"{venv / 'bin'}:{ENVIRONMENT['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say true
        "PIP_NO_DEPS": "1",
        "PIP_NO_CACHE_DIR": "1",
    }

    def do(command: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", command.replace("git+URL", f"git+file://{repository}")],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    install, begin, look, _ = commands()
    do(install)
    place = do("python -c 'import plumbline; print(plumbline.__file__)'")
    assert str(venv) in place, "not what was just installed"
    do(begin)
    assert "dot" in do(look)
    said = do(short_run())
    assert "plumbline try photos" in said
    assert (project / "exports/photos/inference.py").is_file()
    assert list((project / "exports/photos").glob("*.onnx"))
    assert (project / "report/index.html").is_file()
    figures = json.loads((project / "metrics/tasks/photos.json").read_text(encoding="utf-8"))
    assert "accuracy" in figures
    picture = next((home / "photos/dot").iterdir())
    answer = do(f"python exports/photos/inference.py --image {picture}")
    assert re.search(r"dot|bar", answer)
