"""From an experiment's config to its network."""

from __future__ import annotations

from torch import nn

from data_modules.errors import UserError
from iac_lightning.models.cnn import PlannedUNet, plan_cnn
from iac_lightning.models.decoders import ViTSegmenter, build_decoder
from iac_lightning.models.mae import MaskedAutoencoder
from iac_lightning.models.vit import PRESETS, ViTEncoder
from iac_lightning.schema import ExperimentConfig


def build_encoder(config: ExperimentConfig) -> ViTEncoder:
    """The ViT encoder of an experiment: its preset, with what the config overrides."""
    vit = config.model.vit
    if vit.preset not in PRESETS:
        raise UserError(f"model.vit.preset is {vit.preset!r}. Choose one of {', '.join(PRESETS)}.")
    dim, depth, heads = PRESETS[vit.preset]
    return ViTEncoder(
        crop=config.data.sampling.crop,
        patch_size=vit.patch_size,
        dim=vit.dim or dim,
        depth=vit.depth or depth,
        heads=vit.heads or heads,
        mlp_ratio=vit.mlp_ratio,
        drop_path=vit.drop_path,
        activation_checkpointing=vit.activation_checkpointing,
    )


def build_model(config: ExperimentConfig) -> nn.Module:
    """The network of an experiment, for images with one channel and one output channel.

    Returns:
        `MaskedAutoencoder` for pre-training; `ViTSegmenter` or `PlannedUNet` for segmentation, whose last biases start
        at ``model.output_bias``.

    Raises:
        UserError: for settings that do not go together.
    """
    model = config.model
    if config.task == "pretrain":
        if model.name != "vit":
            raise UserError(f"task is pretrain, but model.name is {model.name!r}: only `vit` is pre-trained. Set it.")
        return MaskedAutoencoder(
            build_encoder(config),
            mask_ratio=model.mae.mask_ratio,
            decoder_dim=model.mae.decoder_dim,
            decoder_depth=model.mae.decoder_depth,
            decoder_heads=model.mae.decoder_heads,
            mlp_ratio=model.vit.mlp_ratio,
            normalise_targets=model.mae.normalise_targets,
        )
    network: ViTSegmenter | PlannedUNet
    if model.name == "vit":
        encoder = build_encoder(config)
        settings = model.decoder
        decoder = build_decoder(
            settings.name, settings.upsampling, encoder, channels=settings.channels, max_channels=settings.max_channels
        )
        network = ViTSegmenter(encoder, decoder)
    elif model.name == "cnn":
        cnn = model.cnn
        plan = plan_cnn(
            config.data.sampling.crop,
            config.data.grid.spacing_mm,
            base_features=cnn.base_features,
            max_features=cnn.max_features,
            max_stages=cnn.max_stages,
            encoder=cnn.encoder,
        )
        network = PlannedUNet(plan, deep_supervision=cnn.deep_supervision)
    else:
        raise UserError(f"model.name is {model.name!r}. Choose vit or cnn.")
    set_output_bias(network, model.output_bias)
    return network


def set_output_bias(network: ViTSegmenter | PlannedUNet, bias: float) -> None:
    """Start every output at a logit of `bias`: lesions are rare, and so the first loss is not spent on saying so."""
    heads = [network.decoder.head] if isinstance(network, ViTSegmenter) else network.heads
    for head in heads:
        assert isinstance(head, nn.Linear | nn.Conv3d)
        assert head.bias is not None
        nn.init.constant_(head.bias, bias)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
