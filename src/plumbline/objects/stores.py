"""The object stores that there are, opened through fsspec, and what they refuse, in one line."""

import importlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from plumbline.errors import ConfigError, DataError, PlumblineError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


@dataclass(frozen=True)
class Store:
    """A protocol: who speaks it, and how it is asked."""

    package: str
    """What speaks it; imported where it is used."""
    extra: str
    """What installs that package; empty: every installation has it."""
    credentials: str
    """Where they come from, for messages."""
    address: str
    """The environment variable that names another server."""
    anonymous: Mapping[str, object] = field(default_factory=dict)
    """Options that ask without credentials."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Options in any case; none of them is a secret."""
    errors: tuple[str, ...] = ()
    """`module:name` of what it raises beside `OSError`, `RuntimeError` and `ValueError`."""


STORES: dict[str, Store] = {
    "s3": Store(
        package="s3fs",
        extra="s3",
        credentials="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ~/.aws or a role",
        address="AWS_ENDPOINT_URL",
        anonymous={"anon": True},
        options={"config_kwargs": {"connect_timeout": 10, "read_timeout": 60}},
        errors=("botocore.exceptions:BotoCoreError", "botocore.exceptions:ClientError"),
    ),
    "gs": Store(
        package="gcsfs",
        extra="gs",
        credentials="GOOGLE_APPLICATION_CREDENTIALS or gcloud auth application-default login",
        address="STORAGE_EMULATOR_HOST",
        anonymous={"token": "anon"},
        errors=(
            "aiohttp:ClientError",
            "gcsfs.retry:ChecksumError",
            "gcsfs.retry:HttpError",
            "google.auth.exceptions:GoogleAuthError",
        ),
    ),
    "hf": Store(
        package="huggingface_hub",
        extra="",
        credentials="HF_TOKEN or hf auth login",
        address="HF_ENDPOINT",
        anonymous={"token": False},
        errors=("httpx:HTTPError", "httpx2:HTTPError"),  # by version
    ),
}
"""Scheme of a URL -> the store."""

_NO_CREDENTIALS = (
    "CredentialRetrievalError",
    "DefaultCredentialsError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "RefreshError",
    "TokenRetrievalError",
)
_NO_WAY = ("Connect", "Timeout", "DNS", "ReadError", "OfflineMode", "ServerDisconnected")
"""In the names of errors of those who never got an answer."""


def scheme_of(url: str) -> str:
    """What stands before `://`; empty where nothing does."""
    scheme, mark, _ = url.partition("://")
    return scheme if mark else ""


def open_store(url: str, *, anonymous: bool = False) -> "AbstractFileSystem":
    """The file system of a URL; nothing is asked of it yet.

    Raises:
        ConfigError: its package is not installed.
    """
    store = STORES[scheme_of(url)]
    try:
        importlib.import_module(store.package)
    except ImportError as error:
        raise ConfigError(
            f"{url}: the package {store.package} cannot be imported ({error}); "
            f"pip install 'plumbline[{store.extra}]'"
        ) from None
    import fsspec

    logging.getLogger(store.package).setLevel(logging.CRITICAL)  # what it logs it raises as well
    with explained(url):
        return fsspec.filesystem(
            scheme_of(url),
            # What was seen before is not what is there now.
            use_listings_cache=False,
            skip_instance_cache=True,
            **store.options,
            **(store.anonymous if anonymous else {}),
        )


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what a store refuses within the block into one line.

    Args:
        url: of what is asked for.

    Raises:
        ConfigError: no such bucket, no right to it, no credentials, or no way to it.
        DataError: the store or what it says is broken.
    """
    try:
        yield
    except PlumblineError:
        raise
    except _errors(url) as error:
        raise _explain(error, url) from error


def _errors(url: str) -> tuple[type[Exception], ...]:
    """What may be raised; asked only when something was."""
    found: list[type[Exception]] = [OSError, RuntimeError, ValueError]
    for place in STORES[scheme_of(url)].errors:
        module, _, name = place.partition(":")
        try:
            found.append(getattr(importlib.import_module(module), name))
        except (ImportError, AttributeError):
            continue  # of another version of the package
    return tuple(found)


def _explain(error: Exception, url: str) -> PlumblineError:
    store = STORES[scheme_of(url)]
    names = [kind.__name__ for kind in type(error).__mro__]
    reason = " ".join(str(error).split())[:200] or names[0]
    if any(name in _NO_CREDENTIALS for name in names):
        return ConfigError(
            f"{url}: no credentials ({reason}); they come from {store.credentials}; for what is "
            "public set anonymous: true"
        )
    if isinstance(error, PermissionError):
        return ConfigError(
            f"{url}: these credentials have no right to it ({reason}); they come from "
            f"{store.credentials}"
        )
    if isinstance(error, FileNotFoundError):
        return ConfigError(f"{url}: not there ({reason}); check bucket, prefix and endpoint")
    if isinstance(error, ConnectionError | TimeoutError) or any(
        part in name for name in names for part in _NO_WAY
    ):
        return ConfigError(
            f"{url}: not to be reached ({reason}); check the network, and where the server is not "
            f"the provider's its address ({store.address})"
        )
    return DataError(f"{url}: the store refuses ({reason}); run again, or look at it there")
