"""The activations of a model's blocks: which have a SiLU, and another one in its place.

Plain ``torch.nn`` modules on ultralytics' own blocks, so that stock ultralytics loads the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy

from torch import nn

from compress.errors import CompressError
from compress.models.inspect import is_end_to_end, model_head
from export.patterns import matching_any

# by what recipes and model specs call them
ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
}
_NAMES = {kind: name for name, kind in ACTIVATIONS.items()}
_SHOWN = 5
_TWIN = "one2one_"  # the exported branches of end-to-end heads


def activations_of(model: nn.Module) -> dict[str, str]:
    """Name of each block -> its activation, a key of ``ACTIVATIONS``; other blocks are left out.

    A block is what has a convolution and an ``act`` behind it, such as ultralytics' Conv.
    """
    return {
        name: _NAMES[type(block.act)]
        for name, block in model.named_modules()
        if type(getattr(block, "act", None)) in _NAMES
    }


def set_activations(model: nn.Module, activations: Mapping[str, str]) -> None:
    """Give blocks of ``model`` activations of their own, in place.

    Ultralytics' blocks share one object, which stays as it is. Where all blocks end up with the
    same activation, the model's yaml says so: stock ultralytics builds a model anew to train it.

    Args:
        model: in stock classes.
        activations: name of a block -> a key of ``ACTIVATIONS``.

    Raises:
        CompressError: if a name is that of no block with a known activation.
    """
    known = activations_of(model)
    for name in activations:
        if name not in known:
            raise CompressError(f"the model has no block '{name}' whose activation is known")
    changed = {name: to for name, to in activations.items() if to != known[name]}
    for name, to in changed.items():
        block = model.get_submodule(name)
        block.act = ACTIVATIONS[to](inplace=block.act.inplace)
    kinds = {type(getattr(block, "act", nn.Identity())) for block in model.modules()}
    kinds.discard(nn.Identity)
    if changed and len(kinds) == 1:
        model.yaml["activation"] = f"torch.nn.{kinds.pop().__name__}()"


def with_activation(model: nn.Module, blocks: Sequence[str], to: str) -> nn.Module:
    """A copy of ``model`` whose ``blocks`` have the activation ``to``."""
    copy = deepcopy(model)
    set_activations(copy, dict.fromkeys(blocks, to))
    return copy


def silu_blocks(
    model: nn.Module, layers: Sequence[str] = ("*",), ignore: Sequence[str] = ()
) -> list[str]:
    """Names of the blocks with a SiLU that ``layers`` name and ``ignore`` does not.

    Args:
        model: in stock classes.
        layers: patterns of module names.
        ignore: patterns of module names.

    Raises:
        CompressError: if there is no such block, or a pattern matches none.
    """
    names = [name for name, kind in activations_of(model).items() if kind == "silu"]
    if not names:
        raise CompressError(
            "activation: no block of the model has a SiLU, so there is nothing to swap (it has "
            f"{', '.join(sorted(set(activations_of(model).values()))) or 'no activation known'}). "
            "Leave the stage out."
        )
    named = _named(names, layers, "layers")
    ignored = _named(names, ignore, "ignore")
    found = [name for name in names if name in named - ignored]
    if not found:
        raise CompressError("activation: `ignore` names all that `layers` does: nothing is left.")
    return found


def _named(names: Sequence[str], patterns: Sequence[str], where: str) -> set[str]:
    shown = ", ".join([*names[:_SHOWN], *names[-1:]])
    return matching_any(
        names,
        patterns,
        lambda pattern: CompressError(
            f"activation: `{where}`: '{pattern}' matches no block with a SiLU. Names look like "
            f"{shown}; '*' matches any text."
        ),
    )


def exported_block(model: nn.Module, block: str) -> str:
    """The block that runs in place of ``block`` once ``model`` is exported.

    Itself, but for branches of an end-to-end head that only training uses: those have a twin.
    """
    if not is_end_to_end(model):
        return block
    head = next(name for name, module in model.named_modules() if module is model_head(model))
    twin = f"{head}.{_TWIN}{block.removeprefix(f'{head}.')}"
    return twin if twin in dict(model.named_modules()) else block
