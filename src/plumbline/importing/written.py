"""The files of an imported dataset in `conf/`, as a person would write them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from plumbline.data.columns import TEXTS
from plumbline.errors import ConfigError
from plumbline.files import atomic_write
from plumbline.importing.plans import view_of
from plumbline.importing.subjects import Proposal, Subject
from plumbline.importing.tables import Settings
from plumbline.objects.settings import ObjectsConfig
from plumbline.weights.settings import NOWHERE

WIDTH = 96
FEWEST_TOKENS = 512
"""Of a tokenizer that nothing is written with."""


def written_files(
    subject: Subject, proposal: Proposal, path: str, stored: ObjectsConfig | None = None
) -> dict[str, str]:
    """File in the project -> its text.

    Args:
        subject: what was imported.
        proposal: the model and the training.
        path: the dataset's path, as the project names it.
        stored: the object store whose listing lies there; None: it is no listing.
    """
    name, draft = subject.name, subject.draft
    dataset = _dataset(subject, proposal, path)
    reasons = [f"{role.role}: {role.field} ({role.reason})" for role in draft.roles]
    files = {
        f"conf/datasets/{name}.yaml": _file(
            [
                f"{draft.layout}, imported; what was taken for what:",
                *reasons,
                *draft.notes,
                *proposal.notes,
            ],
            {"defaults": [{f"/validate@{name}.validate": "rows"}, "_self_"], name: dataset},
        )
    }
    if proposal.align is not None:
        files[f"conf/align/{name}.yaml"] = _training(name, "align", proposal, draft.plan.words)
    if proposal.task is not None:
        files[f"conf/tasks/{name}.yaml"] = _training(name, "tasks", proposal, draft.plan.words)
    aligned = [name] if proposal.align is not None else []
    tasks = [name] if proposal.task is not None else []
    files[f"conf/experiment/{name}.yaml"] = _file(
        [f"{draft.plan.words[0].upper()}{draft.plan.words[1:]}: {draft.layout}."],
        {
            "defaults": [
                {"override /datasets": [name]},
                {"override /align": aligned},
                {"override /tasks": tasks},
            ],
            **({"objects": {name: stored.model_dump()}} if stored else {}),
        },
    )
    return {file: _header(file) + text for file, text in files.items()}


def _header(file: str) -> str:
    """What Hydra reads of the first lines, which comes before all else, and what editors do."""
    group = Path(file).parent.name
    package = "# @package _global_\n" if group == "experiment" else ""
    return f"{package}# yaml-language-server: $schema=../../schema/{group}.json\n"


def _dataset(subject: Subject, proposal: Proposal, path: str) -> Settings:
    draft, sizes, share = subject.draft, subject.sizes, subject.sizes.trial.share
    made = {"caption"} if "captions" in proposal.source else set()
    stretched = bool(draft.made & {"image", "images"}) and not sizes.one_size
    vocabulary = sizes.vocabulary if draft.made & {*TEXTS, "turns"} else FEWEST_TOKENS
    return {
        "path": path,
        "weights": NOWHERE,
        "prepare": {**draft.prepare, **proposal.source},
        "validate": {
            "views": view_of(draft.plan, draft.made | made),
            **subject.rules,
            "split": {"val": share, "test": share},
        },
        "detect_shapes": {
            "min_train_rows": 2,
            "max_listed_answers": 100,
            "classes": {},
            "features": None,
        },
        "tokenize": {
            "tokenizer": {
                "kind": "bpe",
                "vocab_size": vocabulary,
                "min_frequency": 2,
                "pretrained": None,
            },
            "image_size": [sizes.side, sizes.side] if stretched else None,
            "image_resize": None,
            "image_mode": "rgb",
            "sample_rate": 16000,
            "max_tokens": None,
            "chat_template": None,
        },
    }


def _training(name: str, group: str, proposal: Proposal, words: str) -> str:
    optim = proposal.optim if group == "tasks" else "adamw"
    groups = {"loader": "default", "trainer": "default", "trainer.optim": optim}
    defaults: list[object] = [
        {f"/{section.rpartition('.')[2]}@{name}.train.{section}": file}
        for section, file in groups.items()
    ]
    entry: Settings = {"data": name, "weights": NOWHERE}
    if group == "tasks":
        defaults += [{f"/{one}@{name}.{one}": file} for one, file in proposal.groups.items()]
        start = f"models/align/{name}" if proposal.align is not None else f"work/cache/{name}"
        assert proposal.task is not None
        entry = {"kind": proposal.task["kind"], "data": name, "start": start, "weights": NOWHERE}
        entry |= {key: value for key, value in proposal.task.items() if key != "kind"}
    else:
        assert proposal.align is not None
        defaults.append({f"/export@{name}.export": "alignment"})
        entry |= proposal.align
    said = f"{words[0].upper()}{words[1:]}; the sizes are a proposal for the data and the machine."
    return _file([said], {"defaults": [*defaults, "_self_"], name: entry})


def _file(comments: Sequence[str], content: Settings) -> str:
    lines = [f"# {line}" for comment in comments for line in _wrapped(comment)]
    body: list[str] = []
    for key, value in content.items():
        body += ["", *_emit(key, value, 0)] if body else list(_emit(key, value, 0))
    return "\n".join([*lines, *body]) + "\n"


def _wrapped(text: str) -> Iterator[str]:
    line = ""
    for word in " ".join(text.split()).split(" "):
        if line and len(line) + len(word) > WIDTH - 3:
            yield line
            line = " "
        line += f" {word}" if line else word
    yield line


def _emit(key: str, value: object, depth: int) -> Iterator[str]:
    """Lines of an entry: on one where it is short and holds no mapping of mappings."""
    pad = "  " * depth
    name = _flow(key)
    if isinstance(value, Mapping) and value and depth < 1:
        yield f"{pad}{name}:"
        for inner, one in value.items():
            yield from _emit(str(inner), one, depth + 1)
        return
    flow = _flow(value)
    fits = len(pad) + len(name) + len(flow) + 2 <= WIDTH and (depth or not isinstance(value, list))
    if fits and (not isinstance(value, Mapping) or _is_flat(value)):
        yield f"{pad}{name}: {flow}"
        return
    if isinstance(value, Mapping):
        yield f"{pad}{name}:"
        for inner, one in value.items():
            yield from _emit(str(inner), one, depth + 1)
    elif isinstance(value, list) and value:
        yield f"{pad}{name}:"
        yield from (f"{pad}  - {_entry(one)}" for one in value)
    else:
        yield f"{pad}{name}: {flow}"


def _entry(value: object) -> str:
    """An entry of a list; a mapping of one key, as those of defaults, stands without braces."""
    if isinstance(value, Mapping) and len(value) == 1:
        ((key, one),) = value.items()
        return f"{_flow(key)}: {_flow(one)}"
    return _flow(value)


def _is_flat(value: Mapping[str, object]) -> bool:
    return not any(isinstance(one, Mapping) and one for one in value.values())


def _flow(value: object) -> str:
    """YAML on one line; what Hydra would take for a reference is written out."""
    text = yaml.safe_dump(
        _escaped(value), default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("...").rstrip("\n")


def _escaped(value: object) -> object:
    if isinstance(value, str):
        return value.replace("${", "\\${")
    if isinstance(value, Mapping):
        return {key: _escaped(one) for key, one in value.items()}
    return [_escaped(one) for one in value] if isinstance(value, list | tuple) else value


def write(project: Path, files: Mapping[str, str], *, force: bool) -> bool:
    """Write all files, or none; false where all are there as they are.

    Raises:
        ConfigError: one of them is there with another content, and `force` is not set.
    """
    places = {name: project / name for name in files}
    now = {
        name: place.read_text(encoding="utf-8", errors="replace")
        for name, place in places.items()
        if place.exists()
    }
    if now == dict(files):
        return False
    if (other := [name for name in now if now[name] != files[name]]) and not force:
        raise ConfigError(
            f"{', '.join(other)}: there already, with other content; choose another --name, or "
            "overwrite with --force"
        )
    for name, text in files.items():
        places[name].parent.mkdir(parents=True, exist_ok=True)
        atomic_write(places[name], text)
    return True
