"""The types of a contract say what the shapes check: what one promises the other has looked at."""

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest

from plumbline.export.runtime import inputs
from plumbline.export.runtime.contract import COMMON, SELFTEST, Contract, Shape
from plumbline.export.runtime.model import StoredSamples
from plumbline.kinds.alignment.runtime import MEDIUM, GalleryMedium
from plumbline.kinds.causal_lm.runtime import TURNS, CausalContract, CausalTask
from plumbline.kinds.classification.runtime import ClassHead, ClassificationTask
from plumbline.kinds.masked_lm.runtime import MaskedContract, MaskedTask
from plumbline.kinds.regression.runtime import NumberHead, RegressionTask
from plumbline.kinds.seq2seq.runtime import Seq2SeqContract, Seq2SeqTask
from plumbline.kinds.vlm.runtime import VlmContract, VlmTask
from plumbline.kinds.vlm.talk_runtime import TalkContract, TalkTask

SECTIONS = {
    "image": inputs.ImageSection,
    "audio": inputs.AudioSection,
    "features": inputs.FeaturesSection,
    "text": inputs.TextSection,
}
SHOWS_IMAGES: dict[str, object] = {"chat": {"image": {}}}
"""Of a template that takes images as parts of a turn."""
PAIRS: dict[str, tuple[Any, Shape]] = {
    "common": (Contract, COMMON),
    "selftest": (StoredSamples, SELFTEST),
    "causal_lm": (
        CausalContract,
        {**COMMON, **CausalTask.shape({"text": {"framing": TURNS}, **SHOWS_IMAGES})},
    ),
    "masked_lm": (MaskedContract, {**COMMON, **MaskedTask.shape({})}),
    "seq2seq": (Seq2SeqContract, {**COMMON, **Seq2SeqTask.shape({})}),
    "vlm": (VlmContract, {**COMMON, **VlmTask.shape({})}),
    "vlm_turns": (TalkContract, {**COMMON, **TalkTask.shape(SHOWS_IMAGES)}),
    "classification": (ClassHead, ClassificationTask.head),
    "gallery": (GalleryMedium, MEDIUM),
    "regression": (NumberHead, RegressionTask.head),
    **{
        name: (section, {"modality": {name}, **inputs.INPUTS[name]})
        for name, section in SECTIONS.items()
    },
}


def agrees(hint: Any, shape: Any) -> bool:
    """Whether every value that fits a shape is one of the type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is object:
        return True
    if isinstance(shape, tuple):
        return all(agrees(hint, inner) for inner in shape)
    if is_typeddict(hint):
        hints = get_type_hints(hint)
        known = isinstance(shape, Mapping) and hints.keys() <= shape.keys()
        return known and all(agrees(inner, shape[name]) for name, inner in hints.items())
    if origin in (Union, UnionType):
        return any(agrees(inner, shape) for inner in arguments)
    if origin is list:
        return isinstance(shape, list) and agrees(arguments[0], shape[0])
    if origin is dict:
        inner = object if shape is dict else shape[...]
        return agrees(arguments[1], inner)
    if isinstance(shape, range):
        return hint is int
    if isinstance(shape, set):
        return hint is str or (origin is Literal and shape == set(arguments))
    return bool(hint is (NoneType if shape is None else shape))


@pytest.mark.parametrize("name", PAIRS)
def test_every_shape_checks_what_the_type_beside_it_promises(name: str) -> None:
    assert agrees(*PAIRS[name])


@pytest.mark.parametrize("name", PAIRS)
def test_a_type_does_not_agree_with_the_shape_of_another(name: str) -> None:
    hint, _ = PAIRS[name]
    agreeing = {other for other, (_, shape) in PAIRS.items() if agrees(hint, shape)}
    every = {"common", "causal_lm", "masked_lm", "seq2seq", "vlm", "vlm_turns"}
    assert agreeing == (every if name == "common" else {name})
