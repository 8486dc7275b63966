"""The saved view of an experiment's page that compares its runs: what differs, accuracies, predictions side by side.

Without it, MLflow's page shows no result in its table, and above each image all parameters, so that it cannot be seen.
"""

from __future__ import annotations

import json
import time
from typing import Any

from resnet_exp.interfaces import COMPARED_IMAGES

VIEW = "compare"  # its name in the menu "Views", and in the address
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"  # of the experiment; MLflow's own way to save a view
_BEST = "metrics.`accuracy/best_val`"
_COLUMNS = (
    *(_BEST, "metrics.`accuracy/test`", "params.`scheduler.max_lr`", "params.`train.epochs`"),
    *("params.`train.batch_size`", "params.`seed`", "attributes.`Duration`"),
)


def compare_view() -> str:
    """The value of `VIEW_TAG`; what it does not name, such as other metrics, the page adds below."""
    charts = [
        _differences("what differs"),
        *(_chart("accuracy", "BAR", metricKey=key) for key in ("accuracy/best_val", "accuracy/test")),
        *(_line("accuracy", key) for key in ("accuracy/val", "accuracy/train")),
        _images(COMPARED_IMAGES),
        *(_images((key,), deleted=True) for key in COMPARED_IMAGES),  # else the page adds them, each under parameters
        *(_line("loss", key) for key in ("loss/val", "loss/train")),
        _chart("loss", "BAR", metricKey="loss/test"),
    ]
    state = {
        "orderByKey": _BEST,
        "orderByAsc": False,
        "selectedColumns": _COLUMNS,
        "compareRunSections": [
            _section("what differs", columns=1),
            _section("accuracy", columns=2),
            _section("predictions", columns=1, cardHeight=900),
            _section("loss"),
        ],
        "compareRunCharts": charts,
        "isAccordionReordered": True,  # else the page sorts the sections by name
    }
    now = time.time_ns() // 1_000_000
    return json.dumps({"name": VIEW, "createdAt": now, "updatedAt": now, "state": json.dumps(state)})


def _section(name: str, **layout: int) -> dict[str, Any]:
    flags = {"display": True, "isReordered": False, "deleted": False, "isGenerated": True}
    return {"uuid": name, "name": name, **flags, **layout}


def _chart(section: str, kind: str, **content: Any) -> dict[str, Any]:
    name = content.get("metricKey") or content.get("imageKeys")
    flags = {"runsCountToCompare": 10, "deleted": False, "isGenerated": True}
    return {"uuid": f"{kind} {name}", "type": kind, "metricSectionId": section, **flags, **content}


def _differences(section: str) -> dict[str, Any]:
    flags = {"showDifferencesOnly": True, "showChangeFromBaseline": False}
    groups = ["Parameters", "Model metrics"]
    return _chart(section, "DIFFERENCE", chartName="What differs", compareGroups=groups, baselineColumnUuid="", **flags)


def _line(section: str, metric: str) -> dict[str, Any]:
    plain = {"lineSmoothness": 0, "xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "range": {}}
    plain |= {"selectedXAxisMetricKey": "", "yAxisKey": "metric", "yAxisExpressions": [], "ignoreOutliers": False}
    plain |= {"useGlobalXaxisKey": True, "useGlobalLineSmoothing": True}
    return _chart(section, "LINE", metricKey=metric, **plain)


def _images(keys: tuple[str, ...], *, deleted: bool = False) -> dict[str, Any]:
    """A table of images, a column for each run, where there are several keys."""
    return _chart("predictions", "IMAGE", imageKeys=keys, step=0, showRunParams=False, deleted=deleted)
