"""Typed settings of an experiment. Plain dataclasses: importing this module imports neither torch nor Lightning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from data_modules.config import DataConfig

VIT_PRESETS: dict[str, tuple[int, int, int]] = {"tiny": (192, 6, 3), "small": (384, 12, 6), "base": (768, 12, 12)}
"""Width of a token, number of blocks and attention heads of each preset."""


@dataclass(kw_only=True)
class ViTConfig:
    """A 3D vision transformer encoder."""

    preset: str = field(default="tiny", metadata={"choices": ("tiny", "small", "base")})
    """Sizes to start from: tiny 192/6/3, small 384/12/6, base 768/12/12 (width / depth / heads)."""
    patch_size: tuple[int, int, int] = (8, 8, 8)
    """Voxels a token covers along x, y, z."""
    dim: int | None = None
    """Width of a token; overrides the preset."""
    depth: int | None = None
    """Number of transformer blocks; overrides the preset."""
    heads: int | None = None
    """Attention heads; overrides the preset."""
    mlp_ratio: float = 4.0
    """Width of the MLP over the width of a token."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block; earlier blocks less, linearly."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""


@dataclass(kw_only=True)
class MAEConfig:
    """Masked autoencoder: the share that is hidden and the light decoder that restores it."""

    mask_ratio: float = 0.75
    """Share of tokens that are hidden."""
    decoder_dim: int = 96
    """Width of the decoder."""
    decoder_depth: int = 2
    """Blocks of the decoder."""
    decoder_heads: int = 3
    """Attention heads of the decoder."""
    normalise_targets: bool = False
    """Standardise each target patch before the loss (He et al. 2022, norm_pix_loss)."""


@dataclass(kw_only=True)
class DecoderConfig:
    """From the encoder's features to voxel logits."""

    name: str = field(default="unetr", metadata={"choices": ("linear", "progressive", "unetr")})
    """linear: one projection to each patch's voxels; progressive: the last feature enlarged step by step;
    unetr: features of several depths and the image itself as skips."""
    upsampling: str = field(
        default="interpolation", metadata={"choices": ("transposed", "interpolation", "pixelshuffle")}
    )
    """How features grow: transposed convolution, interpolation with regular convolution, or pixel shuffle."""
    pyramid: bool = True
    """Features of the image beside the tokens' at every level, not at full resolution alone (progressive, unetr)."""
    channels: int = 16
    """Channels at full resolution; each coarser level doubles them, up to `max_channels`."""
    max_channels: int = 128
    """Most channels of a level."""


@dataclass(kw_only=True)
class CNNConfig:
    """nnU-Net-style network; topology is planned from spacing and patch by nnU-Net's rules."""

    encoder: str = field(default="plain", metadata={"choices": ("plain", "residual")})
    """Plain or residual encoder."""
    base_features: int = 32
    """Features of the first stage; each stage doubles them."""
    max_features: int = 320
    """Most features of a stage."""
    max_stages: int | None = None
    """Upper bound on the planned number of stages."""
    deep_supervision: bool = True
    """A loss at each resolution but the coarsest two."""
    activation_checkpointing: bool = False
    """Recompute the inside of each stage in the backward pass: less memory, more time."""


