"""Canonical columns, Parquet, and the decoding of media."""
