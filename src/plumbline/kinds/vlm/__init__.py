"""Answers about an image, and descriptions of it."""
