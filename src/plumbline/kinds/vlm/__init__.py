"""TODO vlm."""
