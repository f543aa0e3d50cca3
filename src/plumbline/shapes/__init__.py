"""What a cleaned dataset looks like: `detect_shapes` writes it, later stages read it."""

from plumbline.shapes.detect import ShapesConfig, detect_shapes

__all__ = ["ShapesConfig", "detect_shapes"]
