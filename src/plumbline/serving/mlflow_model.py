"""The code of a bundle that MLflow has logged: loaded by MLflow, where plumbline need not be.

A row of the input is a request, with a column a field; the answers come in the same order.
"""

import base64
import importlib.util
import sys
from collections.abc import Hashable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel

FILES = ("file", "files")


def load_bundle(folder: Path) -> ModuleType:
    """The script `inference.py` of a bundle, which checks all of its code first."""
    # Of another bundle in this process: what it has loaded, it keeps.
    for name in [name for name in sys.modules if name.partition(".")[0] == "runtime"]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location("inference", folder / "inference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Context(Protocol):
    """What MLflow opens a model with."""

    artifacts: Mapping[str, str]
    model_config: Mapping[str, str] | None


class BundleModel(PythonModel):
    """A bundle as a model of MLflow."""

    def load_context(self, context: Context) -> None:
        """Open the bundle among the artifacts, in the format that was chosen when it was logged."""
        folder = Path(context.artifacts["bundle"])
        self.script = load_bundle(folder)
        self.model = self.script.Model(folder, format=(context.model_config or {}).get("format"))

    def predict(
        self, context: Context | None, model_input: pd.DataFrame, params: object = None
    ) -> list[dict[str, object]]:
        """Answer the rows of a data frame.

        Raises:
            MlflowException: a row cannot be answered; the text names it and says why.
        """
        answers = []
        for number, row in enumerate(model_input.to_dict(orient="records")):
            try:
                answers.append(self.model.predict(self._request(row)))
            except self.script.InputError as error:
                text = f"row {number}: {error}"
                raise MlflowException(text, INVALID_PARAMETER_VALUE) from None
        return answers

    def _request(self, row: Mapping[Hashable, object]) -> dict[str, object]:
        """The fields of a row that are there, in the types of a request."""
        fields = self.model.task.fields
        return {
            str(name): self._plain(value, fields.get(name, ""))
            for name, value in row.items()
            # What another row has and this one has not is null, or no number.
            if value is not None and not (isinstance(value, float) and value != value)
        }

    def _plain(self, value: object, kind: str) -> object:
        if kind in FILES and isinstance(value, str):
            return self._decode(value)
        if isinstance(value, bytes | str):
            return value
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        if kind == "integer" and isinstance(value, float) and value.is_integer():
            value = int(value)  # a column with a gap in it
        return [self._plain(each, kind) for each in value] if isinstance(value, list) else value

    def _decode(self, value: str) -> bytes:
        try:
            return base64.b64decode(value, validate=True)
        except ValueError:
            raise self.script.InputError("no base64") from None


set_model(BundleModel())