@dataclass(kw_only=True)
class ModelConfig:
    """The network."""

    name: str = field(default="vit", metadata={"choices": ("vit", "cnn")})
    """vit: encoder (with an MAE decoder or a segmentation decoder, by task); cnn: nnU-Net-style baseline."""
    vit: ViTConfig = field(default_factory=ViTConfig)
    mae: MAEConfig = field(default_factory=MAEConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    cnn: CNNConfig = field(default_factory=CNNConfig)
    output_bias: float = -2.0
    """Start of the output logit's bias: lesions are rare."""


@dataclass(kw_only=True)
class LossConfig:
    """Segmentation loss: soft-label Dice and cross-entropy."""

    dice_weight: float = 1.0
    """Weight of the soft Dice loss."""
    ce_weight: float = 1.0
    """Weight of the binary cross-entropy."""
    restrict_hu: float | None = 100.0
    """Only voxels at least this bright (before intensity augmentation), or labelled, count (restricted objective,
    Bortsova et al. 2017). null: every voxel counts."""


@dataclass(kw_only=True)
class OptimizerConfig:
    """Optimiser and schedule."""

    name: str = field(default="adamw", metadata={"choices": ("adamw", "sgd")})
    """AdamW, or SGD with Nesterov momentum (nnU-Net)."""
    lr: float = 1e-3
    """Peak learning rate; with `lr_scaling`, that of `lr_batch_size` samples an update."""
    lr_scaling: str = field(default="none", metadata={"choices": ("none", "linear", "sqrt")})
    """How the rate follows the global batch: not at all, in proportion (Goyal et al. 2017, for SGD), or by its square
    root (Krizhevsky 2014; Malladi et al. 2022, for AdamW)."""
    lr_batch_size: int | None = None
    """Global batch that `lr` is stated for; needed by `lr_scaling` linear and sqrt."""
    weight_decay: float = 0.05
    """Decoupled for AdamW, L2 for SGD; never on biases, norms, position embeddings and tokens."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's betas."""
    momentum: float = 0.99
    """SGD's momentum."""
    schedule: str = field(default="cosine", metadata={"choices": ("cosine", "poly", "constant")})
    """cosine to `min_lr_fraction`, nnU-Net's polynomial decay (power 0.9), or constant; all after the warm-up."""
    warmup_fraction: float = 0.05
    """Share of all steps over which the rate rises linearly."""
    min_lr_fraction: float = 0.01
    """Where the cosine ends, relative to `lr`."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each encoder layer to the one below (1: none; 0.75 for a pre-trained ViT)."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights, used for validation and export (0: off)."""


@dataclass(kw_only=True)
class TrainerConfig:
    """Passed to Lightning's Trainer."""

    max_epochs: int = 10
    """Epochs of `data.sampling.samples_per_epoch` patches."""
    accelerator: str = "auto"
    """auto, cpu, gpu, …"""
    devices: int = 1
    """Devices (processes) a node."""
    num_nodes: int = 1
    """Nodes."""
    strategy: str = "auto"
    """auto (ddp for several devices), ddp, or fsdp: weights, gradients and optimiser of a ViT shared out over GPUs."""
    precision: str = "32-true"
    """32-true, bf16-mixed, 16-mixed, …"""
    accumulate_grad_batches: int = 1
    """Batches a weight update; follows from `global_batch`, where that is set."""
    global_batch: int | None = None
    """Samples a weight update over all devices, independent of their number: a multiple of `data.batch_size` × devices,
    reached by accumulating batches (see `batching.py` for what stays equal). null: what the other settings give."""
    sync_batchnorm: bool = False
    """Batch norm over all devices. Matters only where there is batch norm; the project's networks have layer norm
    (ViT) and instance norm (CNN, decoders), so it changes nothing in them."""
    compile: bool = False
    """Compile the network with `torch.compile`: minutes at the start, then faster steps. Checkpoints stay the same."""
    gradient_clip_val: float | None = 1.0
    """Largest gradient norm; null: no clipping."""
    check_val_every_n_epoch: int = 1
    """Epochs between validations."""
    checkpoint_every_n_steps: int | None = None
    """Also keep a checkpoint inside an epoch, every so many steps."""
    log_every_n_steps: int = 10
    """Steps between logged losses."""
    threads: int | None = None
    """Threads of a CPU process; null: torch's default."""


@dataclass(kw_only=True)
class TrackingConfig:
    """MLflow."""

    enabled: bool = True
    """Switches tracking."""
    uri: str | None = None
    """Tracking server or store; by default `sqlite:///<runs_dir>/mlflow.db`."""
    experiment: str = "iac"
    """MLflow experiment."""
    parent_run_id: str | None = None
    """MLflow run that this one is a child of; a sweep sets it."""


@dataclass(kw_only=True)
class LauncherConfig:
    """Where a command runs. `launcher=slurm` is short for `launcher.name=slurm`."""

    SHORTHAND: ClassVar[str] = "name"

    name: str = field(default="local", metadata={"choices": ("local", "slurm")})
    """local: here and now; slurm: as a batch job, or a job array of a sweep's cells."""
    at_once: int = 2
    """Cells of a sweep that run at the same time."""
    nodes: int = 1
    """Nodes of one job."""
    gpus_per_node: int = 0
    """GPUs a node, each with a process of its own (trainer.devices follows)."""
    tasks_per_node: int | None = None
    """Processes a node where there are no GPUs; null: one."""
    cpus_per_task: int | None = None
    """Processor cores a process; null: SLURM's default. Count data.num_workers."""
    mem_gb: float | None = None
    """Memory a node; null: SLURM's default."""
    partition: str | None = None
    """SLURM partition; null: SLURM's default."""
    account: str | None = None
    """SLURM account."""
    qos: str | None = None
    """SLURM quality of service."""
    constraint: str | None = None
    """Features that nodes must have."""
    time_min: int = 1440
    """Time limit of one job in minutes; a run that needs longer is requeued and continues."""
    signal_delay_s: int = 120
    """How long before the time limit SLURM asks to save and requeue; longer than a training step takes."""
    setup: str | None = None
    """A line of shell before the command, such as `module load cuda`."""


@dataclass(kw_only=True)
class InferenceConfig:
    """From a region of interest to probabilities on its native grid."""

    overlap: float = 0.5
    """Overlap of neighbouring windows, as a share of the crop."""
    mirror: bool = False
    """Average with the left-right mirrored image."""
    window_batch: int = 8
    """Windows that go through the network at once."""
    protocol_prior: bool = True
    """Report also the mask restricted by the annotation protocol: ≥ 130 HU and no single voxels."""


@dataclass(kw_only=True)
class EvaluationConfig:
    """How predictions are judged; `iac evaluate`, `iac report` and `iac compare` take other settings."""

    thickness_edges_mm: tuple[float, ...] = (1.0, 2.0, 4.0, 6.0)
    """Where strata of slice thickness part; an edge belongs to the thinner one."""
    risk_cutoffs_mm3: tuple[float, float, float] | None = None
    """Largest volumes of the risk groups none, low and medium; null: 0, and thirds of the development labels."""
    coverage: float = 0.9
    """Share of new patients whose volume a conformal interval shall hold."""


@dataclass(kw_only=True)
class ExperimentConfig:
    """One run: everything that decides its result."""

    name: str = "???"
    """Run name; results go to `<runs_dir>/<name>/`."""
    task: str = field(default="segment", metadata={"choices": ("pretrain", "segment")})
    """pretrain: masked autoencoder on unlabelled regions; segment: fine-tuning or baseline."""
    seed: int = 0
    """Every random choice follows from it."""
    runs_dir: str = "runs"
    """Parent of all run directories."""
    init_from: str | None = None
    """Run directory (or checkpoint) of a pre-training whose encoder is taken over."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
