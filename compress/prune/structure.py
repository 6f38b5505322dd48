"""A model as channels that can be followed and taken out, and the way back to stock modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models.blocks.attributes import settle
from compress.models.blocks.expanded import Port
from compress.models.blocks.expansion import expand
from compress.models.blocks.tracing import traced_outputs
from compress.models.channels import channel_count, filters_first, keep_channels, kept_after
from compress.models.inspect import dfl_convs, head_outputs
from compress.prune.groups import DependencyGraph, TiedGroups
from compress.prune.ties import tie_groups
from export.patterns import matching

_CONVS = (nn.Conv2d, nn.ConvTranspose2d)


class PrunableModel:
    """A copy of a model in which channels can be followed and cut, and the way back.

    Attributes:
        work: the expanded copy; the same function as the model. Removing does not touch it.
        origin: convolution in ``work`` -> the model's convolution that it is, or is a piece of.
        units: what may be pruned.
        left_whole: block -> why its channels are not pruned, though nobody asked for that.
    """

    def __init__(self, model: nn.Module, ignore: Sequence[str] = ()) -> None:
        """Follow the channels of ``model``, which stays as it is.

        Args:
            model: a stock model, not fused.
            ignore: patterns of convolutions that keep all their outputs.

        Raises:
            CompressError: if a pattern matches nothing, or the architecture cannot be followed.
        """
        self._plain = deepcopy(model).float().eval()
        ends = head_outputs(self._plain)
        self.work = deepcopy(self._plain).requires_grad_(True)  # frozen layers are not traced
        self._expansion = expand(self.work)
        self.origin = {
            name: self._source(name)[0]
            for name, module in self.work.named_modules()
            if isinstance(module, _CONVS)
        }
        ignored = [name for pattern in ignore for name in self.matching(pattern)]
        self.units, self.left_whole = self._follow(ends, [*ends, *dfl_convs(self.work), *ignored])
        self._gone: dict[str, set[int]] = {g.root: set() for u in self.units for g in u.groups}

    def matching(self, pattern: str) -> list[str]:
        """Convolutions in ``work`` that are, or are pieces of, those that ``pattern`` names.

        Raises:
            CompressError: if it names none.
        """
        found = set(matching(sorted(set(self.origin.values())), pattern))
        if not found:
            raise CompressError(
                f"prune: pattern '{pattern}' matches no layer. Give names of convolutions such as "
                "'model.4.cv1.conv'; `*` matches any text."
            )
        return [name for name, origin in self.origin.items() if origin in found]

    def weights_of(self, model: nn.Module) -> dict[str, Tensor]:
        """Convolution in ``work`` -> its weight (out, in, kh, kw) as ``model`` has it.

        Gradients flow back into ``model``.

        Args:
            model: of the structure that this was made from; its weights may be gradients.
        """
        layers = dict(model.named_modules())
        weights = {}
        for name in self.origin:
            source, rows = self._source(name)
            weight = filters_first(layers[source])
            weights[name] = weight if rows is None else weight[rows]
        return weights

    def norm_scales_of(self, model: nn.Module) -> dict[str, Tensor]:
        """Convolution in ``work`` -> gamma (out,) of the BatchNorm behind it, if there is one."""
        layers = dict(model.named_modules())
        scales = {}
        for name in self.origin:
            source, rows = self._source(name)
            norm = layers.get(f"{source.rpartition('.')[0]}.bn")
            if isinstance(norm, nn.BatchNorm2d):
                gamma = norm.weight
                scales[name] = gamma if rows is None else gamma[rows]
        return scales

    def remove(self, root: str, channels: Sequence[int]) -> None:
        """Take ``channels`` (numbered as in the model) out of the group ``root``."""
        self._gone[root].update(channels)

    def plain(self) -> nn.Module:
        """The model without the removed channels, in stock classes.

        Raises:
            ValueError: if groups that are tied, or runs of one, did not lose equally many.
        """
        return self.without(self._gone)

    def without(self, channels: Mapping[str, Collection[int]]) -> nn.Module:
        """The model without ``channels`` (root -> channels) alone: a trial that removes nothing.

        Raises:
            ValueError: if groups that are tied, or runs of one, do not lose equally many.
        """
        removed = self._removed({root: channels.get(root, ()) for root in self._gone})
        model = deepcopy(self._plain)
        kept: dict[str, Tensor] = {}
        for name, layer in model.named_modules():
            inputs, outputs = (
                kept_after(channel_count(layer, side), removed[name, side])
                if (name, side) in removed
                else None
                for side in ("in", "out")
            )
            if inputs is not None or outputs is not None:
                keep_channels(layer, outputs, inputs)
            if outputs is not None:
                kept[name] = outputs
        settle(model, kept)
        return model

    def _removed(self, channels: Mapping[str, Collection[int]]) -> dict[Port, Tensor]:
        """(Layer of the model, side) -> its channels that go."""
        removed: dict[Port, list[Tensor]] = {}
        for unit in self.units:
            require_balance(unit, channels)
            for group in unit.groups:
                gone = torch.tensor(sorted(channels[group.root]), dtype=torch.int64)
                for member in (*group.members, *group.followers) if len(gone) else ():
                    positions = member.positions[torch.isin(member.channels, gone)]
                    source, rows = self._source(member.conv)
                    if rows is not None and member.side == "out":
                        positions = rows[positions]
                    removed.setdefault((source, member.side), []).append(positions)
        return {port: torch.cat(positions) for port, positions in removed.items()}

    def _source(self, name: str) -> tuple[str, Tensor | None]:
        """The model's layer behind a layer of ``work``, and its rows; None: all of them."""
        return self._expansion.origins.get(name, (name, None))

    def _follow(
        self, ends: Sequence[str], fixed: Sequence[str]
    ) -> tuple[tuple[TiedGroups, ...], Mapping[str, str]]:
        try:
            graph = DependencyGraph(self.work, lambda net, x: traced_outputs(net, x, ends))
            groups, tangled = graph.groups(fixed)
        except (RuntimeError, IndexError, KeyError, ValueError, AttributeError) as error:
            raise _unknown_architecture(self._plain, error) from error
        units, reasons = tie_groups(groups, self._expansion.ties, self._expansion.runs)
        left_whole = {port[0].rsplit(".", 2)[0]: reason for port, reason in reasons.items()}
        for group in tangled:
            left_whole[group.root.rsplit(".", 2)[0]] = "its channels are tied to one another"
        return units, left_whole


def require_balance(unit: TiedGroups, gone: Mapping[str, Collection[int]]) -> None:
    """Check that what is tied loses equally many.

    Args:
        unit: tied groups.
        gone: root -> channels to remove.

    Raises:
        ValueError: if groups, or runs of one group, lose different numbers of channels.
    """
    lost = {group.root: len(gone[group.root]) for group in unit.groups}
    if len(set(lost.values())) > 1:
        raise ValueError(f"tied groups lose different numbers of channels: {lost}")
    for group, parts in zip(unit.groups, unit.parts, strict=True):
        runs = Counter(channel * parts // group.width for channel in gone[group.root])
        if len(set(runs.values())) > 1 or len(runs) not in (0, parts):
            raise ValueError(f"runs of {group.root} lose different numbers of channels: {runs}")


def _unknown_architecture(model: nn.Module, error: Exception) -> CompressError:
    blocks = sorted({type(layer).__name__ for layer in model.get_submodule("model").children()})
    return CompressError(
        f"prune: channels of this architecture cannot be followed ({type(error).__name__}: "
        f"{error}). Its blocks: {', '.join(blocks)}. Give a model built of ultralytics' blocks, "
        "such as yolov8n or yolo11n."
    )
