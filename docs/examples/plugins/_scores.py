"""What `plugins/scores.py` names."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from plumbline.evaluation.result import Evaluation, EvaluationJob


def matthews(result: Evaluation, job: EvaluationJob) -> Mapping[str, float | None]:
    """Correlate labels and predictions, part by part: a `ComputeMetric` for classification.

    Source: Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006, equation 8.
    """
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in result.predictions or ():
        pairs[str(row["part"])].append((str(row["label"]), str(row["prediction"])))
    return {part: correlation(found) for part, found in pairs.items()}


def correlation(pairs: list[tuple[str, str]]) -> float | None:
    """Of (label, prediction): 1 where all agree, about 0 by chance; None where one is constant."""
    labels, predictions = np.array(pairs).T  # [samples] each
    classes = np.unique(pairs)
    # [samples, classes], less the share of each class
    said, true = ((side[:, None] == classes) * 1.0 for side in (predictions, labels))
    said, true = said - said.mean(axis=0), true - true.mean(axis=0)
    spread = float(np.sqrt((said * said).sum() * (true * true).sum()))
    return float((said * true).sum()) / spread if spread else None
