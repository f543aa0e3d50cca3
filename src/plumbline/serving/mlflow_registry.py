"""Logging a bundle as a model of MLflow with its signature, and registering it."""

import base64
import os
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.errors import OutputError
from plumbline.files import read_json
from plumbline.scratch import scratch_folder
from plumbline.serving.bundles import check_format, copy_bundle
from plumbline.tracking.mlflow_store import EXPERIMENT, address_of, open_store
from plumbline.tracking.run_store import UnavailableError, describe

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.models.model import ModelInfo
    from mlflow.types import ColSpec

SCRIPT = Path(__file__).parent / "mlflow_model.py"

COLUMNS = {
    "file": "binary",
    "text": "string",
    # As a double: a column of whole numbers cannot have a gap, and each field may be left out.
    "integer": "double",
    "number": "double",
}
"""Type of a field -> that of its column. One that is not here is of any type, so of a flag too: in
a column of truth values MLflow takes a gap for true."""

LISTS = ("texts", "files")
"""Types of fields whose column holds lists of texts; files are in base64."""


@dataclass(frozen=True)
class Registered:
    """A version of a model in the registry."""

    name: str
    version: str
    uri: str
    """For `mlflow models serve -m`."""
    store: str


def register_bundle(bundle: Path, root: Path, name: str, format: str | None = None) -> Registered:
    """Log a bundle as a model in the configured store, and register it.

    Args:
        bundle: its folder.
        root: of the project, beside which the store lies where no other one is set.
        name: of the registered model; another version where there is one already.
        format: of the graphs that will answer; None: the bundle's default.

    Raises:
        CheckpointError: a file of the bundle has changed.
        ConfigError: the bundle has no such format.
        OutputError: MLflow refuses, or does not answer.
    """
    check_format(bundle, format)
    uri = address_of(root)
    try:
        open_store(uri, root)  # makes the database and the experiment, and quietens MLflow
    except UnavailableError as error:
        raise OutputError(f"{describe_place(uri)}: {error}") from None
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        mlflow.set_experiment(EXPERIMENT)
        with scratch_folder() as folder, mlflow.start_run(run_name=f"register {name}"):
            copy_bundle(bundle, folder / "bundle")
            version = str(_log(folder / "bundle", name, format).registered_model_version)
        for key, value in _digests_of(bundle).items():
            mlflow.MlflowClient().set_model_version_tag(name, version, key, value)
    except MlflowException as error:
        raise OutputError(f"{describe_place(uri)}: {describe(error)}") from None
    return Registered(name, version, f"models:/{name}/{version}", describe_place(uri))


def _log(bundle: Path, name: str, format: str | None) -> "ModelInfo":
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow
    import mlflow.pyfunc
    import pandas as pd

    from plumbline.serving.mlflow_model import load_bundle

    # Opened by its own code: what it takes, and what it said to the samples that it stores.
    model = load_bundle(bundle).Model(bundle, format=format)
    fields: dict[str, str] = model.task.fields
    stored = read_json(bundle / "selftest" / "selftest.json")["answers"]
    columns = input_columns(fields, model.task.required)
    packages = (bundle / "requirements.txt").read_text(encoding="utf-8").split()
    made: ModelInfo = mlflow.pyfunc.log_model(
        name=name,
        # As code: a pickle could be loaded by plumbline alone.
        python_model=str(SCRIPT),
        artifacts={"bundle": str(bundle)},
        signature=signature_of(columns, [sample["answer"] for sample in stored]),
        input_example=pd.DataFrame([example_of(bundle, fields, stored[0]["request"])]),
        pip_requirements=[*packages, f"mlflow=={mlflow.__version__}", f"pandas=={pd.__version__}"],
        model_config={"format": format} if format else None,
        metadata=_digests_of(bundle),
        registered_model_name=name,
    )
    return made


def _digests_of(bundle: Path) -> dict[str, str]:
    """What a bundle was made of, as `plumbline verify` looks for it in the commits."""
    made = read_json(bundle / "metadata.json").get("provenance", {"made_of": {}})
    return {f"plumbline.{name}": entry["md5"] for name, entry in made["made_of"].items()}


def example_of(
    bundle: Path, fields: Mapping[str, str], request: Mapping[str, object]
) -> dict[str, object]:
    """A stored request as a row of the input."""
    row: dict[str, object] = {}
    for name, value in request.items():
        if fields[name] == "file":
            value = (bundle / str(value)).read_bytes()
        elif isinstance(value, list) and fields[name] == "files":
            # MLflow decodes a column of bytes, and no list of them.
            value = [base64.b64encode((bundle / each).read_bytes()).decode() for each in value]
        row[name] = value
    return row


def describe_place(uri: str) -> str:
    """An address without the credentials that it may hold."""
    return re.sub(r"//[^/@\s]+@", "//***@", uri)


def signature_of(columns: list["ColSpec"], answers: list[object]) -> "ModelSignature":
    """The columns of the input, and what answers hold, taken from known ones."""
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import Schema

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that whole numbers cannot be missing: they are no input
        outputs = infer_signature(model_output=answers).outputs
    return ModelSignature(inputs=Schema([*columns]), outputs=outputs)


def input_columns(fields: Mapping[str, str], required: Collection[str]) -> list["ColSpec"]:
    """A column for each field of a request.

    Args:
        fields: name -> type.
        required: those without which nothing can be answered.
    """
    from mlflow.types import ColSpec, DataType
    from mlflow.types.schema import AnyType, Array

    columns: list[ColSpec] = []
    for name, kind in fields.items():
        if kind in COLUMNS:
            type_of_column: Array | DataType | AnyType = DataType[COLUMNS[kind]]
        else:
            type_of_column = Array(DataType.string) if kind in LISTS else AnyType()  # type: ignore[no-untyped-call]
        columns.append(ColSpec(type_of_column, name, name in required))
    return columns
