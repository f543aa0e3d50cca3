"""A project with the outputs of every stage, small and written by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from plumbline.files import dump_json, write_digests
from plumbline.report.selection import Selection
from plumbline.shapes.distributed import DISTRIBUTIONS

Row = dict[str, Any]

RECALLS = {
    f"{direction}_recall_at_{k}{width}{bound}": value
    for direction in ("image_to_text", "text_to_image")
    for k in (1, 5)
    for width in ("", "_width_8")
    for bound, value in (("", 0.875), ("_low", 0.75), ("_high", 1.0))
}
PARITY = {
    "samples": 4,
    "tokens": 12,
    "max_pixel_difference": 0.0,
    "max_logits_difference": 2.5e-6,
    "token_agreement": 1.0,
    "exact_match_difference": 0.0,
}


CLEAN: dict[str, Any] = {"views": {}, "labels": {}, "values": {}, "proposals": []}
"""Distributions of a dataset of which nobody asks."""
CACHED: dict[str, Any] = {"tokens": {}, "constant": {}, "proposals": []}


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


class Project:
    """A folder with outputs, and the selection that they belong to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        groups = ("objects", "weights", "datasets", "align", "tasks")
        self.selection: dict[str, Any] = {group: {} for group in groups}

    def write(self, folder: str, files: dict[str, str | bytes]) -> None:
        place = self.root / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            (place / name).write_bytes(data)
        write_digests(place)

    def add_dataset(
        self,
        name: str,
        *,
        sample_id: str = "row-1",
        warning: str = "small",
        text: str = "a text",
        parts: tuple[str, ...] = ("",),
        images: bool = True,
        shapes: dict[str, Any] | None = None,
        clean: dict[str, Any] | None = None,
        cached: dict[str, Any] | None = None,
    ) -> None:
        """A dataset whose every split has the same four samples: s0 to s3 of images 0 to 3."""
        self.selection["datasets"][name] = {"path": "data/.gitkeep"}
        account = {
            "rows_in": 12,
            "rows_clean": {"train": 7, "test": 3},
            "rows_quarantined": 2,
            "reasons": {"empty_text": 2},
            "views": {"qa": {"train": 7, "test": 3}},
            "blanked": {},
            "cleaned": {"caption": {"nfc": 1, "bom": 0}},
            "warnings": [warning],
        }
        row = {"file": "rows.parquet", "sample_id": sample_id, "reason": "empty_text"}
        rows = [
            {**row, "row": at, "detail": "answer: only blanks", "sha256": "0" * 64}
            for at in range(2)
        ]
        folder = f"work/quarantine/{name}"
        (self.root / folder).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), self.root / folder / "rows.parquet")
        self.write(folder, {"report.json": dump_json(account)})
        described = {
            "rows": {"train": 7, "test": 3},
            "image": {"sizes": [{"height": 6, "width": 8, "images": 4}]},
            "texts": {"answer": {"rows": 10, "longest_chars": 5, "mean_chars": 3.5}},
            "answers": {"distinct": 2, "most_frequent": {"no": 3, "yes": 4}},
        }
        self.write(
            f"work/shapes/{name}", {"shapes.json": dump_json(shapes if shapes else described)}
        )
        self.write(f"work/distributions/clean/{name}", {DISTRIBUTIONS: dump_json(clean or CLEAN)})
        self.write(f"work/distributions/cache/{name}", {DISTRIBUTIONS: dump_json(cached or CACHED)})
        cache = {
            **({"image_shape": [6, 8, 3], "image_layout": "planes", "images": 4} if images else {}),
            "rows": {"train": 7, "test": 3},
            "texts": 9,
            "vocab_size": 20,
            "longest_text_tokens": 5,
            "parts": list(parts),
        }
        pixels = np.arange(4 * 6 * 8 * 3, dtype=np.uint16).astype(np.uint8)
        rows = {
            "sample_id": [f"s{at}" for at in range(4)],
            "image": [at if images else None for at in range(4)],
            "audio": [None if images else at for at in range(4)],
            "text": [None, 0, None, 0],
            "part": [at % len(parts) for at in range(4)],
        }
        types = [pa.string(), pa.int32(), pa.int32(), pa.int32(), pa.int32()]
        schema = pa.schema(list(zip(rows, types, strict=True)))
        split = _ipc(pa.Table.from_pydict(rows, schema))
        files = {
            "cache.json": dump_json(cache),
            "images.bin": pixels.tobytes(),
            "texts.arrow": _ipc(pa.table({"text": [text]})),
            "val.arrow": split,
            "test.arrow": split,
        }
        self.write(f"work/cache/{name}", files)

    def _write_model(self, folder: str, *, validated: bool) -> None:
        metrics = {
            "epochs": 2,
            "optimizer_steps": 3,
            "samples": 24,
            "skipped_steps": 0,
            "final_train_loss": 0.5,
            "parameters": {
                "decoder": {"all": 30, "trained": 30},
                "image_encoder": {"all": 70, "trained": 0},
            },
        }
        settings = {"train": {"model": {"embed_dim": 16, "pretrained": "/srv/models/small"}}}
        files = {
            "config.json": dump_json(settings),
            "train.csv": "global_step,epoch,loss,lr\n1,0,2.0,0.1\n2,0,nan,0.2\n3,1,0.5,0.0\n",
            "model.safetensors": b"0" * 400,
        }
        if validated:
            metrics["best"] = {"epoch": 2, "step": 3, "value": 0.75}
            files["val.csv"] = "global_step,epoch,loss\n3,1,0.75\n"
        self.write(folder, {**files, "metrics.json": dump_json(metrics)})

    def add_alignment(
        self, name: str, data: str, *, text: str = "a cat", modality: str = "image"
    ) -> None:
        self.selection["align"][name] = {"data": data}
        self._write_model(f"models/align/{name}", validated=True)
        metrics = {key.replace("image", modality): value for key, value in RECALLS.items()}
        metrics |= {f"{modality}s": 3.0, "texts": 5.0, "zero_shot_accuracy": 0.625}
        found = [
            {"text": text, "score": 0.9, "right": True},
            {"text": "a dog", "score": 0.2, "right": False},
        ]
        files = {
            "examples.json": dump_json([{"medium": 1, "found": found}]),
            "config.json": dump_json({"evaluate": {"split": "test"}}),
            "details.json": dump_json({"figures": metrics}),
        }
        self.write(f"work/evaluation/align/{name}", files)

    def add_task(
        self,
        name: str,
        data: str,
        *,
        start: str = "models/align/image",
        kinds: tuple[str, ...] = ("question", "caption"),
        validated: bool = True,
        text: str = "what is it?",
    ) -> None:
        """A vision-language task."""
        metrics: dict[str, float] = {}
        rows: list[Row] = []
        tables: dict[str, list[Row]] = {}
        if "question" in kinds:
            metrics |= {"exact_match": 0.5, "question_only_exact_match": 0.25, "questions": 2.0}
            metrics |= {"answer_perplexity": 1.5}
            row = {"kind": "question", "prompt": text, "references": ["cat"]}
            rows.append({**row, "image": 0, "prediction": "cat", "correct": True})
            rows.append({**row, "image": 3, "prediction": text, "correct": False})
            tables["by_prompt"] = [{"question": "what is", "count": 2, "exact_match": 0.5}]
        if "caption" in kinds:
            metrics |= {"caption_bleu": 40.0, "caption_rouge_l": 0.6, "captions": 1.0}
            row = {"kind": "caption", "prompt": "describe the image", "references": [text, "b"]}
            rows.append({**row, "image": 2, "prediction": text, "correct": True})
        details = {"bleu_signature": "tok:13a" if "caption" in kinds else None}
        self.add_evaluated(
            name,
            data,
            "vlm",
            metrics,
            rows,
            tables,
            details,
            start=start,
            validated=validated,
        )

    def add_evaluated(
        self,
        name: str,
        data: str,
        kind: str,
        metrics: dict[str, float],
        rows: list[Row],
        tables: dict[str, list[Row]] | None = None,
        details: dict[str, Any] | None = None,
        *,
        start: str = "data/.gitkeep",
        validated: bool = True,
    ) -> None:
        """A task of any kind with what its evaluation writes."""
        self.selection["tasks"][name] = {"data": data, "start": start}
        self._write_model(f"models/tasks/{name}", validated=validated)
        folder = f"work/evaluation/tasks/{name}"
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), self.root / folder / "predictions.parquet")
        for table, cells in (tables or {}).items():
            pyarrow.csv.write_csv(pa.Table.from_pylist(cells), self.root / folder / f"{table}.csv")
        settings = {"evaluate": {"split": "val"}, "kind": kind}
        files = {
            "config.json": dump_json(settings),
            "details.json": dump_json({**(details or {}), "figures": metrics}),
        }
        self.write(folder, files)

    def add_export(self, task: str, parity: dict[str, Any] = PARITY) -> None:
        formats = {
            "onnx": {"status": "ok", "parity": parity},
            "torchscript": {"status": "failed", "error": "RuntimeError: no such operator"},
        }
        files = {
            "config.json": dump_json({"export": {"enabled": True}}),
            "metadata.json": dump_json({"formats": formats}),
            "vision.onnx": b"0" * 5000,
        }
        self.write(f"exports/{task}", files)

    def chosen(self) -> Selection:
        return Selection.from_params(**self.selection)


@pytest.fixture
def empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project without outputs; the working folder is in it."""
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


@pytest.fixture
def project(empty_project: Project) -> Project:
    """A dataset, an alignment and a task that starts from it, exported."""
    empty_project.add_dataset("scenes")
    empty_project.add_alignment("image", "scenes")
    empty_project.add_task("vqa", "scenes")
    empty_project.add_export("vqa")
    return empty_project
