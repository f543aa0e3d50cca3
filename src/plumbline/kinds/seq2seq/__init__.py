"""A text into another."""
