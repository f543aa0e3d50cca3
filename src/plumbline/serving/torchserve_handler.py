"""The handler of a bundle in TorchServe: nothing of plumbline, and none of torchserve's classes.

A request is an object of the bundle's fields, its files in base64, as the bundle's own server takes
it; or a form, with a part a field and files as they are. The archive holds the bundle in a folder
of its own: beside other code nothing of it is imported.
"""

import base64
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

FILES = ("file", "files")
TEXTS = ("text",)


if TYPE_CHECKING:  # TorchServe wants one class in this file

    class Context(Protocol):
        """What TorchServe tells of the model, and is told of each request of a batch."""

        system_properties: Mapping[str, str]

        def set_response_status(self, *, code: int, phrase: str, idx: int) -> None:
            """Set the status of one of them."""


Request = dict[str, object]
"""Values by field, files as bytes."""


class BundleHandler:
    """What TorchServe calls: `initialize` once, then `handle` for each batch."""

    def initialize(self, context: "Context") -> None:
        """Open the bundle of the archive, in the format that model-config.yaml names.

        Raises:
            ImportError: it holds code that its digests do not name.
        """
        folder = Path(context.system_properties["model_dir"]) / "bundle"
        # One model a worker: its process imports the scripts of no other bundle.
        sys.path.insert(0, str(folder))
        import inference  # type: ignore[import-not-found]

        config = getattr(context, "model_yaml_config", None) or {}
        chosen = config.get("handler", {}).get("format")
        self.refused: type[Exception] = inference.InputError
        self.model = inference.Model(folder, format=chosen)
        self.initialized = True

    def handle(self, data: Sequence[Mapping[str, object]], context: "Context") -> list[str]:
        """Answer a batch: a line of JSON a request, in their order."""
        return self.postprocess(self.inference(self.preprocess(data)), context)

    def preprocess(self, data: Sequence[Mapping[str, object]]) -> list[Request | Exception]:
        """The requests of a batch; one that is none is the error that says so."""
        requests: list[Request | Exception] = []
        for row in data:
            try:
                requests.append(self._read(row))
            except (self.refused, ValueError, RecursionError) as error:
                requests.append(error)
        return requests

    def inference(self, requests: Sequence[Request | Exception]) -> list[Request | Exception]:
        """An answer for each request, or the error in its place."""
        answers: list[Request | Exception] = []
        for request in requests:
            if isinstance(request, Exception):
                answers.append(request)
                continue
            try:
                answers.append(self.model.predict(request))
            except self.refused as error:
                answers.append(error)
        return answers

    def postprocess(self, answers: Sequence[Request | Exception], context: "Context") -> list[str]:
        """JSON of each answer; a request that was refused has the status 400."""
        lines: list[str] = []
        for number, answer in enumerate(answers):
            if isinstance(answer, Exception):
                context.set_response_status(code=400, phrase="Bad Request", idx=number)
                answer = {"error": " ".join(str(answer).split())[:500]}
            lines.append(json.dumps(answer, allow_nan=False))
        return lines

    def _read(self, row: Mapping[str, object]) -> Request:
        """The request in what TorchServe has read of a body."""
        fields = self.model.task.fields
        whole = row.get("body", row.get("data"))
        if whole is None:
            return {name: self._part(value, fields.get(name, "")) for name, value in row.items()}
        if isinstance(whole, bytes | bytearray | str):
            whole = json.loads(whole)
        if not isinstance(whole, dict):
            raise self.refused(f"expected an object of {', '.join(fields)}")
        return {name: _decoded(name, value, fields.get(name)) for name, value in whole.items()}

    def _part(self, value: object, kind: str) -> object:
        """A field of a form: bytes of a file, a text, or JSON."""
        if not isinstance(value, bytes | bytearray) or kind == "file":
            return bytes(value) if isinstance(value, bytearray) else value
        if kind == "files":
            return [bytes(value)]
        text = bytes(value).decode("utf-8")
        return text if kind in TEXTS else json.loads(text)


def _decoded(name: str, value: object, kind: str | None) -> object:
    """A field of an object, its files out of their base64."""
    if kind not in FILES or value is None:
        return value
    try:
        if isinstance(value, list):
            return [base64.b64decode(each, validate=True) for each in value]
        return base64.b64decode(str(value), validate=True)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: no base64") from None
