"""Pack what the claims need on a machine without a network: `python -m bench.gpu.pack FOLDER`.

For Python 3.12 on Linux x86-64 with torch, transformers, peft and their like in place. Of
bitsandbytes only the libraries for a CPU and for CUDA 13 are kept. Name the folder in `BENCH_SITE`.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LACKING = [
    "annotated-types",
    "antlr4-python3-runtime==4.9.3",
    "bitsandbytes",
    "defusedxml",
    "ftfy",
    "hydra-core",
    "omegaconf",
    "open_clip_torch",
    "pydantic",
    "pydantic-core",
    "typing-extensions",
    "typing-inspection",
    "wcwidth",
]
KEPT = ("libbitsandbytes_cpu.so", "libbitsandbytes_cuda130.so")


def main(folder: Path) -> None:
    """Download wheels in the versions that are installed here, and unpack them into a folder."""
    from importlib.metadata import PackageNotFoundError, version

    names = []
    for name in LACKING:
        try:
            names.append(name if "==" in name else f"{name}=={version(name)}")
        except PackageNotFoundError:
            names.append(name)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as wheels:
        pip = [sys.executable, "-m", "pip"]
        # One that is published as source alone, and has no code for any one machine.
        sources = [name for name in names if name.startswith("antlr4")]
        built = ["wheel", "--no-deps", "-q", "-w", wheels, *sources]
        subprocess.run([*pip, *built], check=True)
        platforms = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 28, 34)]
        options = [word for each in platforms for word in ("--platform", each)]
        others = [name for name in names if name not in sources]
        fetch = [
            "download",
            "--no-deps",
            "-q",
            "--only-binary",
            ":all:",
            "--python-version",
            "3.12",
        ]
        subprocess.run([*pip, *fetch, *options, "-d", wheels, *others], check=True)
        for wheel in Path(wheels).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
    for library in folder.glob("bitsandbytes/lib*.so"):
        if library.name not in KEPT:
            library.unlink()
    for caches in folder.rglob("__pycache__"):
        shutil.rmtree(caches)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
