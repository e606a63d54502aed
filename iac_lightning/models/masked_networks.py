"""Whole segmentation networks as masked autoencoders: what they learn is taken over but for their last layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iac_lightning.models.cnn import PlannedUNet
from iac_lightning.models.decoders import ViTSegmenter
from iac_lightning.models.restoring import MAEOutput, Restorer
from iac_lightning.models.sparse import visible_at
from iac_lightning.models.vit_tokens import token_grid


class MaskedUNet(Restorer):
    """The planned U-Net restores hidden patches of the image.

    Sparse, its encoder leaves hidden places empty at every resolution, and a learned vector a level fills them before
    the decoder (SparK). Dense, a learned value stands in the image where it is hidden, and the encoder knows nothing of
    it.

    Args:
        network: without deep supervision, of as many output as input channels; its names in the state start with
            ``network.``.
        crop: voxels along x, y, z.
        patch_size: voxels of a patch that is hidden or visible as a whole.
        sparse: which of the two.
        in_channels: of the image.
        mask_ratio: see `Restorer`.
        normalise_targets: see `Restorer`.
        target_floor: see `Restorer`.
    """

    def __init__(
        self,
        network: PlannedUNet,
        crop: Sequence[int],
        patch_size: Sequence[int],
        *,
        sparse: bool,
        in_channels: int = 1,
        mask_ratio: float = 0.75,
        normalise_targets: bool = False,
        target_floor: float = 0.05,
    ) -> None:
        super().__init__(
            token_grid(crop, patch_size),
            patch_size,
            mask_ratio=mask_ratio,
            normalise_targets=normalise_targets,
            target_floor=target_floor,
        )
        self.network = network
        self.sparse = sparse
        widths = network.plan.features if sparse else [in_channels]
        self.mask_values = nn.ParameterList(torch.zeros(width) for width in widths)

    def forward(
        self,
        image: Tensor,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> MAEOutput:
        """Hide, restore; arguments as of `MaskedAutoencoder`."""
        patches, _, hidden, visible = self.hide_voxels(image, generator, noise)
        if self.sparse:
            skips = self.network.encode(image * visible, condition, visible)
            filled = [self._filled(x, visible, value) for x, value in zip(skips, self.mask_values, strict=True)]
        else:
            filled = self.network.encode(self._filled(image, visible, self.mask_values[0]), condition)
        restored = self.network.decode(filled, condition)
        assert isinstance(restored, Tensor)
        return self.compared(restored, patches, hidden)

    @staticmethod
    def _filled(x: Tensor, visible: Tensor, value: Tensor) -> Tensor:
        seen = visible_at(visible, x).to(x.dtype)
        return x * seen + value[:, None, None, None] * (1 - seen)

    def token_features(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        """Mean over each patch of the deepest features of the encoder that are no coarser than a patch."""
        skips = self.network.encode(image, condition)
        fine = [x for x in skips if all(n >= g for n, g in zip(x.shape[2:], self.grid, strict=True))]
        return F.adaptive_avg_pool3d(fine[-1].float(), self.grid).flatten(2).transpose(1, 2)


class MaskedSegmenter(Restorer):
    """The segmentation network restores hidden patches: its encoder sees the visible tokens, its decoder all places.

    A learned vector stands where a token is hidden, one for each feature that the decoder wants. What else the decoder
    is handed (the image, features of the conv tokeniser) is empty there.

    Args:
        network: without deep supervision, of as many output as input channels.
        mask_ratio: see `Restorer`.
        normalise_targets: see `Restorer`.
        target_floor: see `Restorer`.

    Attributes:
        encoder: of the network; names in the state start with ``encoder.``, as in the network itself.
        decoder: likewise.
    """

    def __init__(
        self,
        network: ViTSegmenter,
        *,
        mask_ratio: float = 0.75,
        normalise_targets: bool = False,
        target_floor: float = 0.05,
    ) -> None:
        super().__init__(
            network.encoder.grid,
            network.encoder.patch_size,
            mask_ratio=mask_ratio,
            normalise_targets=normalise_targets,
            target_floor=target_floor,
        )
        self.encoder, self.decoder = network.encoder, network.decoder
        n_features = len(self.decoder.depths) + 1
        self.mask_tokens = nn.ParameterList(0.02 * torch.randn(self.encoder.dim) for _ in range(n_features))

    def forward(
        self,
        image: Tensor,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> MAEOutput:
        """Hide, restore; arguments as of `MaskedAutoencoder`."""
        patches, keep, hidden, visible = self.hide_voxels(image, generator, noise)
        encoded = self.encoder(image, keep, self.decoder.depths, condition)
        features = [
            self._everywhere(x, keep, token)
            for x, token in zip([*encoded.features, encoded.tokens], self.mask_tokens, strict=True)
        ]
        restored: Tensor = self.decoder(image * visible, features, encoded.details, condition)
        return self.compared(restored, patches, hidden)

    def _everywhere(self, tokens: Tensor, keep: Tensor, mask_token: Tensor) -> Tensor:
        """Visible tokens `[B, K, D]` at their places, the mask token at all others: `[B, N, D]`."""
        everywhere = mask_token.to(tokens.dtype).expand(len(tokens), self.n_tokens, -1)
        return everywhere.scatter(1, keep[..., None].expand_as(tokens), tokens)

    def token_features(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        """What the encoder says of each token of an image that it sees whole."""
        tokens: Tensor = self.encoder(image, condition=condition).tokens
        return tokens
