"""Sums and counts that training minimises, as pure functions."""
