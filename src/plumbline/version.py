"""The version; in a module of its own, so that a release is in no stage's code."""

__version__ = "0.1.0"
