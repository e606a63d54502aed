"""Controls of a trained ViT: the same network without what its tokens say, or without what attention mixes.

A network that segments as well under a control owes nothing to what the control takes away. Weights, image and the
convolutional parts of the decoder stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn

from iac_lightning.models.decoders import ViTSegmenter
from iac_lightning.models.vit import Encoded
from iac_lightning.models.vit_blocks import Attention


@contextmanager
def mean_tokens(network: nn.Module) -> Iterator[None]:
    """Every token that a decoder gets is the mean of all tokens of its crop, features of earlier blocks too.

    What is left goes round the tokens: the image, and the tokeniser's feature maps where the decoder takes them.

    Args:
        network: a `ViTSegmenter`, or a network of several.
    """
    hooks = [vit.encoder.register_forward_hook(_average) for vit in _vits(network)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def silenced_attention(network: nn.Module) -> Iterator[None]:
    """In every block of the encoder each token attends to itself alone, so that no token hears of another.

    Args:
        network: a `ViTSegmenter`, or a network of several.
    """
    layers = _attentions(network)
    before = [layer.silenced for layer in layers]
    try:
        for layer in layers:
            layer.silenced = True
        yield
    finally:
        for layer, silenced in zip(layers, before, strict=True):
            layer.silenced = silenced


CONTROLS: Mapping[str, Callable[[nn.Module], AbstractContextManager[None]]] = {
    "mean_tokens": mean_tokens,
    "silenced_attention": silenced_attention,
}
"""Within each of them the network predicts so."""


def controls_of(network: nn.Module) -> tuple[str, ...]:
    """The controls that say something of a network: none of a CNN, and no attention of a ViT without blocks."""
    return tuple(
        name for name, parts in (("mean_tokens", _vits(network)), ("silenced_attention", _attentions(network))) if parts
    )


def _average(encoder: nn.Module, args: tuple[Any, ...], output: Encoded) -> Encoded:
    """What the encoder gives, with each crop's mean in every token's place."""
    return output._replace(tokens=_mean(output.tokens), features=[_mean(feature) for feature in output.features])


def _mean(tokens: Tensor) -> Tensor:
    return tokens.mean(dim=1, keepdim=True).expand_as(tokens)


def _vits(network: nn.Module) -> list[ViTSegmenter]:
    return [module for module in network.modules() if isinstance(module, ViTSegmenter)]


def _attentions(network: nn.Module) -> list[Attention]:
    return [module for vit in _vits(network) for module in vit.encoder.modules() if isinstance(module, Attention)]
