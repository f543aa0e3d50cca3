"""Losses that settings choose by name; no torch here, so that settings are checked in no time."""

from plumbline.registry import Registry

CLASS_LOSSES: Registry[str] = Registry("classification loss")
"""Name -> "module:function" of a `plumbline.losses.classification.ClassLoss`."""

CLASS_LOSSES.register("cross_entropy", "plumbline.losses.classification:class_cross_entropy")
CLASS_LOSSES.register("focal", "plumbline.losses.classification:focal_loss")
