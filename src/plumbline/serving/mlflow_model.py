"""The code of a bundle that MLflow has logged: loaded by MLflow, where plumbline need not be.

A row of the input is a request, with a column a field; the answers come in the same order.
"""

import base64
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException
from mlflow.models import set_model

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


class BundleModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A bundle as a model of MLflow."""

    def load_context(self, context: Any) -> None:
        """Open the bundle among the artifacts, in the format that was chosen when it was logged."""
        folder = Path(context.artifacts["bundle"])
        self.script = load_bundle(folder)
        self.model = self.script.Model(folder, format=(context.model_config or {}).get("format"))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
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

    def _request(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a row that are there, in the types of a request."""
        fields = self.model.task.fields
        return {
            name: self._plain(value, fields.get(name, ""))
            for name, value in row.items()
            # What another row has and this one has not is null, or no number.
            if value is not None and not (isinstance(value, float) and value != value)
        }

    def _plain(self, value: Any, kind: str) -> Any:
        if kind in FILES and isinstance(value, str):
            return self._decode(value)
        if isinstance(value, bytes | str):
            return value
        if hasattr(value, "tolist"):  # numpy's arrays and scalars
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
