"""Bridges: what they compute, what of them is trained, and that teachers stay out of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from drawn_outputs import draw
from torch import Tensor, nn

from compress.distill.bridges import ContextBlock, CrossHead, Generator, projector, relation
from compress.distill.losses.outputs import crosskd
from compress.models.inspect import head_branches
from compress.models.raw_outputs import RawOutputs, raw_outputs


def woken(module: nn.Module) -> nn.Module:
    """All weights random, also those that start at 0."""
    for index, parameter in enumerate(module.parameters()):
        nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(index))
    return module


def assert_all_trained(module: nn.Module, value: Tensor) -> None:
    value.sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_projector_is_a_convolution_only_where_widths_differ() -> None:
    features = draw(2, 4, 3, 3)
    assert projector(4, 4)(features) is features
    layer = projector(4, 6)
    mixed = layer(features)
    assert mixed.shape == (2, 6, 3, 3)
    alone = layer(features[:1, :, 1:2, 2:3])
    assert torch.allclose(mixed[:1, :, 1:2, 2:3], alone, atol=1e-6)  # no position sees another
    assert_all_trained(layer, mixed.square())


def test_a_generator_that_hides_nothing_is_two_convolutions() -> None:
    generator, features = Generator(4, masked=0.0), draw(2, 4, 5, 6)
    first, _, second = generator.layers
    assert torch.equal(generator(features), second(first(features).relu()))
    assert first.kernel_size == second.kernel_size == (3, 3)


def test_a_generator_is_trained_as_a_whole() -> None:
    generator = Generator(4, masked=0.3)
    assert len(list(generator.parameters())) == 4
    assert_all_trained(generator, generator(draw(2, 4, 8, 8)).square())


def test_a_context_block_starts_as_the_identity_and_is_trained_as_a_whole() -> None:
    block, features = ContextBlock(6), draw(2, 6, 4, 5)
    assert torch.equal(block(features), features)
    assert_all_trained(woken(block), block(features).square())


def test_a_context_block_adds_the_same_to_all_positions() -> None:
    block, features = woken(ContextBlock(6)), draw(2, 6, 4, 5)
    weights = (features * block.attention.weight[0]).sum(1)
    shares = weights.flatten(1).softmax(1).reshape(2, 1, 4, 5)
    expected = block.transform((features * shares).sum((2, 3)))
    added = (block(features) - features).detach()
    assert torch.allclose(added, expected[..., None, None].expand_as(added), atol=1e-5)
    assert added.abs().max() > 0.1


def test_a_context_block_of_one_channel_works() -> None:
    assert ContextBlock(1)(draw(1, 1, 2, 2)).shape == (1, 1, 2, 2)


def test_the_relation_is_one_value_an_image_and_trains_both_blocks() -> None:
    ours, theirs = woken(ContextBlock(8)), woken(ContextBlock(8))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(1.5)
    student, teacher = draw(3, 8, 5, 5), draw(3, 8, 5, 5, seed=1)
    value = relation(ours(student), theirs(teacher))
    expected = [
        (a - b).square().mean() for a, b in zip(ours(student), theirs(teacher), strict=True)
    ]
    assert torch.allclose(value, torch.stack(expected))
    assert relation(ours(student), ours(student)).tolist() == [0.0, 0.0, 0.0]
    value.sum().backward()
    for block in (ours, theirs):
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in block.parameters())
    half = relation(student.half(), teacher.half())
    assert half.dtype == torch.float32
    assert torch.equal(half, relation(student.half().float(), teacher.half().float()))


# ---- CrossKD

_SIZES = ((4, 5), (2, 3))


def last_layers(widths: Sequence[int], outputs: int) -> list[nn.Module]:
    return [woken(nn.Conv2d(width, outputs, 1)) for width in widths]


def hidden_maps(widths: Sequence[int], seed: int = 0) -> list[Tensor]:
    pairs = zip(widths, _SIZES, strict=True)
    return [draw(2, w, *size, seed=seed + i) for i, (w, size) in enumerate(pairs)]


def cross_head(
    ours: Sequence[int], theirs: Sequence[int]
) -> tuple[CrossHead, list[nn.Module], list[nn.Module]]:
    """3 classes and 2 bins on two levels of these widths, and the teacher's own layers."""
    classes, boxes = last_layers(theirs, 3), last_layers(theirs, 8)
    head = CrossHead(
        list(zip(ours, theirs, classes, strict=True)), list(zip(ours, theirs, boxes, strict=True))
    )
    return head, classes, boxes


