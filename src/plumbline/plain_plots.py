"""matplotlib as it comes: what a user's own matplotlibrc says changes no picture."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def plain_style(style: Mapping[str, object]) -> Iterator[None]:
    """A block in which matplotlib has its own defaults, and these settings of its rcParams."""
    import matplotlib

    known = matplotlib.rcParamsDefault
    plain = {key: known[key] for key in known if not key.startswith("backend")}
    with matplotlib.rc_context({**plain, **style}):  # type: ignore[dict-item]  # 300 literal keys
        yield
