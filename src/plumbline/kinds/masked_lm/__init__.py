"""TODO masked_lm."""