def test_equal_widths_go_through_the_teachers_layers_as_they_are() -> None:
    head, classes, boxes = cross_head((4, 6), (4, 6))
    for_classes, for_boxes = hidden_maps((4, 6)), hidden_maps((4, 6), seed=9)
    scores, logits = head(for_classes, for_boxes)
    assert scores.shape == (2, 3, 4 * 5 + 2 * 3)
    assert logits.shape == (2, 8, 4 * 5 + 2 * 3)
    for found, layers, maps in ((scores, classes, for_classes), (logits, boxes, for_boxes)):
        levels = [layer(level).flatten(2) for layer, level in zip(layers, maps, strict=True)]
        assert torch.equal(found, torch.cat(levels, 2))
    assert list(head.parameters()) == []


def test_only_the_projectors_belong_to_the_head() -> None:
    head, classes, boxes = cross_head((2, 3), (4, 6))
    kept = {id(parameter) for layer in (*classes, *boxes) for parameter in layer.parameters()}
    shapes = [tuple(p.shape) for p in head.parameters() if p.ndim == 4]
    assert shapes == [(4, 2, 1, 1), (6, 3, 1, 1)] * 2
    assert kept.isdisjoint(id(parameter) for parameter in head.parameters())
    assert len(head.state_dict()) == 8
    assert not any(layer in list(head.modules()) for layer in (*classes, *boxes))


@pytest.mark.parametrize("teacher_is_trained", [False, True])
def test_the_gradient_passes_the_teachers_layers_and_leaves_them_alone(
    teacher_is_trained: bool,
) -> None:
    head, classes, boxes = cross_head((2, 3), (4, 6))
    for layer in (*classes, *boxes):
        layer.requires_grad_(teacher_is_trained)
    maps = [level.requires_grad_(True) for level in hidden_maps((2, 3))]
    scores, logits = head(maps, maps)
    (scores.square().sum() + logits.square().sum()).backward()
    for trained in (*maps, *head.parameters()):
        assert trained.grad is not None
        assert trained.grad.abs().max() > 0
    for layer in (*classes, *boxes):
        assert all(parameter.grad is None for parameter in layer.parameters())
        assert all(p.requires_grad == teacher_is_trained for p in layer.parameters())


def test_the_teachers_layers_are_read_anew_each_time() -> None:
    head, classes, _ = cross_head((4, 6), (4, 6))
    before = head(hidden_maps((4, 6)), hidden_maps((4, 6)))[0]
    with torch.no_grad():
        classes[0].bias.add_(1.0)
    after = head(hidden_maps((4, 6)), hidden_maps((4, 6)))[0]
    assert torch.allclose(after[..., :20], before[..., :20] + 1, atol=1e-5)
    assert torch.equal(after[..., 20:], before[..., 20:])


def test_a_level_too_few_is_an_error() -> None:
    head, _, _ = cross_head((4, 6), (4, 6))
    with pytest.raises(ValueError, match="zip"):
        head(hidden_maps((4, 6))[:1], hidden_maps((4, 6)))


def test_projectors_learn_to_make_the_teachers_predictions() -> None:
    head, _, _ = cross_head((6, 6), (4, 5))
    teacher_head, _, _ = cross_head((4, 5), (4, 5))
    for_classes, for_boxes = hidden_maps((4, 5)), hidden_maps((4, 5), seed=9)
    scores, boxes = teacher_head(for_classes, for_boxes)
    cells = scores.shape[2]
    teacher = RawOutputs(scores, boxes, 2, torch.zeros(cells, 2), torch.full((cells,), 8.0))
    ours = (
        [torch.cat([level, level[:, :1], level[:, :1]], 1)[:, :6] for level in for_classes],
        [torch.cat([level, level[:, :1], level[:, :1]], 1)[:, :6] for level in for_boxes],
    )

    def loss() -> Tensor:
        scores, boxes = head(*ours)
        return crosskd(
            RawOutputs(scores, boxes, 2, teacher.points, teacher.strides), teacher
        ).mean()

    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    first = loss().item()
    for _ in range(150):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
    assert value.item() < 0.1 * first


def test_a_nets_own_hidden_features_give_its_own_outputs(net: nn.Module) -> None:
    branches = [pair for _, pair in sorted(head_branches(net).items())]
    modules, kept = dict(net.named_modules()), {}
    handles = [
        modules[branch.hidden].register_forward_hook(
            lambda _module, _inputs, output, name=branch.hidden: kept.__setitem__(name, output)
        )
        for pair in branches
        for branch in pair
    ]
    with torch.no_grad():
        outputs = raw_outputs(net, net(draw(2, 3, 64, 64)))
    for handle in handles:
        handle.remove()

    def levels(branch: int) -> list[tuple[int, int, nn.Module]]:
        lasts = [pair[branch].last for pair in branches]
        return [(last.in_channels, last.in_channels, last) for last in lasts]

    head = CrossHead(classes=levels(1), boxes=levels(0))
    scores, boxes = head(
        [kept[pair[1].hidden] for pair in branches], [kept[pair[0].hidden] for pair in branches]
    )
    assert torch.allclose(scores, outputs.scores, atol=1e-5)
    assert torch.allclose(boxes, outputs.boxes, atol=1e-5)
