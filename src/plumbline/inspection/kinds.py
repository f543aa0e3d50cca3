"""How the predictions of each kind of task are read: a line each. A plugin adds a line."""

from plumbline.registry import Registry

PREDICTIONS: Registry[str] = Registry("kind of task")
"""Name of a task -> `module:function` from the outputs of the model's modules by name and the
settings `train.task` to a `plumbline.inspection.predictions.Prediction` by head."""

for _kind, _place in (
    ("vlm", "plumbline.inspection.predictions:vlm"),
    ("causal_lm", "plumbline.inspection.predictions:tokens"),
    ("masked_lm", "plumbline.inspection.predictions:tokens"),
    ("seq2seq", "plumbline.inspection.predictions:tokens"),
    ("classification", "plumbline.inspection.predictions:classes"),
    ("regression", "plumbline.inspection.predictions:numbers"),
    ("alignment", "plumbline.inspection.predictions:pairs"),
):
    PREDICTIONS.register(_kind, _place)
