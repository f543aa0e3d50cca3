"""What settings mean: the texts below the fields of settings classes, read from their source.

pydantic could take them itself, but would read the source of every class whenever one is imported.
"""

import ast
import inspect
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from pydantic import BaseModel


def meaning_of(model: type[BaseModel], field: str) -> str:
    """What a setting means, in one line; "" where nobody says it.

    Args:
        model: a settings class; what it leaves unsaid, the class that it extends may say.
        field: the name of one of its fields.
    """
    texts = (_texts(cls.__module__).get(f"{cls.__qualname__}.{field}", "") for cls in model.__mro__)
    return next(filter(None, texts), "")


def meaning_of_class(model: type[BaseModel]) -> str:
    """What a group of settings is: the docstring of its class, or of the one that it extends."""
    for cls in model.__mro__:
        if issubclass(cls, BaseModel) and (text := cls.__doc__):
            return inspect.cleandoc(text)
    return ""


@cache
def _texts(module: str) -> Mapping[str, str]:
    """`Class.field` -> the text below it, of all classes of a module."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return {}
    with pathlib.Path(file).open(encoding="utf-8") as source:
        return dict(_class_texts(ast.parse(source.read()).body))


def _class_texts(body: Sequence[ast.stmt]) -> Iterator[tuple[str, str]]:
    for node in body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, below in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                yield f"{node.name}.{field.target.id}", _text(below)


def _text(node: ast.stmt) -> str:
    """The text that a statement is, its lines joined; "" where it is something else."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        # A YAML file has null for what Python calls None.
        return re.sub(r"\bNone\b", "null", " ".join(str(node.value.value).split()))
    return ""
