"""Typed settings of an experiment. Plain dataclasses: importing this module imports neither torch nor Lightning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from data_modules.config import DataConfig
from data_modules.settings import (
    ANY,
    AT_LEAST_ONE,
    AT_LEAST_ZERO,
    MOST,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SHARE_ABOVE_ZERO,
    SHARE_BELOW_ONE,
    SHARE_INSIDE,
    Rule,
    choice,
    rises,
    setting,
)
from iac_lightning.config.model_schema import ModelConfig

SEED = Rule(lambda v: 0 <= v < 2**32, "a whole number from 0 to 4294967295")
BETAS = Rule(lambda v: min(v) >= 0 and max(v) < 1, "two numbers from 0 to below 1")
THICKNESS_EDGES_MM = Rule(
    lambda v: 1 <= len(v) <= 100 and v[0] > 0 and rises(v) and v[-1] <= 1000,
    "one or more rising numbers greater than 0, at most 1000",
)
RISK_CUTOFFS_MM3 = Rule(
    lambda v: v[0] >= 0 and rises(v) and v[-1] <= MOST, "[none, low, medium], three rising numbers of 0 or more"
)


@dataclass(kw_only=True)
class LossConfig:
    """Segmentation loss: soft-label Dice and cross-entropy."""

    dice_weight: float = setting(1.0, NOT_NEGATIVE)
    """Weight of the soft Dice loss."""
    ce_weight: float = setting(1.0, NOT_NEGATIVE)
    """Weight of the binary cross-entropy."""
    restrict_hu: float | None = setting(100.0, ANY)
    """Only voxels at least this bright (before intensity augmentation), or labelled, count (restricted objective,
    Bortsova et al. 2017). null: every voxel counts."""
    restrict_on: str = choice("common", "native")
    """Whose HU that is. native: of the brightest voxel of the scan that a voxel of the common grid overlaps, so that
    the loss sees all that inference lets through; common: of the voxel of the common grid."""


@dataclass(kw_only=True)
class OptimizerConfig:
    """Optimiser and schedule."""

    name: str = choice("adamw", "sgd")
    """AdamW, or SGD with Nesterov momentum (nnU-Net)."""
    lr: float = setting(1e-3, POSITIVE)
    """Peak learning rate; with `lr_scaling`, that of `lr_batch_size` samples an update."""
    lr_scaling: str = choice("none", "linear", "sqrt")
    """How the rate follows the global batch: not at all, in proportion (Goyal et al. 2017, for SGD), or by its square
    root (Krizhevsky 2014; Malladi et al. 2022, for AdamW)."""
    lr_batch_size: int | None = setting(None, AT_LEAST_ONE)
    """Global batch that `lr` is stated for; needed by `lr_scaling` linear and sqrt."""
    weight_decay: float = setting(0.05, NOT_NEGATIVE)
    """Decoupled for AdamW, L2 for SGD; never on biases, norms, position embeddings and tokens."""
    betas: tuple[float, float] = setting((0.9, 0.95), BETAS)
    """AdamW's betas."""
    momentum: float = setting(0.99, SHARE_BELOW_ONE)
    """SGD's momentum."""
    schedule: str = choice("cosine", "poly", "constant")
    """cosine to `min_lr_fraction`, nnU-Net's polynomial decay (power 0.9), or constant; all after the warm-up."""
    warmup_fraction: float = setting(0.05, SHARE_BELOW_ONE)
    """Share of all steps over which the rate rises linearly."""
    min_lr_fraction: float = setting(0.01, SHARE)
    """Where the cosine ends, relative to `lr`."""
    layer_decay: float = setting(1.0, SHARE_ABOVE_ZERO)
    """Factor of the learning rate from each encoder layer to the one below (1: none; 0.75 for a pre-trained ViT)."""
    ema_decay: float = setting(0.0, SHARE_BELOW_ONE)
    """Decay of the exponential moving average of the weights, used for validation and export (0: off)."""


