"""From an experiment's config to its network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from iac_lightning.config.batching import processes
from iac_lightning.config.cnn_plan import plan_cnn
from iac_lightning.config.model_schema import resolved_mlp_ratio, resolved_vit
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.cnn import PlannedUNet
from iac_lightning.models.condition import Film, usual_condition
from iac_lightning.models.decoders import ViTSegmenter, build_decoder
from iac_lightning.models.mae import MaskedAutoencoder
from iac_lightning.models.masked_networks import MaskedSegmenter, MaskedUNet
from iac_lightning.models.restoring import Restorer
from iac_lightning.models.rule import PlaceRule
from iac_lightning.models.vit import ViTEncoder
from iac_lightning.models.vit_blocks import Block


def build_encoder(config: ExperimentConfig) -> ViTEncoder:
    """The ViT encoder of an experiment: its preset, with what the config overrides."""
    vit = config.model.vit
    dim, depth, heads = resolved_vit(vit)
    return ViTEncoder(
        crop=config.data.sampling.crop,
        patch_size=vit.patch_size,
        dim=dim,
        depth=depth,
        heads=heads,
        mlp_ratio=resolved_mlp_ratio(vit),
        drop_path=vit.drop_path,
        activation_checkpointing=vit.activation_checkpointing,
        tokeniser=vit.tokeniser,
        tokeniser_channels=vit.tokeniser_channels,
        position=vit.position,
        mlp=vit.mlp,
        layer_scale=vit.layer_scale,
        qk_norm=vit.qk_norm,
        inner_norm=vit.inner_norm,
        registers=vit.registers,
        initialisation=vit.initialisation,
        condition_on=config.model.condition_on,
    )


def build_model(config: ExperimentConfig) -> nn.Module:
    """The network of an experiment, for images with one channel and one output channel.

    Returns:
        A `Restorer` for pre-training; `ViTSegmenter` or `PlannedUNet` for segmentation, whose last biases start at
        ``model.output_bias``; `PlaceRule`, before it has counted.

    Raises:
        ValueError: for settings that do not go together, which `config.checks` has refused before.
    """
    if config.task == "pretrain":
        return build_restorer(config)
    if config.model.name == "rule":
        grid = config.data.grid
        return PlaceRule(grid.region, grid.spacing_mm, config.data.window_hu, config.model.rule.threshold_hu)
    network = build_segmenter(config)
    set_output_bias(network, config.model.output_bias)
    return network


def build_segmenter(config: ExperimentConfig) -> ViTSegmenter | PlannedUNet:
    """The network that segments, with one output channel.

    Raises:
        ValueError: for settings that do not go together, which `config.checks` has refused before.
    """
    model = config.model
    if model.name == "vit":
        encoder = build_encoder(config)
        return ViTSegmenter(encoder, build_decoder(model.decoder, encoder))
    if model.name == "cnn":
        cnn = model.cnn
        plan = plan_cnn(
            config.data.sampling.crop,
            config.data.grid.spacing_mm,
            base_features=cnn.base_features,
            max_features=cnn.max_features,
            max_stages=cnn.max_stages,
            encoder=cnn.encoder,
        )
        return PlannedUNet(
            plan,
            deep_supervision=cnn.deep_supervision,
            activation_checkpointing=cnn.activation_checkpointing,
            condition_on=model.condition_on,
        )
    raise ValueError(f"there is no network {model.name!r}")


def build_restorer(config: ExperimentConfig) -> Restorer:
    """The network of a pre-training, which restores the channel of its image."""
    model, mae = config.model, config.model.mae
    shared: dict[str, Any] = {
        "mask_ratio": mae.mask_ratio,
        "normalise_targets": mae.normalise_targets,
        "target_floor": target_floor(config),
    }
    if model.name == "vit" and mae.pretrain == "encoder":
        return MaskedAutoencoder(
            build_encoder(config),
            decoder_dim=mae.decoder_dim,
            decoder_depth=mae.decoder_depth,
            decoder_heads=mae.decoder_heads,
            mlp_ratio=model.vit.mlp_ratio or 4.0,
            **shared,
        )
    one_output = replace(
        model,
        cnn=replace(model.cnn, deep_supervision=False),
        decoder=replace(model.decoder, deep_supervision=False),
    )
    network = build_segmenter(replace(config, model=one_output))
    if isinstance(network, ViTSegmenter):
        return MaskedSegmenter(network, **shared)
    return MaskedUNet(network, config.data.sampling.crop, model.vit.patch_size, sparse=mae.sparse, **shared)


def target_floor(config: ExperimentConfig) -> float:
    """`model.mae.target_floor_hu` in the units of the image, where the window is 2 wide."""
    low, high = config.data.window_hu
    return config.model.mae.target_floor_hu * 2 / (high - low)


def memory_format(config: ExperimentConfig) -> torch.memory_format:
    """How the weights of convolutions lie in memory.

    With the channels innermost, convolutions over few channels are faster on a CPU (a step of the ViT's decoder by a
    quarter, of the CNN by a tenth). On a GPU the CNN's are not: its norms undo it at every block. FSDP, resumed, would
    give such weights the optimiser's moments in another order than it saved them.
    """
    trainer = config.trainer
    on_cuda = torch.cuda.is_available() and trainer.accelerator in ("auto", "gpu", "cuda")
    contiguous = trainer.strategy.startswith("fsdp") or (on_cuda and config.model.name == "cnn")
    return torch.contiguous_format if contiguous else torch.channels_last_3d


def set_output_bias(network: ViTSegmenter | PlannedUNet, bias: float) -> None:
    """Start every output at a logit of `bias`: lesions are rare, and so the first loss is not spent on saying so."""
    heads = network.decoder.heads if isinstance(network, ViTSegmenter) else network.heads
    for head in heads:
        assert isinstance(head, nn.Linear | nn.Conv3d)
        assert head.bias is not None
        nn.init.constant_(head.bias, bias)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def model_summary(config: ExperimentConfig) -> str:
    """What an experiment's network is and needs, as text, without allocating or computing it.

    The parts with the shapes that leave them and their parameters; tokens or the CNN's plan; and an estimate of the
    memory of a training step on one device: what the backward pass keeps in the precision of the training (see
    `activation_bytes`), and weights, gradients and the optimiser's moments in float32, of which FSDP gives each device
    its part. Workspaces of single operations come on top.

    Raises:
        ValueError: as `build_model`.
    """
    if config.model.name == "rule":
        places = " × ".join(map(str, config.data.grid.region))
        return (
            f"voxels of {config.model.rule.threshold_hu:g} HU and more, and a share for {places} places: counted once"
        )
    mixed = config.trainer.precision.endswith("-mixed")
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        model = build_model(config)
        image = torch.zeros(config.data.batch_size, 1, *config.data.sampling.crop)
        told = usual_condition(config.model.condition_on, len(image))
        rows = _part_rows(model, image, told)
        activations = activation_bytes(model, image, told)
    width = [max(len(row[c]) for row in rows) for c in range(3)]
    lines = [f"{a.ljust(width[0])}  {b.ljust(width[1])}  {c.rjust(width[2])}" for a, b, c in rows]
    lines += ["", f"parameters   {count_parameters(model):,}"]
    if told:
        films = [m for m in model.modules() if isinstance(m, Film)]
        by = f"; layers that it changes: {len(films)}, by {sum(map(count_parameters, films)):,} of these parameters"
        lines.append(f"told         {', '.join(config.model.condition_on)}, in mm{by if films else ''}")
    tokens = model if isinstance(model, Restorer) else getattr(model, "encoder", None)
    if isinstance(tokens, ViTEncoder | Restorer):
        grid, patch = (" × ".join(map(str, t)) for t in (tokens.grid, tokens.patch_size))
        hidden = f", {tokens.n_hidden} hidden" if isinstance(tokens, Restorer) else ""
        name = "patches" if isinstance(model, MaskedUNet) else "tokens"
        lines.append(f"{name.ljust(12)} {grid} = {tokens.n_tokens} of {patch} voxels{hidden}")
    copies = {"adamw": 4, "sgd": 3}[config.optimizer.name] + (config.optimizer.ema_decay > 0)
    state = copies * 4 * count_parameters(model)
    sharded = processes(config) if config.trainer.strategy.startswith("fsdp") else 1
    mib = 2**20
    lines.append(
        f"memory       about {(activations + state / sharded) / mib:,.0f} MiB a device and training step (batch of "
        f"{len(image)}, {config.trainer.precision}): {activations / mib:,.0f} kept for the backward pass, "
        f"{state / sharded / mib:,.0f} weights and optimiser" + (f" (of {state / mib:,.0f})" if sharded > 1 else "")
    )
    unet = model.network if isinstance(model, MaskedUNet) else model
    if isinstance(unet, PlannedUNet):
        lines += ["", str(unet.plan)]
    return "\n".join(lines)


def activation_bytes(model: nn.Module, image: Tensor, told: Mapping[str, Tensor] | None = None) -> int:
    """Bytes that the backward pass of one training step keeps: every tensor saved by autograd, each storage once.

    With activation checkpointing: what is saved outside transformer blocks (a CNN's stages), the inputs of all blocks,
    and the inside of the largest. Works on fake tensors, which hold no data.
    """
    unet = model.network if isinstance(model, MaskedUNet) else model
    owner = unet if isinstance(unet, PlannedUNet) else getattr(model, "encoder", None)
    blocks: list[nn.Module] = []
    if isinstance(owner, ViTEncoder | PlannedUNet) and owner.activation_checkpointing:
        if isinstance(owner, PlannedUNet):
            blocks = [*owner.encoder_stages, *owner.decoder_stages]
        else:
            blocks = [m for m in model.modules() if isinstance(m, Block)]
        owner.activation_checkpointing = False
    seen: dict[int, torch.UntypedStorage] = {
        s._cdata: s for s in (t.untyped_storage() for t in (*model.parameters(), *model.buffers()))
    }
    inside: dict[nn.Module | None, int] = {None: 0}
    inputs: dict[nn.Module, int] = {}
    current: list[nn.Module | None] = [None]

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen[storage._cdata] = storage
            inside[current[0]] = inside.get(current[0], 0) + storage.nbytes()
        return tensor

    def enter(block: nn.Module, args: tuple[Tensor, ...]) -> None:
        current[0] = block
        inputs[block] = args[0].nbytes

    def leave(block: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        current[0] = None

    hooks = [h for b in blocks for h in (b.register_forward_pre_hook(enter), b.register_forward_hook(leave))]
    training = model.training
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            kept = model.train()(image, **(told or {}))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
        if blocks:
            assert isinstance(owner, ViTEncoder | PlannedUNet)
            owner.activation_checkpointing = True
    del kept
    largest = max((inside.get(b, 0) for b in blocks), default=0)
    return inside[None] + sum(inputs.values()) + largest


def _part_rows(model: nn.Module, image: Tensor, told: Mapping[str, Tensor]) -> list[tuple[str, str, str]]:
    """Name, output shape and parameters of each part, in the order in which they run."""
    rows = [("part", "output", "parameters")]

    def remember(name: str, module: nn.Module, output: Tensor | tuple[Tensor, object]) -> None:
        shape = (output if isinstance(output, Tensor) else output[0]).shape
        rows.append((name, " × ".join(map(str, shape)), f"{count_parameters(module):,}"))

    hooks = [
        part.register_forward_hook(lambda module, _, output, name=name: remember(name, module, output))
        for name, part in _parts(model)
    ]
    training = model.training
    with torch.no_grad():
        model.train()(image, **told)
    model.train(training)
    for hook in hooks:
        hook.remove()
    return rows


def _parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The encoder as one part, everything else by the layers that a decoder or U-Net lists."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList) or (name in ("decoder", "network") and not prefix):
            yield from _parts(child, f"{prefix}{name}.")
        elif count_parameters(child):
            yield f"{prefix}{name}", child
