"""Typed settings of the network. Plain dataclasses: importing this module imports neither torch nor Lightning."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_modules.config import CONDITIONS
from data_modules.settings import (
    ANY,
    AT_LEAST_ONE,
    POSITIVE,
    SHARE_BELOW_ONE,
    SHARE_INSIDE,
    SIZES,
    Rule,
    choice,
    setting,
)

VIT_PRESETS: dict[str, tuple[int, int, int]] = {"tiny": (216, 6, 3), "small": (432, 12, 6), "base": (864, 12, 12)}
"""Width of a token, number of blocks and attention heads of each preset. Heads are 72 wide: rotary embeddings of three
axes want a multiple of 6, flash attention one of 8."""

WIDTH = Rule(lambda v: 1 <= v <= 65536, "a whole number from 1 to 65536")
DEPTH = Rule(lambda v: 1 <= v <= 1000, "a whole number from 1 to 1000")
DEPTH_OR_NONE = Rule(lambda v: 0 <= v <= 1000, "a whole number from 0 to 1000")
MLP_RATIO = Rule(lambda v: 0 < v <= 64, "a number greater than 0, at most 64")
REGISTERS = Rule(lambda v: 0 <= v <= 1024, "a whole number from 0 to 1024")
CONVOLUTIONS = Rule(lambda v: 0 <= v <= 8, "a whole number from 0 to 8")
CONDITION_ON = Rule(
    lambda v: all(word in CONDITIONS for word in v) and len(set(v)) == len(v),
    f"some of {', '.join(CONDITIONS)}, each once",
)


@dataclass(kw_only=True)
class ViTConfig:
    """A 3D vision transformer encoder."""

    preset: str = choice("tiny", "small", "base")
    """Sizes to start from: tiny 216/6/3, small 432/12/6, base 864/12/12 (width / depth / heads)."""
    patch_size: tuple[int, int, int] = setting((8, 8, 4), SIZES)
    """Voxels a token covers along x, y, z; best about as long as wide in millimetres. A CNN that is pre-trained has
    them hidden as a whole too, so that both kinds of network restore the same."""
    dim: int | None = setting(None, WIDTH)
    """Width of a token; overrides the preset."""
    depth: int | None = setting(None, DEPTH_OR_NONE)
    """Number of transformer blocks; overrides the preset. 0: tokens go to the decoder as the tokeniser made them, the
    control of what the transformer is worth."""
    heads: int | None = setting(None, WIDTH)
    """Attention heads; overrides the preset."""
    tokeniser: str = choice("linear", "conv", default="conv")
    """linear: a token is a linear map of its voxels (Dosovitskiy et al. 2021); conv: residual convolutions that shrink
    the image step by step (PrimusV2, Wald et al. 2025)."""
    tokeniser_channels: int = setting(16, WIDTH)
    """Channels of the conv tokeniser at full resolution; each coarser level has twice as many, up to the token's."""
    position: str = choice("learned", "rope", "both", default="both")
    """How tokens know their place: a learned embedding, axial rotary embeddings in every attention (Su et al. 2021, in
    three axes as EVA-02 in two), or both (Primus)."""
    mlp: str = choice("gelu", "swiglu", default="swiglu")
    """gelu: two layers; swiglu: a gated one with a norm inside (Shazeer 2020; EVA-02, Fang et al. 2023)."""
    mlp_ratio: float | None = setting(None, MLP_RATIO)
    """Width of the MLP over the width of a token; null: 4, and 8/3 with swiglu, which has a third matrix."""
    layer_scale: float | None = setting(0.1, POSITIVE)
    """Start of the learned factor of each branch (LayerScale, Touvron et al. 2021); null: no factor."""
    qk_norm: bool = False
    """Normalise queries and keys of each head (Dehghani et al. 2023): steadier at high rates."""
    inner_norm: bool = False
    """Normalise what the heads give before it is projected (NormFormer, Shleifer et al. 2021; PrimusV3)."""
    registers: int = setting(0, REGISTERS)
    """Tokens of no place, for what concerns the whole crop (Darcet et al. 2024)."""
    initialisation: str = choice("xavier", "depth_scaled", default="depth_scaled")
    """xavier: as MAE; depth_scaled: normal of deviation 0.02, the last layer of branch k divided by √(2k) (BEiT)."""
    drop_path: float = setting(0.0, SHARE_BELOW_ONE)
    """Stochastic depth rate of the last block, in pre-training too; earlier blocks less, linearly."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""


def resolved_vit(vit: ViTConfig) -> tuple[int, int, int]:
    """Width, depth and attention heads: the preset's, where the settings do not override them."""
    dim, depth, heads = VIT_PRESETS[vit.preset]
    return vit.dim or dim, depth if vit.depth is None else vit.depth, vit.heads or heads


def resolved_mlp_ratio(vit: ViTConfig) -> float:
    """Width of an MLP over that of a token: what is set, or what gives both kinds as many weights."""
    return vit.mlp_ratio or (8 / 3 if vit.mlp == "swiglu" else 4.0)


