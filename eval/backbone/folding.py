"""A frozen network without the batch normalisations that its convolutions can do themselves."""

import copy
from collections.abc import Callable, Sequence

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

_CLOSE = 1e-4  # of a map's norm; float32 rounding is a hundredth of that


@torch.no_grad()
def folded(model: nn.Module, run: Callable[[nn.Module], Sequence[Tensor]]) -> nn.Module:
    """Fold each batch normalisation that follows a convolution into it, which saves a pass over the features.

    Which follows which is seen while the network runs, so that no architecture needs to be known. The folded
    network is run as well, and is given up where its maps are not the same.

    Args:
        model: In evaluation mode; stays as it is.
        run: Feature maps of a given network for one and the same input, float32.

    Returns:
        A folded copy; or `model` itself, where there is nothing to fold or folding would change the maps.
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
    except Exception:  # code that reaches for the module that is gone, in whatever way
        return model
    same = all((a - b).norm() <= _CLOSE * a.norm() for a, b in zip(expected, found, strict=True))
    return network if same else model


def _watched(
    model: nn.Module, run: Callable[[nn.Module], Sequence[Tensor]], pairs: list[tuple[str, str]]
) -> Sequence[Tensor]:
    """Run a network; add to `pairs` the names of each convolution and the normalisation that its output goes into."""
    outputs: dict[int, tuple[str, Tensor]] = {}  # with the tensors, so that no address is used again
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
