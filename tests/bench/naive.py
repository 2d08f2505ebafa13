"""The loop that most people write."""

from __future__ import annotations

import json

from river import drift, tree


def naive_loop(sent, *, learner=False, log_metric=None):
    """A dict as join, River's detectors on the error; a metric for each outcome, if at all.

    Returns:
        The number of drifts found, so that nothing is left out as unused.
    """

    pending = {}
    detectors = {}
    learners = {}
    n_drifts = 0
    for _, value, _, _ in sent:
        event = json.loads(value)
        if "prediction" in event:
            pending[event["prediction_id"]] = event
            continue
        prediction = pending.pop(event["prediction_id"], None)
        if prediction is None:
            continue
        model = event["model"]
        if model not in detectors:
            detectors[model] = drift.ADWIN(), drift.PageHinkley()
        error = float(prediction["prediction"] != event["label"])
        for detector in detectors[model]:
            detector.update(error)
            n_drifts += detector.drift_detected
        if learner:
            if model not in learners:
                learners[model] = tree.HoeffdingTreeClassifier()
            learners[model].predict_one(prediction["features"])
            learners[model].learn_one(prediction["features"], event["label"])
        if log_metric is not None:
            log_metric("error", error)
    return n_drifts
