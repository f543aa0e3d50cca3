"""TODO causal_lm."""
