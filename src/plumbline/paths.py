"""Where stages put things; dvc.yaml says the same, and a test compares them."""

from pathlib import Path

CODE = Path("work/code")
"""What code each stage runs: `digest_code`."""
SETTINGS = Path("work/settings")
"""What each stage reads of params.yaml: `check_params`."""
ACCOUNT = "account.json"
REPORT = Path("report")
REPORT_READS = tuple(
    Path(name)
    for name in (
        "exports",
        "models",
        "work/cache",
        "work/distributions",
        "work/evaluation",
        "work/quarantine",
        "work/shapes",
    )
)
"""Parents of the outputs that the report depends on."""


def code(stage: str, kind: str = "") -> Path:
    """The code that a stage runs, for one kind of task where that makes a difference."""
    return CODE / stage / f"{kind}.json" if kind else CODE / f"{stage}.json"


def settings(stage: str, key: str = "") -> Path:
    """What a stage reads of params.yaml."""
    return SETTINGS / stage / f"{key}.json" if key else SETTINGS / f"{stage}.json"


def objects(name: str) -> Path:
    """What lies below a URL in an object store, by object: `list_objects`; a dataset's path."""
    return Path("work/objects", f"{name}.jsonl")


def weights(name: str) -> Path:
    """Files of the checkpoints of a set, by name of the checkpoint: `resolve_weights`."""
    return Path("work/weights", name)


def tokenizers(name: str) -> Path:
    """Those of their files that a tokenizer is read from: `resolve_weights`."""
    return Path("work/tokenizers", name)


def raw(dataset: str) -> Path:
    """Rows of a source in canonical columns: `prepare`."""
    return Path("work/raw", dataset)


def account(dataset: str) -> Path:
    """What `prepare` passed over, beside its rows; `validate` takes it into its report."""
    return raw(dataset) / ACCOUNT


def clean(dataset: str) -> Path:
    """Valid rows by split: `validate`."""
    return Path("work/clean", dataset)


def quarantine(dataset: str) -> Path:
    """Rejected rows with their reasons, and the account: `validate`."""
    return Path("work/quarantine", dataset)


def data_metrics(dataset: str) -> Path:
    """Rows that stand in several splits: `validate`."""
    return Path("metrics/data", f"{dataset}.json")


def shapes(dataset: str) -> Path:
    """Folder of shapes.json: `detect_shapes`."""
    return Path("work/shapes", dataset)


def distributions(dataset: str) -> Path:
    """How the clean rows are distributed: `detect_shapes`."""
    return Path("work/distributions/clean", dataset)


def cache_distributions(dataset: str) -> Path:
    """How what the cache holds is distributed: `tokenize_text`."""
    return Path("work/distributions/cache", dataset)


def cache(dataset: str) -> Path:
    """Tokenizer, ids and pixels: `tokenize_text`."""
    return Path("work/cache", dataset)


def aligned(name: str) -> Path:
    """Aligned encoders: `pretrain_alignment`."""
    return Path("models/align", name)


def finetuned(task: str) -> Path:
    """A task's model: `finetune`."""
    return Path("models/tasks", task)


def alignment_metrics(name: str) -> Path:
    """Figures of `evaluate_alignment`."""
    return Path("metrics/align", f"{name}.json")


def alignment_evaluation(name: str) -> Path:
    """Embeddings and examples of `evaluate_alignment`."""
    return Path("work/evaluation/align", name)


def alignment_curves(name: str) -> Path:
    """Curves of an alignment's training, as DVC plots them: `evaluate_alignment`."""
    return Path("work/curves/align", name)


def task_curves(task: str) -> Path:
    """Curves of a task's training, as DVC plots them: `evaluate_model`."""
    return Path("work/curves/tasks", task)


def task_metrics(task: str) -> Path:
    """Figures of `evaluate_model`."""
    return Path("metrics/tasks", f"{task}.json")


def task_evaluation(task: str) -> Path:
    """Predictions and tables of `evaluate_model`."""
    return Path("work/evaluation/tasks", task)


def export(task: str) -> Path:
    """The bundle that runs by itself: `export_model`."""
    return Path("exports", task)


def alignment_export(name: str) -> Path:
    """The bundle that finds media by texts: `export_alignment`."""
    return Path("exports/align", name)
