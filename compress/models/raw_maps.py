"""What a head's last convolutions give, level by level, for devices that decode elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn
from ultralytics.nn.modules import Detect, Segment
from ultralytics.nn.modules.head import Segment26

PROTOTYPES = "prototypes"
# ultralytics' names of branches -> the outputs that they give
_OUTPUTS: Mapping[str, str] = MappingProxyType(
    {
        "box_head": "boxes",
        "cls_head": "scores",
        "mask_head": "masks",
        "pose_head": "keypoints",
        "angle_head": "angles",
    }
)
_KEYPOINTS_END = "kpts_head"  # YOLO26: the last convolutions behind the pose branch


class RawMaps:
    """Stands in for ``forward`` of one fused head: logits, no grid, no sigmoid, no bins summed.

    Gives each level's maps (1, channels, height, width) in the order of ``raw_names``.
    """

    def __init__(self, head: Detect) -> None:
        self.head = head

    def __call__(self, features: list[Tensor]) -> tuple[Tensor, ...]:
        """Maps of ``features``, one map (1, channels, height, width) a level."""
        branches = _branches(self.head)
        maps = []
        for level, feature in enumerate(features):
            for layers in branches.values():
                value = feature
                for layer in layers:
                    value = layer[level](value)
                maps.append(value)
        if isinstance(self.head, Segment):
            wide = isinstance(self.head, Segment26)
            maps.append(self.head.proto(features if wide else features[0]))
        return tuple(maps)


def raw_names(head: Detect) -> list[str]:
    """Names of what ``RawMaps`` gives: ``boxes_8``, ``scores_8`` ..., the number a stride."""
    names = [f"{name}_{int(stride)}" for stride in head.stride for name in _branches(head)]
    return [*names, PROTOTYPES] if isinstance(head, Segment) else names


def _branches(head: Detect) -> dict[str, list[nn.ModuleList]]:
    """Output -> what computes it, one after the other; of end-to-end heads the exported branch."""
    end_to_end = getattr(head, "one2one_cv2", None) is not None
    found = head.one2one if end_to_end else head.one2many
    branches = {name: [found[theirs]] for theirs, name in _OUTPUTS.items() if theirs in found}
    if _KEYPOINTS_END in found:
        branches["keypoints"].append(found[_KEYPOINTS_END])
    return branches
