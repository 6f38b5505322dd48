"""Where things stand in the plots."""

from __future__ import annotations

import re

import pytest

from compress.report.figures import Accuracy, Graph
from compress.report.plots import accuracy_over_latency

_TEXT = re.compile(r'<text[^>]* y="([\d.]+)"[^>]*>([^<]*)</text>')


@pytest.mark.parametrize("crowded", ["best", "worst"])
def test_names_of_points_stay_inside_the_plot(crowded: str) -> None:
    scores = {"best": (0.9, 0.1), "worst": (0.1, 0.9)}[crowded]
    graphs = [
        Graph(f"file{i}", "s", "fp32", latency={"p50": 5.0 + i / 100}, accuracy=_on_val(scores[0]))
        for i in range(5)
    ]
    graphs.append(Graph("other", "s", "fp32", latency={"p50": 9.0}, accuracy=_on_val(scores[1])))
    heights = {name: float(y) for y, name in _TEXT.findall(accuracy_over_latency(graphs, None))}
    title = heights["mAP50-95 (val) of the exported files"]
    axis = heights["median latency, ms"]
    for graph in graphs:
        assert title + 7 < heights[graph.name] < axis - 7


def _on_val(score: float) -> dict[str, Accuracy]:
    return {"val": Accuracy(score, score)}
