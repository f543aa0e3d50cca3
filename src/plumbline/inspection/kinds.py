"""How the predictions of each kind of task are read: a line each. A plugin adds a line."""

from plumbline.registry import Registry

PREDICTIONS: Registry[str] = Registry("kind of task")
"""Name of a task -> `module:function` from the outputs of the model's modules by name and the
settings `train.task` to a `plumbline.inspection.predictions.Prediction` by head."""

for _kind, _place in (
    ("vlm", "plumbline.kinds.vlm.ask:vlm"),
    ("causal_lm", "plumbline.kinds.language.ask:tokens"),
    ("masked_lm", "plumbline.kinds.language.ask:tokens"),
    ("seq2seq", "plumbline.kinds.language.ask:tokens"),
    ("classification", "plumbline.kinds.classification.ask:classes"),
    ("regression", "plumbline.kinds.regression.ask:numbers"),
    ("alignment", "plumbline.kinds.alignment.ask:pairs"),
):
    PREDICTIONS.register(_kind, _place)
