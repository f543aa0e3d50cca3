"""TorchScript files: traced, frozen, and without a trace of where they were written."""

import io
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.jit._trace import TracerWarning

from plumbline.export.graphs import GraphSpec, Written

_MANGLE = re.compile(rb"___torch_mangle_\d+")


def write_graphs(specs: dict[str, GraphSpec], out: Path) -> Written:
    """Write the format `torchscript`: a `WriteGraphs`."""
    parts = {part: f"{part}.torchscript.pt" for part in specs}
    for part, spec in specs.items():
        write_torchscript(spec, out / parts[part])
    return Written(parts, description={"device": "cpu"})


def write_torchscript(spec: GraphSpec, path: Path) -> None:
    """Trace a graph and save it; the same model gives the same bytes anywhere.

    Raises:
        RuntimeError: the model cannot be traced.
    """
    buffer = io.BytesIO()
    with _quiet(), _plain_attention(), torch.no_grad():
        trace: Callable[..., torch.jit.ScriptModule] = torch.jit.trace  # without types in torch
        # Not checked by a second run: parity measures more, and on inputs of other lengths.
        traced = trace(spec.module, tuple(spec.inputs.values()), check_trace=False)
        # Numerics as they are: folded batch norms would give other bits than the checkpoint.
        frozen = torch.jit.freeze(traced, optimize_numerics=False)
        torch.jit.save(frozen, buffer)
    path.write_bytes(_without_origin(buffer))


def _without_origin(buffer: io.BytesIO) -> bytes:
    """Rewrite an archive without source paths, and with names that no earlier export shifts.

    `.debug_pkl` members map operations to source files. `___torch_mangle_<n>` counts the classes
    that this process has made so far; frozen modules have one class, so one number does.
    `serialization_id` is a digest over both.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for member in old.infolist():
            name = member.filename
            if name.endswith((".debug_pkl", "/serialization_id")):
                continue
            data = old.read(member)
            if "/code/" in name or name.endswith("/data.pkl"):
                data = _MANGLE.sub(b"___torch_mangle_0", data)
            plain = _MANGLE.sub(b"___torch_mangle_0", name.encode()).decode()
            # A ZipInfo of its own has the date 1980, not that of the export.
            new.writestr(zipfile.ZipInfo(plain), data)
    return out.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what tracing always says: that it is deprecated, and that shapes become constants.

    The parity check measures whether a shape that matters did.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", TracerWarning)
        yield


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Trace attention as plain operations, not as the fused one that only torch's encoder has."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
