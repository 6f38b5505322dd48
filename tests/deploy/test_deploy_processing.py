"""Pre- and post-processing without a session, as the bench uses them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from deploy_nets import Bundled

from deploy.errors import DeployError
from deploy.graph_facts import Thresholds, graph_facts
from deploy.manifest import Postprocessing, Preprocessing, read_bundle
from deploy.processing import input_of, read_outputs

DETECT = Postprocessing("detect", "cells", classes=2, score=0.25, iou=0.7, max_boxes=9)
METADATA = {"names": "{0: 'a', 1: 'b'}", "task": "detect", "stride": "32"}


def test_the_input_is_one_block_of_memory_between_0_and_1() -> None:
    image = np.full((40, 20, 3), (255, 0, 51), np.uint8)
    values, place = input_of(image, Preprocessing(32, 32))
    assert values.shape == (1, 3, 32, 32)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    np.testing.assert_array_equal(values[0, :, 16, 16], np.float32([1, 0, 0.2]))
    assert values[0, 0, 16, 0] == np.float32(114) / 255
    assert place.image == (40, 20)


@pytest.mark.parametrize("shape", [(1, 7, 10), (1, 5, 10), (6, 10), (1, 6, 10, 1), (6,)])
def test_outputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    first, prototypes = read_outputs([np.zeros((1, 6, 10), np.float16)], DETECT, "net.onnx")
    assert first.dtype == np.float32
    assert prototypes is None
    with pytest.raises(DeployError, match=r"'net.onnx' gives"):
        read_outputs([np.zeros(shape, np.float32)], DETECT, "net.onnx")


def test_masks_come_with_their_prototypes() -> None:
    segment = Postprocessing("segment", "cells", 2, 0.25, 0.7, 9, masks=4)
    outputs = [np.zeros((1, 10, 5), np.float32), np.ones((1, 4, 8, 8), np.float32)]
    assert read_outputs(outputs, segment, "net.onnx")[1].shape == (4, 8, 8)
    with pytest.raises(DeployError, match="4 masks"):
        read_outputs(outputs[:1], segment, "net.onnx")


def test_facts_of_a_graph_that_ultralytics_wrote() -> None:
    facts = graph_facts(METADATA, [1, 3, 64, 96], [[1, 6, 126]], Thresholds(score=0.5))
    assert facts.labels == ("a", "b")
    assert facts.preprocessing == Preprocessing(64, 96)
    assert (facts.postprocessing.layout, facts.postprocessing.score) == ("cells", 0.5)
    assert facts.strides == (8, 16, 32)
    whole = graph_facts({**METADATA, "end2end": "True"}, [1, 3, 64, 64], [[1, 30, 6]], Thresholds())
    assert whole.postprocessing.layout == "boxes"


def test_a_bundle_has_nothing_that_only_makes_bundles(
    bundled: Callable[[str], Bundled],
) -> None:
    folder = bundled("Detect").folder / "deploy"
    names = {file.name for file in folder.iterdir()}
    assert {"detector.py", "processing.py"} <= names
    assert not names & {"pack.py", "graph_facts.py"}
    assert read_bundle(folder.parent).labels


def test_old_numpy_without_types_of_arrays_will_do() -> None:
    code = (
        "import sys, numpy; sys.modules['numpy.typing'] = None\n"
        "import deploy.processing, deploy.decode, deploy.images, deploy.graph_facts\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
