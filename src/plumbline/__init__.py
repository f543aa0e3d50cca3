"""A declarative, reproducible pipeline for multimodal models."""

TYPE_CHECKING = False  # as type checkers read it; its import is not for nothing

if TYPE_CHECKING:
    from plumbline.api.fit import fit as fit
    from plumbline.api.load import load as load

_DOOR = ("fit", "load")
"""What a notebook finds here: each a module of `plumbline.api` with a function of its name."""


def __getattr__(name: str) -> object:
    """Load what the door has when it is asked for: the import of the package loads nothing."""
    if name not in _DOOR:
        raise AttributeError(f"module 'plumbline' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"plumbline.api.{name}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_DOOR])
