"""Models for given classes: from a yaml, from weights, and what is no detection model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_nets import IMGSZ, NAMES, output_of, pruned_copy
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models.build import build_model, knows_classes
from compress.models.checkpoint import class_names, save_checkpoint
from compress.models.inspect import conv_widths, detect_head


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_a_yaml_gives_fresh_weights_that_the_seed_decides(net_yaml: Path) -> None:
    first = build_model(net_yaml, NAMES, seed=1)
    torch.rand(5)  # what was drawn before does not matter
    assert same_weights(first, build_model(net_yaml, NAMES, seed=1))
    assert not same_weights(first, build_model(net_yaml, NAMES, seed=2))
    assert class_names(first) == NAMES
    assert detect_head(first).nc == len(NAMES)


def test_the_data_decide_the_number_of_classes_of_a_yaml(net_yaml: Path) -> None:
    names = {index: f"class {index}" for index in range(7)}
    model = build_model(net_yaml, names, seed=0)
    assert knows_classes(model, names)
    assert output_of(model, torch.zeros(1, 3, IMGSZ, IMGSZ)).shape[1] == 4 + 7


def test_a_name_that_ultralytics_knows_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = build_model(Path("yolov8n.yaml"), NAMES, seed=0)
    assert detect_head(model).nc == 3


def test_weights_for_these_classes_are_taken_as_they_are(net: nn.Module, tmp_path: Path) -> None:
    save_checkpoint(net, tmp_path / "net.pt")
    assert same_weights(build_model(tmp_path / "net.pt", NAMES, seed=5), net)


OTHERS = {0: "Disc ", 1: "cat", 2: "square", 3: "dog"}


@pytest.fixture(params=["dense", "pruned"])
def source(request: pytest.FixtureRequest, net: nn.Module) -> nn.Module:
    """A net whose yaml tells its widths, and one whose yaml does not."""
    if request.param == "dense":
        return net
    return pruned_copy(net, 0.5)


@pytest.mark.parametrize("names", [OTHERS, {0: "disc", 1: "cat", 2: "bar"}, {0: "cat"}])
def test_classes_of_the_same_name_keep_their_outputs(
    names: dict[int, str], source: nn.Module, tmp_path: Path
) -> None:
    save_checkpoint(source, tmp_path / "net.pt")
    model = build_model(tmp_path / "net.pt", names, seed=0)
    assert class_names(model) == names
    known = {name: index for index, name in NAMES.items()}
    for ours, theirs in zip(detect_head(model).cv3, detect_head(source).cv3, strict=True):
        assert ours[-1].out_channels == len(names)
        for index, name in enumerate(name.strip().lower() for name in names.values()):
            if name in known:
                assert torch.equal(ours[-1].weight[index], theirs[-1].weight[known[name]])
                assert torch.equal(ours[-1].bias[index], theirs[-1].bias[known[name]])
            else:  # drawn anew: no other class of the source stands in
                assert not (ours[-1].weight[index] == theirs[-1].weight).all(dim=1).any()
                assert ours[-1].bias[index] < -3  # rare until something is learnt


def test_all_but_the_class_outputs_is_kept(
    source: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    save_checkpoint(source, tmp_path / "net.pt")
    model = build_model(tmp_path / "net.pt", OTHERS, seed=0)
    before, after = conv_widths(source), conv_widths(model)
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"model.22.cv3.{level}.2" for level in range(3)}
    ours, theirs = output_of(model, images), output_of(source, images)
    assert torch.equal(ours[:, :4], theirs[:, :4])
    assert torch.allclose(ours[:, [4, 6]], theirs[:, [5, 4]], atol=1e-6)  # disc, square
    save_checkpoint(model, tmp_path / "other.pt")
    assert same_weights(build_model(tmp_path / "other.pt", OTHERS, seed=9), model)


def test_new_class_outputs_are_drawn_from_the_seed(source: nn.Module, tmp_path: Path) -> None:
    save_checkpoint(source, tmp_path / "net.pt")
    first, again, other = (build_model(tmp_path / "net.pt", OTHERS, seed) for seed in (1, 1, 2))
    assert same_weights(first, again)
    assert not same_weights(first, other)


BAD_YAMLS = {
    "empty": "",
    "text": "just words\n",
    "list": "- 1\n- 2\n",
    "no head": "nc: 3\nbackbone:\n  - [-1, 1, Conv, [8, 3, 2]]\n",
    "unknown block": (
        "nc: 3\nbackbone:\n  - [-1, 1, Konv, [8, 3, 2]]\nhead:\n  - [-1, 1, Detect, [nc]]\n"
    ),
    "broken": "nc: [\n",
    "no detector": (
        "nc: 3\nbackbone:\n  - [-1, 1, Conv, [8, 3, 2]]\nhead:\n  - [-1, 1, Conv, [8, 3, 2]]\n"
    ),
}


@pytest.mark.parametrize("text", BAD_YAMLS.values(), ids=BAD_YAMLS.keys())
def test_a_bad_yaml_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(CompressError, match=r"bad\.yaml"):
        build_model(file, NAMES, seed=0)


def test_a_missing_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match=r"none\.yaml"):
        build_model(tmp_path / "none.yaml", NAMES, seed=0)


@pytest.mark.parametrize("name", ["yolo26n-sem", "yolo26n-depth", "yolov8-rtdetr", "yolov8n-world"])
def test_heads_of_no_known_task_are_refused(name: str) -> None:
    with pytest.raises(CompressError, match=rf"{name}\.yaml: The model's last layer is"):
        build_model(Path(f"{name}.yaml"), NAMES, seed=0)
