"""Searches over settings through the DVC queue."""
