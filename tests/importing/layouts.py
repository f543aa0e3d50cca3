"""Small folders as people have them, made anew for each test."""

import base64
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.sources.test_hub_tables import HELD, with_classes
from tests.tiny import clip

COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220)}


def jpeg(number: int, colour: str = "red", side: int = 48) -> bytes:
    """A noisy picture of a colour; each number is another one."""
    draw = np.random.default_rng(number)
    noise = draw.integers(-30, 30, (side, side, 3))
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def colour_of(number: int) -> str:
    return ("red", "blue")[number % 2]


def put(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def lines(*records: dict[str, Any]) -> str:
    return "\n".join(map(json.dumps, records))


def class_folders(root: Path, rows: int = 40, above: str = "") -> None:
    """One folder a class; endings of all kinds and none, a stray file in the root."""
    for number in range(rows):
        ending = (".JPG", ".jpe", ".jfif", ".jpeg", "")[number % 5]
        colour = colour_of(number)
        put(root / above / colour / f"{number}{ending}", jpeg(number, colour))
    put(root / above / "stray.jpg", jpeg(rows))


def split_class_folders(root: Path) -> None:
    for number in range(60):
        split = ("train", "train", "train", "validation", "test")[number // 2 % 5]
        colour = colour_of(number)
        put(root / split / colour / f"{number}.png", jpeg(number, colour))


def images_and_csv(root: Path) -> None:
    for number in range(40):
        put(root / f"images/{number}.jpg", jpeg(number, colour_of(number)))
    table = "".join(f"{n}.jpg,a {colour_of(n)} picture\n" for n in range(40))
    put(root / "captions.csv", "file,caption\n" + table)


def clips_and_csv(root: Path) -> None:
    for number in range(30):
        put(root / f"clips/{number}.wav", clip(number))
    table = "".join(f"{number}.wav,{'abc'[number % 3]}\n" for number in range(30))
    put(root / "labels.csv", "path,label\n" + table)


def ids_without_endings(root: Path) -> None:
    """Bare ids, semicolons, Windows' own encoding, a column of a third."""
    for number in range(40):
        put(root / f"train/{number:03d}.jpg", jpeg(number, colour_of(number)))
    table = "".join(f"{n:03d};{colour_of(n)};\x93caf\xe9\x94\n" for n in range(40))
    put(root / "labels.csv", ("id;breed;note\n" + table).encode("latin-1"))


def hub_layout(root: Path) -> None:
    for at, split in enumerate(("train", "test")):
        numbers = range(40 * at, 40 * at + 40)
        images = [{"bytes": jpeg(n, colour_of(n)), "path": f"{n}.jpg"} for n in numbers]
        columns = {
            "image": pa.array(images, HELD),
            "captions": [[f"one {n}", f"two {n}"] for n in numbers],
            "label": [n % 2 for n in numbers],
        }
        (root / "data").mkdir(parents=True, exist_ok=True)
        table = with_classes(pa.table(columns), label=["red", "blue"])
        pq.write_table(table, root / f"data/{split}-00000-of-00001.parquet")


def parquet_of_paths(root: Path) -> None:
    for number in range(40):
        put(root / f"pictures/{number}.jpg", jpeg(number, colour_of(number)))
    names = [f"{number}.jpg" for number in range(40)]
    columns = {"picture": names, "price": [n + 0.5 for n in range(40)]}
    pq.write_table(pa.table(columns), root / "all.parquet")


def nested_parquet(root: Path) -> None:
    for name in ("a", "more/b"):
        texts = [f"text {name} {number}" for number in range(30)]
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        columns = {"id": [f"{name}-{number}" for number in range(30)], "t": texts}
        pq.write_table(pa.table(columns), root / f"{name}.parquet")


def webdataset(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for shard in range(2):
        with tarfile.open(root / f"{shard:05d}.tar", "w") as tar:
            for number in range(20 * shard, 20 * shard + 20):
                colour = colour_of(number)
                members = {
                    ".jpg": jpeg(number, colour),
                    ".txt": f"a {colour} picture".encode(),
                    ".json": json.dumps({"n": number}).encode(),
                }
                for ending, data in members.items():
                    info = tarfile.TarInfo(f"{number:05d}{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def messages(root: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    put(
        root / "messages.jsonl",
        lines(
            *(
                {
                    "messages": [
                        system,
                        {"role": "user", "content": f"What is {n} plus one?"},
                        {"role": "assistant", "content": str(n + 1)},
                    ]
                }
                for n in range(60)
            )
        ),
    )


def alpaca(root: Path) -> None:
    records = (
        {"instruction": "Add one.", "input": str(n), "output": str(n + 1)} for n in range(60)
    )
    put(root / "alpaca.jsonl", lines(*records))


def sharegpt(root: Path) -> None:
    """Conversations that name images which are not there."""
    talk = [{"from": "human", "value": "<image>\nWhat colour?"}, {"from": "gpt", "value": "red"}]
    records = ({"id": str(n), "image": f"{n}.jpg", "conversations": talk} for n in range(60))
    put(root / "sharegpt.jsonl", lines(*records))


def messages_with_images(root: Path) -> None:
    """Parts of messages that name files, two in every third; some rows show none."""
    records = []
    for n in range(60):
        put(root / f"pictures/{n}.jpg", jpeg(n, colour_of(n)))
        names = [n, n ^ 1] if n % 3 == 0 else [n] if n % 10 else []
        shown = [{"type": "image_url", "image_url": {"url": f"pictures/{m}.jpg"}} for m in names]
        asked = [*shown, {"type": "text", "text": "What colour?"}]
        said = [("system", "Be brief."), ("user", asked), ("assistant", colour_of(n))]
        turns = [{"role": role, "content": content} for role, content in said[n % 2 :]]
        records.append({"id": f"talk-{n}", "messages": turns})
    put(root / "train.jsonl", lines(*records))


def alpaca_with_images(root: Path) -> None:
    """A data: URL in each row."""
    records = []
    for n in range(60):
        url = "data:image/jpeg;base64," + base64.b64encode(jpeg(n, colour_of(n))).decode()
        row = {"instruction": "<image>\nWhat colour?", "input": "", "output": colour_of(n)}
        records.append({**row, "image": url})
    put(root / "alpaca.jsonl", lines(*records))


def sharegpt_with_images(root: Path) -> None:
    """Bare names of files in a folder beside, one JSON text of them all in a column of Parquet."""
    rows: dict[str, list[object]] = {"id": [], "conversations": [], "images": []}
    for n in range(60):
        put(root / f"images/{n}.jpg", jpeg(n, colour_of(n)))
        asked = {"from": "human", "value": "<image>\nWhat colour?"}
        rows["id"].append(f"{n}")
        rows["conversations"].append([asked, {"from": "gpt", "value": colour_of(n)}])
        rows["images"].append([f"{n}.jpg"])
    pq.write_table(pa.table(rows), root / "talks.parquet")


def latin1_csv(root: Path) -> None:
    rows = "".join(f"caf\xe9 {n},b\n" if n % 4 == 0 else f"tea {n},a\n" for n in range(600))
    put(root / "latin1.csv", ("text,label\n" + rows).encode("latin-1"))


def float_labels_csv(root: Path) -> None:
    rows = (f"text {n},{'' if n % 20 == 0 else float(n % 2)}\n" for n in range(100))
    put(root / "float_labels.csv", "text,label\n" + "".join(rows))


def stray_quotes_csv(root: Path) -> None:
    rows = (f"r{n},{chr(34) if n in (10, 900) else ''}text {n}\n" for n in range(1500))
    put(root / "stray_quotes.csv", "id,t\n" + "".join(rows))


def headerless_csv(root: Path) -> None:
    for number in range(40):
        put(root / f"img/{number}.png", jpeg(number, colour_of(number)))
    put(root / "list.csv", "".join(f"img/{n}.png,{colour_of(n)}\n" for n in range(40)))


def split_tables(root: Path) -> None:
    for split, rows in (("train", 80), ("dev", 20), ("test", 20)):
        table = (
            f"{split} number {n} is {'good' if n % 2 else 'bad'}\t{n % 2}\n" for n in range(rows)
        )
        put(root / f"{split}.tsv", "sentence\tlabel\n" + "".join(table))


def translations(root: Path) -> None:
    draw = random.Random(0)
    words = {"dog": "Hund", "cat": "Katze", "runs": "rennt", "sleeps": "schl\xe4ft", "a": "ein"}
    rows = []
    for _ in range(80):
        chosen = draw.choices(list(words), k=draw.randint(2, 6))
        rows.append(f"{' '.join(words[word] for word in chosen)}\t{' '.join(chosen)}\n")
    put(root / "pairs.tsv", "de\ten\n" + "".join(rows))


def base64_lines(root: Path) -> None:
    records = (
        {"img": base64.encodebytes(jpeg(n, colour_of(n))).decode(), "class": colour_of(n)}
        for n in range(40)
    )
    put(root / "all.jsonl", lines(*records))


def questions(root: Path) -> None:
    records = []
    for number in range(40):
        put(root / f"shots/{number}.jpg", jpeg(number, colour_of(number)))
        record = {"image": f"shots/{number}.jpg", "question": "which colour?"}
        records.append({**record, "answer": colour_of(number)})
    put(root / "vqa.jsonl", lines(*records))


def telling_questions(root: Path, ending: str = "jsonl") -> None:
    """Three questions on each picture, of which one is answered by more than yes and no."""
    records = []
    for number in range(40):
        put(root / f"shots/{number}.jpg", jpeg(number, colour_of(number)))
        shot = {"image": f"shots/{number}.jpg"}
        records.append({**shot, "question": "which number?", "answer": f"${{no. {number % 20}}}"})
        for colour in COLOURS:
            answer = "yes" if colour == colour_of(number) else "no"
            records.append({**shot, "question": f"is it {colour}?", "answer": answer})
    if ending == "jsonl":
        put(root / "vqa.jsonl", lines(*records))
        return
    rows = "".join(f"{','.join(record.values())}\n" for record in records)
    put(root / "vqa.csv", "image,question,answer\n" + rows)


def spoken(root: Path) -> None:
    for number in range(30):
        put(root / f"{number}.wav", clip(number))
    table = "".join(f"{n}.wav|the word number {n}\n" for n in range(30))
    put(root / "metadata.psv", "audio|transcription\n" + table)


def plays(root: Path) -> None:
    draw = random.Random(0)
    words = [
        "to",
        "be",
        "or",
        "not",
        "that",
        "is",
        "the",
        "question",
        "whether",
        "it",
        "is",
        "nobler",
        "in",
        "the",
        "mind",
    ]
    text = "\n\n".join(" ".join(draw.choices(words, k=20)) for _ in range(100))
    put(root / "plays.txt", text)
