"""The record of every run, and its live view."""
