"""TODO classification."""