@dataclass(kw_only=True)
class MAEConfig:
    """Pre-training by masking: what is hidden, who restores it, and what is compared."""

    mask_ratio: float = setting(0.75, SHARE_INSIDE)
    """Share of tokens that are hidden."""
    masking: str = choice("random", "blocks")
    """random: each token by itself; blocks: neighbours together, so that no visible one lies beside most of them."""
    mask_block_mm: float = setting(16.0, POSITIVE)
    """Edge of such a block."""
    pretrain: str = choice("encoder", "segmenter")
    """encoder: a light transformer restores what is hidden, and is thrown away (He et al. 2022); segmenter: the whole
    network with its decoder restores it, and all of it is taken over but the last layer."""
    decoder_dim: int = setting(96, WIDTH)
    """Width of the decoder."""
    decoder_depth: int = setting(2, DEPTH)
    """Blocks of the decoder that restores; with pretrain: encoder alone."""
    decoder_heads: int = setting(4, WIDTH)
    """Attention heads of the decoder."""
    normalise_targets: bool = False
    """Standardise each target patch before the loss (He et al. 2022, norm_pix_loss)."""
    target_floor_hu: float = setting(30.0, POSITIVE)
    """Least deviation that a target patch is divided by: without one, noise in air counts as much as bone."""
    sparse: bool = True
    """A CNN that is pre-trained keeps hidden places empty at every resolution (SparK, Tian et al. 2023; S3D); false:
    only in the image."""


@dataclass(kw_only=True)
class DecoderConfig:
    """From the encoder's features to voxel logits."""

    name: str = choice("linear", "progressive", "unetr", default="progressive")
    """linear: one projection to each patch's voxels; progressive: the last feature enlarged step by step;
    unetr: features of several depths as skips."""
    upsampling: str = choice("transposed", "interpolation", "pixelshuffle", default="interpolation")
    """How features grow: transposed convolution, interpolation with regular convolution, or pixel shuffle."""
    normalise: bool = True
    """Normalise every feature that is handed over and every upsampling, and start with He's weights; without it a
    pre-trained encoder's features arrive on another scale than a random one's."""
    image: bool = False
    """Features of the image itself at full resolution as a skip (progressive, unetr): it goes round the tokens."""
    pyramid: bool = False
    """With `image`: also at every level below the tokens', a small U-Net beside the transformer."""
    tokeniser_skips: bool = False
    """Features of the conv tokeniser as skips (PrimusV3): they go round the transformer."""
    convolutions: int = setting(1, CONVOLUTIONS)
    """Convolutions after each step of upsampling."""
    deep_supervision: bool = False
    """A loss at each resolution of the decoder but the coarsest."""
    channels: int = setting(16, WIDTH)
    """Channels at full resolution; each coarser level doubles them, up to `max_channels`."""
    max_channels: int = setting(128, WIDTH)
    """Most channels of a level."""


@dataclass(kw_only=True)
class CNNConfig:
    """nnU-Net-style network; topology is planned from spacing and patch by nnU-Net's rules."""

    encoder: str = choice("plain", "residual")
    """Plain or residual encoder."""
    base_features: int = setting(32, WIDTH)
    """Features of the first stage; each stage doubles them."""
    max_features: int = setting(320, WIDTH)
    """Most features of a stage."""
    max_stages: int | None = setting(None, AT_LEAST_ONE)
    """Upper bound on the planned number of stages."""
    deep_supervision: bool = True
    """A loss at each resolution but the coarsest two."""
    activation_checkpointing: bool = False
    """Recompute the inside of each stage in the backward pass: less memory, more time."""


@dataclass(kw_only=True)
class RuleConfig:
    """Bright voxels, weighed by how often those at their place were labelled."""

    threshold_hu: float = setting(130.0, ANY)
    """From which a voxel is bright (Agatston et al. 1990)."""
    smoothing_mm: float = setting(3.0, POSITIVE)
    """How far around a place bright voxels are counted: standard deviation of a Gaussian."""


@dataclass(kw_only=True)
class ModelConfig:
    """The network."""

    name: str = choice("vit", "cnn", "rule")
    """vit: encoder (with an MAE decoder or a segmentation decoder, by task); cnn: nnU-Net-style baseline; rule: nothing
    learnt, the floor of a comparison."""
    condition_on: tuple[str, ...] = setting((), CONDITION_ON)
    """What the network is told beside the image, by a scale and a shift of its features (FiLM, Perez et al. 2018).
    position: the crop's place in the region; slice_thickness: of the scan, or of the slices that augmentation made;
    spacing: of the scan's voxels, all in millimetres."""
    vit: ViTConfig = field(default_factory=ViTConfig)
    mae: MAEConfig = field(default_factory=MAEConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    cnn: CNNConfig = field(default_factory=CNNConfig)
    rule: RuleConfig = field(default_factory=RuleConfig)
    output_bias: float = setting(-2.0, ANY)
    """Start of the output logit's bias: lesions are rare."""
