"""Gaps of a text, filled."""
