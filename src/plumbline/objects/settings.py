"""Settings of what lies in an object store: an entry of `objects`."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from pydantic import Field, field_validator, model_validator

from plumbline.config import Config
from plumbline.objects.stores import STORES, scheme_of

_SECRETS = ("key", "secret", "token", "password", "credential", "options", "kwargs", "endpoint")
"""What names of settings have in them that would say who asks, or where."""
_BY_ITSELF = (
    "credentials stand in no file of a project: the environment or the files of the provider have "
    "them, and AWS_ENDPOINT_URL names another server of S3"
)


class ObjectsConfig(Config):
    """What lies below a URL."""

    url: str
    """`s3://bucket/prefix`, `gs://bucket/prefix` or `hf://datasets/owner/name@commit/folder`: all
    below it, or one object."""
    only: list[str] = Field(default_factory=list)
    """Files, folders or patterns below the URL that are taken: `*` stays within a folder, `**/` is
    any folders. Empty: all."""
    anonymous: bool = False
    """Whether to ask without credentials, for what is public."""

    @model_validator(mode="before")
    @classmethod
    def _without_secrets(cls, values: object) -> object:
        # The whole is refused, not a field, so that no message quotes the value.
        if not isinstance(values, Mapping):
            return values
        for name in values:
            if name not in cls.model_fields and any(word in str(name) for word in _SECRETS):
                raise ValueError(f"{name} is no setting: {_BY_ITSELF}")
        url = values.get("url")
        if isinstance(url, str) and scheme_of(url) not in ("", "hf") and "@" in url.split("/")[2]:
            raise ValueError(f"url has something before an @: {_BY_ITSELF}")
        return values

    @field_validator("url")
    @classmethod
    def _known(cls, url: str) -> str:
        scheme = scheme_of(url)
        if scheme not in STORES:
            raise ValueError(f"a URL of {', '.join(f'{name}://' for name in STORES)} is expected")
        rest = url.removeprefix(f"{scheme}://")
        if not re.fullmatch(r"[^/?#\s][^?#\0]*", rest):
            raise ValueError(
                "a bucket and a prefix are expected, without ? and #: what is signed ends one day"
            )
        if {".", "..", ""} & set(rest.rstrip("/").split("/")):
            raise ValueError("a part of it is empty, . or ..")
        return url

    @field_validator("only")
    @classmethod
    def _places(cls, places: list[str]) -> list[str]:
        for place in places:
            parts = PurePosixPath(place).parts
            if not parts or parts[0] == "/" or ".." in parts:
                raise ValueError(f"{place!r} is no place below the URL")
        return places


class ObjectsEntry(Config):
    """An entry of `objects`, whole."""

    objects: ObjectsConfig
    """What lies there."""