@dataclass(kw_only=True)
class TrainerConfig:
    """Passed to Lightning's Trainer."""

    max_epochs: int = setting(10, AT_LEAST_ONE)
    """Epochs of `data.sampling.samples_per_epoch` patches."""
    accelerator: str = choice("auto", "cpu", "gpu", "cuda", "mps", "tpu")
    """auto, cpu, gpu, …"""
    devices: int = setting(1, AT_LEAST_ONE)
    """Devices (processes) a node."""
    num_nodes: int = setting(1, AT_LEAST_ONE)
    """Nodes."""
    strategy: str = choice("auto", "ddp", "ddp_find_unused_parameters_true", "fsdp", "fsdp_cpu_offload")
    """auto (ddp for several devices), ddp, or fsdp: weights, gradients and optimiser of a ViT shared out over GPUs."""
    precision: str = choice("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
    """32-true, bf16-mixed, 16-mixed, …"""
    accumulate_grad_batches: int = setting(1, AT_LEAST_ONE)
    """Batches a weight update; follows from `global_batch`, where that is set."""
    global_batch: int | None = setting(None, AT_LEAST_ONE)
    """Samples a weight update over all devices, independent of their number: a multiple of `data.batch_size` × devices,
    reached by accumulating batches (see `batching.py` for what stays equal). null: what the other settings give."""
    sync_batchnorm: bool = False
    """Batch norm over all devices. Matters only where there is batch norm; the project's networks have layer norm
    (ViT) and instance norm (CNN, decoders), so it changes nothing in them."""
    compile: str = choice("off", "default", "cuda_graphs", truth=("off", "default"))
    """Compile the network with `torch.compile`: minutes at the start, then faster steps; cuda_graphs: also record its
    launches, for small steps on a GPU. Checkpoints stay the same."""
    matmul_precision: str = choice("high", "highest", "medium")
    """Float32 products on a GPU: high takes TF32 (10 bits of mantissa) for matrices and convolutions, highest all of
    float32, medium bfloat16. Nothing changes on a CPU."""
    deterministic: str = choice("warn", "strict", "off", truth=("off", "strict"))
    """warn: deterministic kernels, and a warning where an operation has none; strict: an error there; off: whichever is
    fastest."""
    gradient_clip_val: float | None = setting(1.0, POSITIVE)
    """Largest gradient norm; null: no clipping."""
    check_val_every_n_epoch: int = setting(1, AT_LEAST_ONE)
    """Epochs between validations."""
    checkpoint_every_n_steps: int | None = setting(None, AT_LEAST_ONE)
    """Also keep a checkpoint inside an epoch, every so many steps."""
    log_every_n_steps: int = setting(10, AT_LEAST_ONE)
    """Steps between logged losses."""
    threads: int | None = setting(None, AT_LEAST_ONE)
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

    name: str = choice("local", "slurm")
    """local: here and now; slurm: as a batch job, or a job array of a sweep's cells."""
    at_once: int | None = setting(None, AT_LEAST_ONE)
    """Most cells of a sweep at the same time. null: `per_gpu` on each GPU of this machine; 2 without one, and on
    SLURM."""
    per_gpu: int = setting(1, AT_LEAST_ONE)
    """Cells of a sweep that share one GPU: small networks leave most of it idle."""
    nodes: int = setting(1, AT_LEAST_ONE)
    """Nodes of one job."""
    gpus_per_node: int = setting(0, AT_LEAST_ZERO)
    """GPUs a node, each with a process of its own (trainer.devices follows)."""
    tasks_per_node: int | None = setting(None, AT_LEAST_ONE)
    """Processes a node where there are no GPUs; null: one."""
    cpus_per_task: int | None = setting(None, AT_LEAST_ONE)
    """Processor cores a process; null: SLURM's default. Count data.num_workers."""
    mem_gb: float | None = setting(None, POSITIVE)
    """Memory a node; null: SLURM's default."""
    partition: str | None = None
    """SLURM partition; null: SLURM's default."""
    account: str | None = None
    """SLURM account."""
    qos: str | None = None
    """SLURM quality of service."""
    constraint: str | None = None
    """Features that nodes must have."""
    time_min: int = setting(1440, AT_LEAST_ONE)
    """Time limit of one job in minutes; a run that needs longer is requeued and continues."""
    signal_delay_s: int = setting(120, AT_LEAST_ONE)
    """How long before the time limit SLURM asks to save and requeue; longer than a training step takes."""
    setup: str | None = None
    """A line of shell before the command, such as `module load cuda`."""


@dataclass(kw_only=True)
class InferenceConfig:
    """From a region of interest to probabilities on its native grid."""

    overlap: float = setting(0.5, SHARE_BELOW_ONE)
    """Overlap of neighbouring windows, as a share of the crop."""
    mirror: bool = False
    """Average with the left-right mirrored image."""
    window_batch: int = setting(8, AT_LEAST_ONE)
    """Windows of a region that go through the network at once; a GPU takes several regions together."""
    protocol_prior: bool = True
    """Masks keep to the annotation protocol: ≥ 130 HU and no single voxels. false: also without it, where that serves
    `evaluation.operating_point` better on the development scans."""


@dataclass(kw_only=True)
class EvaluationConfig:
    """How predictions are judged; `iac evaluate`, `iac report` and `iac compare` take other settings."""

    thickness_edges_mm: tuple[float, ...] = setting((1.0, 2.0, 4.0, 6.0), THICKNESS_EDGES_MM)
    """Where strata of slice thickness part; an edge belongs to the thinner one."""
    risk_cutoffs_mm3: tuple[float, float, float] | None = setting(None, RISK_CUTOFFS_MM3)
    """Largest volumes of the risk groups none, low and medium; null: 0, and thirds of the development labels."""
    operating_point: str = choice("balanced", "dice", "lesion_f1", "sensitivity_at_fp")
    """What threshold and least lesion volume are chosen for on the development scans. balanced: Dice of every patient,
    0 for a false alarm on a lesion-free scan; dice, lesion_f1: their mean over the scans with lesions, at whatever
    price; sensitivity_at_fp: lesions found, with at most `false_components_per_scan`."""
    false_components_per_scan: float = setting(1.0, NOT_NEGATIVE)
    """Mean number of false components a scan that `operating_point: sensitivity_at_fp` allows."""
    keep_lesions_from_mm3: float = setting(3.0, NOT_NEGATIVE)
    """No operating point drops components of this volume or more; smaller ones it may. 3 mm³: 1 mm² on a slice of 3 mm,
    the least lesion of Agatston's score."""
    coverage: float = setting(0.9, SHARE_INSIDE)
    """Share of new patients whose volume a conformal interval shall hold."""
    controls: bool = True
    """Predict with a ViT twice more, without what its tokens say and without what its attention mixes, and report what
    each is worth in Dice."""
    workers: int | None = setting(None, AT_LEAST_ONE)
    """Processes that bring predictions to native grids, measure them and write files while the network predicts on; 1:
    the network's own. null: one for each core, as far as there are series for them."""


@dataclass(kw_only=True)
class ExperimentConfig:
    """One run: everything that decides its result."""

    name: str = "???"
    """Run name; results go to `<runs_dir>/<name>/`."""
    task: str = choice("pretrain", "segment", default="segment")
    """pretrain: masked autoencoder on unlabelled regions; segment: fine-tuning or baseline."""
    profile: str = choice("auto", "gpu", "cpu")
    """Which of the sections under `profiles` in a settings file is laid over it. auto: gpu where a GPU is at hand or
    `launcher.gpus_per_node` asks for one, else cpu; a run stores which it was."""
    seed: int = setting(0, SEED)
    """Every random choice follows from it."""
    runs_dir: str = "runs"
    """Parent of all run directories."""
    init_from: str | None = None
    """Run directory (or checkpoint) of a pre-training to start from, or a checkpoint of nnssl's Primus."""
    init_from_licence: str | None = None
    """Licence, data and source of the weights that `init_from` takes from another project, for the model card."""
    init_from_other: bool = False
    """Take over also an encoder that learnt under another HU window, voxel size, profile, patch or number of heads."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
