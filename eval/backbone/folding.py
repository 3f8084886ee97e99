"""Fold the batch normalisations of a frozen network into its convolutions."""

import copy
from collections.abc import Callable, Sequence

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

_TOLERANCE = 1e-4  # relative to a map's norm; float32 rounding is a hundredth of that


@torch.no_grad()
def folded(model: nn.Module, run: Callable[[nn.Module], Sequence[Tensor]]) -> nn.Module:
    """Fold each batch normalisation that follows a convolution into it, which saves a pass over the features.

    The pairs are found by watching the network run, so this works for any architecture. The folded network is then
    run, too, and discarded if its maps differ.

    Args:
        model: In evaluation mode; not modified.
        run: Returns the feature maps, float32, of a given network for a fixed input.

    Returns:
        A folded copy, or `model` itself if there is nothing to fold or folding would change the maps.
    """
    pairs: list[tuple[str, str]] = []
    expected = _watched(model, run, pairs)
    if not pairs:
        return model
    network = copy.deepcopy(model)
    for convolution, norm in pairs:
        _fold(network, convolution, norm)
    try:
        found = run(network)
    except Exception:  # the architecture's code may use the removed module in any way
        return model
    same = all((a - b).norm() <= _TOLERANCE * a.norm() for a, b in zip(expected, found, strict=True))
    return network if same else model


def _watched(
    model: nn.Module, run: Callable[[nn.Module], Sequence[Tensor]], pairs: list[tuple[str, str]]
) -> Sequence[Tensor]:
    """Run a network; add to `pairs` the names of each convolution and of the normalisation that receives its output."""
    outputs: dict[int, tuple[str, Tensor]] = {}  # keeps the tensors, so that no id is reused
    hooks = []

    def remember(name: str, output: Tensor) -> None:
        outputs[id(output)] = (name, output)

    def look_up(name: str, given: Tensor) -> None:
        if id(given) in outputs:
            pairs.append((outputs[id(given)][0], name))

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(lambda _, given, output, name=name: remember(name, output)))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(lambda _, given, name=name: look_up(name, given[0])))
    try:
        return run(model)
    finally:
        for hook in hooks:
            hook.remove()


def _fold(network: nn.Module, convolution: str, norm: str) -> None:
    conv, old = network.get_submodule(convolution), network.get_submodule(norm)
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, old.running_mean, old.running_var, old.eps, old.weight, old.bias
    )
    rest = nn.Sequential(old.drop, old.act) if isinstance(old, BatchNormAct2d) else nn.Identity()
    network.set_submodule(norm, rest)
