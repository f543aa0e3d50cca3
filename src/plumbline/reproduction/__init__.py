"""Certificates: a rerun compared with the record."""
