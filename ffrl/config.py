"""Configuration of a run: frozen dataclasses, checked when they are made. Imports neither torch nor numpy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal, get_args

from ffrl.baseline_config import BaselineConfig, Method, check_method
from ffrl.catalogue import DATA_SETS, DataSet
from ffrl.checks import check_types, require, require_integer, require_number

Likelihood = Literal["gaussian", "laplace", "bernoulli"]
LogDet = Literal["trace", "exact", "hutchinson"]
EvaluatedLogDet = Literal["trace", "exact"]
PDEName = Literal["hj_force", "hj", "fokker_planck", "heat", "wave"]
PriorName = Literal["diffusion", "standard_normal", "mixture", "vamp"]
WeightInit = Literal["default", "he"]
Preset = Literal["tiny", "small", "paper"]
DataName = Literal[
    "auto",
    "mnist",
    "digits",
    "shapes",
    "dsprites",
    "shapes3d",
    "falcor3d",
    "isaac3d",
    "dsprites-generated",
    "shapes3d-generated",
    "rooms-generated",
]
# Of the cubic products in the GPU kernels; their operators take the place in this list.
Precision = Literal["ieee", "tf32x3", "tf32"]


@dataclasses.dataclass(frozen=True)
class SequenceConfig:
    """The image sequences. Of still images, frame t shows the transformation at t/num_steps of its range, always of the
    original; of a grid of factors, it shows the value t of one factor, and all others stay."""

    transformations: tuple[str, ...] = ("scale", "rotation", "hue")
    """One potential is learned for each: scale, rotation, hue, or factors of the grid."""
    num_steps: int = 8
    """T, the number of transitions; a sequence has T+1 frames."""
    max_scale: float = 1.8
    """Magnification of the last frame, of still images."""
    max_rotation: float = 80.0
    """Degrees counter-clockwise at the last frame, of still images."""
    max_hue: float = 160.0
    """Degrees of hue at the last frame, of still images."""

    def __post_init__(self) -> None:
        check_types(self, "sequence.")
        names = self.transformations
        known = tuple(dict.fromkeys(name for data_set in DATA_SETS.values() for name in data_set.movable))
        allowed = f"a non-empty selection of {known} without repeats"
        fits = len(names) > 0 and len(set(names)) == len(names) and set(names) <= set(known)
        require(fits, "sequence.transformations", names, allowed)
        require_integer("sequence.num_steps", self.num_steps, 1)
        require_number("sequence.max_scale", self.max_scale, 0.0, above=True)
        require_number("sequence.max_rotation", self.max_rotation, -360.0)
        require_number("sequence.max_hue", self.max_hue, 0.0)


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """How the images of a grid are divided; still images have a test set of their own.

    No image is in two parts, whatever moves: see ``ffrl.data.splits``."""

    seed: int = 0
    """Of the draw of what is tested on."""
    validation: float = 0.1
    """Share of the images, at most."""
    test: float = 0.1
    """Share of the images, at most."""

    def __post_init__(self) -> None:
        check_types(self, "split.")
        require_integer("split.seed", self.seed, 0)
        require(self.seed < 2**63, "split.seed", self.seed, "an integer below 2^63")
        for name in ("validation", "test"):
            require_number(f"split.{name}", getattr(self, name), 0.0)
        require(self.test > 0, "split.test", self.test, "a number > 0")
        total = self.validation + self.test
        require(total < 1, "split.test", self.test, f"a number below {1 - self.validation}, which leaves some to train")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of the networks."""

    image_channels: int = 3
    image_size: int = 28
    latent_dim: int = 32
    """D."""
    conv_widths: tuple[int, ...] = (32, 64)
    """Channels after each stride-2 convolution of the encoder; the decoder mirrors them."""
    refine: bool = False
    """Follow each stride-2 convolution by a 3x3 one (the 128-pixel networks of the paper)."""
    encoder_widths: tuple[int, ...] = (256, 256)
    """Dense layers between the last convolution and the two heads."""
    decoder_widths: tuple[int, ...] = (256,)
    """Dense layers between the latent code and the first transposed convolution (or the pixels, without one)."""
    decoder_convolutions: bool = True
    """False makes the decoder dense throughout."""
    initial_intensity: float = 0.05
    """Intensity of every pixel before training, in (0, 1)."""
    initial_log_var: float | None = None
    """Log variance of q(z_0 | x_0) before training; default PyTorch's layers, which make it about 0, so that decoding
    begins with codes that are mostly noise."""
    weight_init: WeightInit = "default"
    """Weights of the layers before a ReLU: default, PyTorch's, which make activations smaller from layer to layer; he,
    He et al. 2015's, which do not."""
    potential_widths: tuple[int, int] = (128, 128)
    """(H1, H2) of the potential and force networks."""
    output_activation: Literal["tanh", "identity"] = "identity"
    """Output activation of the potentials."""
    time_dim: int | None = None
    """Width of the sinusoidal time embedding, even; default H1 rounded up to even."""
    prior: PriorName = "diffusion"
    """p_t(z): the diffusion of N(0, I), N(0, I) itself, a mixture of Gaussians, or the VampPrior."""
    prior_components: int = 10
    """Gaussians of the prior "mixture"."""
    pseudo_inputs: int = 64
    """Learned images of the prior "vamp"."""

    def __post_init__(self) -> None:
        check_types(self, "model.")
        for name in ("image_channels", "image_size", "latent_dim", "prior_components", "pseudo_inputs"):
            require_integer(f"model.{name}", getattr(self, name), 1)
        for name in ("conv_widths", "encoder_widths", "decoder_widths", "potential_widths"):
            widths = getattr(self, name)
            require(len(widths) > 0, f"model.{name}", widths, "at least one width")
            for i, width in enumerate(widths):
                require_integer(f"model.{name}[{i}]", width, 1)
        require(
            self.image_size % 2 == 0, "model.image_size", self.image_size, "an even integer: a convolution halves it"
        )
        most = (self.image_size & -self.image_size).bit_length() - 1  # times that it can be halved
        allowed = f"at most {most} widths: each convolution halves model.image_size = {self.image_size}"
        require(len(self.conv_widths) <= most, "model.conv_widths", self.conv_widths, allowed)
        intensity = self.initial_intensity
        require(0 < intensity < 1, "model.initial_intensity", intensity, "a number in (0, 1), without its ends")
        if self.initial_log_var is not None:
            require_number("model.initial_log_var", self.initial_log_var, -20.0)
            require(self.initial_log_var <= 20, "model.initial_log_var", self.initial_log_var, "a number in [-20, 20]")
        if self.time_dim is not None:
            require_integer("model.time_dim", self.time_dim, 4)
            require(self.time_dim % 2 == 0, "model.time_dim", self.time_dim, "an even integer >= 4")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """loss = Σ_t rec_t + KL_0 + kl_weight Σ_{t>=1} KL_t + hj_weight HJ, with HJ the residual of ``pde``."""

    likelihood: Likelihood = "gaussian"
    """p(x|z): gaussian N(decode(z), noise_scale²), laplace of scale noise_scale, or bernoulli."""
    noise_scale: float = 1.0
    kl_weight: float = 1.0
    hj_weight: float = 1.0
    log_det: LogDet = "trace"
    """Change of variables: log|1 + Δu| (FFRL eq. 10), log|det(I + ∇²u)| (eq. 9), or log|1 + Δu| with Hutchinson's
    estimate of Δu, whose cost is not cubic in the width; that is then also the Δu of ``pde``."""
    log_det_floor: float = 1e-3
    """|1 + Δu| is clamped from below to this before the logarithm; its gradient is zero below."""
    pde: PDEName = "hj_force"
    """Equation asked of the potentials: Hamilton-Jacobi with a learned force or without, Fokker-Planck, heat, wave."""
    num_probes: int = 1
    """Random signs for each estimate of Δu, with log_det "hutchinson"; its variance falls as 1/num_probes."""
    decoded_frames: int | None = None
    """Frames of each sequence that an iteration decodes, drawn from x_0..x_T; their sum, times T+1 over their number,
    estimates Σ_t rec_t without bias, at their share of its cost. Default all T+1."""

    def __post_init__(self) -> None:
        check_types(self, "loss.")
        require_number("loss.noise_scale", self.noise_scale, 0.0, above=True)
        require_number("loss.kl_weight", self.kl_weight, 0.0)
        require_number("loss.hj_weight", self.hj_weight, 0.0)
        require_number("loss.log_det_floor", self.log_det_floor, 0.0, above=True)
        require_integer("loss.num_probes", self.num_probes, 1)
        if self.decoded_frames is not None:
            require_integer("loss.decoded_frames", self.decoded_frames, 1)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam."""

    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: linear warm-up, then half a cosine to zero at the last iteration."""
    warmup: int = 0
    """Iterations of linear warm-up."""

    def __post_init__(self) -> None:
        check_types(self, "optimizer.")
        require_number("optimizer.learning_rate", self.learning_rate, 0.0, above=True)
        require_integer("optimizer.warmup", self.warmup, 0)


@dataclasses.dataclass(frozen=True)
class SupervisionConfig:
    """Whether the potential of a sequence is given or recognized from its frames."""

    mode: Literal["supervised", "weak", "semi"] = "supervised"
    """supervised: k is given. weak: drawn from q(k | x_0..x_T), which is learned. semi: given in some batches."""
    index_loss: Literal["prior", "label"] = "prior"
    """Of q(k | x) where k is not given: prior, KL(q(k | x) || uniform) (FFRL eq. 8); label, the cross-entropy with the
    true k, which is in the pseudo-code of the paper."""
    labelled_fraction: float = 0.1
    """Share of the batches that carry k, with semi."""
    temperature_decay: float = 3e-5
    """The temperature of the Gumbel-softmax is max(exp(-temperature_decay · iteration), min_temperature)."""
    min_temperature: float = 0.05
    balance_weight: float | None = None
    """Of KL(batch mean of q(k | x) || uniform), where k is not given: without it one potential can take over all
    sequences and the others never learn. Not in the paper. Default 1000 with index_loss "prior" in mixed batches;
    batches that are not mixed allow none."""

    def __post_init__(self) -> None:
        check_types(self, "supervision.")
        fraction = self.labelled_fraction
        require_number("supervision.labelled_fraction", fraction, 0.0)
        require(fraction <= 1, "supervision.labelled_fraction", fraction, "a number in [0, 1]")
        require_number("supervision.temperature_decay", self.temperature_decay, 0.0)
        require_number("supervision.min_temperature", self.min_temperature, 0.0, above=True)
        if self.balance_weight is not None:
            require_number("supervision.balance_weight", self.balance_weight, 0.0)
        require(
            self.mode == "weak" or self.index_loss == "prior",
            "supervision.index_loss",
            self.index_loss,
            "'prior', with any mode but 'weak'",
        )


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
    """How the machine is used; nothing here changes what is computed, but for rounding."""

    vae_precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the products in encoder, decoder and q(k | x), whose results are float32 in any case; the potentials keep
    float32. auto: bfloat16 on a GPU that has it, float32 on the CPU."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Memory format of the convolutions' weights; auto: on on a GPU."""
    compile_vae: bool = False
    """torch.compile encoder and decoder; needs a C++ compiler, and on a GPU Triton."""
    check_every: int | None = None
    """Iterations between looks at the loss, for which the device has to be waited for; a step that is not finite is
    never taken. Default 1 on the CPU, log_every on a GPU; what is logged is the same. Mixed batches with loss.log_det
    exact wait for a GPU in every iteration."""
    async_checkpoints: bool = True
    """Write checkpoints while training goes on."""
    loader_workers: int = 0
    """Processes that read or draw the training batches of a grid beforehand, while training goes on; 0: none. What is
    drawn on a GPU is drawn there when it is due."""

    def __post_init__(self) -> None:
        check_types(self, "compute.")
        if self.check_every is not None:
            require_integer("compute.check_every", self.check_every, 1)
        require_integer("compute.loader_workers", self.loader_workers, 0)
        require(self.loader_workers <= 1024, "compute.loader_workers", self.loader_workers, "an integer <= 1024")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that determines a run, and where it goes."""

    out: Path = Path("runs/default")
    """Run folder; must not hold another run unless --resume is given."""
    method: Method = "ffrl"
    """What is trained: FFRL, or one of the baselines that it is compared with."""
    preset: Preset = "small"
    """Sizes and budget the other defaults come from: tiny (tests), small (two CPU cores), paper."""
    data: DataName = "auto"
    """auto: MNIST where it is found or can be downloaded, otherwise scikit-learn's digits, with a warning. What there
    is, and where: python -m ffrl.data."""
    data_dir: Path | None = None
    """Where to look for the data first; default the variable FFRL_DATA."""
    held_out_classes: tuple[int, ...] = ()
    """Labels whose images training never shows; python -m ffrl.generalisation scores them on their own."""
    validation_images: int = 0
    """The last images of the training set, which training never shows; on them methods without a latent operator choose
    how they traverse."""
    backend: str = "auto"
    """Backend of the potential op; see ffrl.ops.available_backends()."""
    precision: Precision = "tf32x3"
    """Arithmetic of the Laplacian's products in the GPU kernels: float32, three TF32 products, or one."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads; default torch's choice. Bitwise repeatability holds for an unchanged number."""
    seed: int = 0
    iterations: int = 10_000
    batch_size: int = 64
    """Sequences an iteration, of each process where there are several."""
    mixed_batches: bool = True
    """True: every batch holds all transformations; False: one transformation a batch, as in the paper."""
    checkpoint_every: int = 1_000
    keep_checkpoints: int = 2
    log_every: int = 50
    """Iterations between lines of metrics.jsonl; each line is the mean over the interval."""
    tensorboard: bool = True
    resume: bool = False
    """Continue the run in --out from its last checkpoint."""
    sequence: SequenceConfig = dataclasses.field(default_factory=SequenceConfig)
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    supervision: SupervisionConfig = dataclasses.field(default_factory=SupervisionConfig)
    baseline: BaselineConfig = dataclasses.field(default_factory=BaselineConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    compute: ComputeConfig = dataclasses.field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        check_types(self)
        require_integer("seed", self.seed, 0)
        require(self.seed < 2**63, "seed", self.seed, "an integer below 2^63")
        for name in ("iterations", "batch_size", "checkpoint_every", "keep_checkpoints", "log_every"):
            require_integer(name, getattr(self, name), 1)
        for i, label in enumerate(self.held_out_classes):
            require_integer(f"held_out_classes[{i}]", label, 0)
        require_integer("validation_images", self.validation_images, 0)
        if self.threads is not None:
            require_integer("threads", self.threads, 1)
            require(self.threads <= 1024, "threads", self.threads, "an integer <= 1024")
        self._check_data(DATA_SETS["mnist" if self.data == "auto" else self.data])
        balance = self.supervision.balance_weight
        allowed = "0, with mixed_batches False: a batch of one transformation is not balanced"
        require(self.mixed_batches or not balance, "supervision.balance_weight", balance, allowed)
        check_method(self)
        self._check_decoded_frames()

    def _check_decoded_frames(self) -> None:
        frames, most = self.loss.decoded_frames, self.sequence.num_steps + 1
        if frames is not None:
            require(frames <= most, "loss.decoded_frames", frames, f"at most {most}, the frames of a sequence")
            mode = self.supervision.mode
            allowed = f"None with supervision.mode {mode!r}, which recognizes k from all frames"
            require(mode == "supervised", "loss.decoded_frames", frames, allowed)

    def _check_data(self, data_set: DataSet) -> None:
        """Raise ArgumentError where model or sequences do not fit the images."""
        channels, size, _ = data_set.image_shape
        model, sequence = self.model, self.sequence
        of = f"of data = {self.data!r}"
        allowed = f"{channels}, the channels of the sequences {of}"
        require(model.image_channels == channels, "model.image_channels", model.image_channels, allowed)
        allowed = f"{size}, the size of the images {of}"
        require(model.image_size == size, "model.image_size", model.image_size, allowed)
        fits = set(sequence.transformations) <= set(data_set.movable)
        allowed = f"a selection of {data_set.movable}, those {of}"
        require(fits, "sequence.transformations", sequence.transformations, allowed)
        if not data_set.factors:
            workers = self.compute.loader_workers
            allowed = f"0: sequences {of} take longer to pass on than to make"
            require(not workers, "compute.loader_workers", workers, allowed)
            return
        sizes = {factor.name: factor.size for factor in data_set.factors}
        smallest = min(sequence.transformations, key=sizes.__getitem__)
        allowed = f"an integer below {sizes[smallest]}, the values of {smallest}"
        require(sequence.num_steps < sizes[smallest], "sequence.num_steps", sequence.num_steps, allowed)
        require(not self.held_out_classes, "held_out_classes", self.held_out_classes, f"(): images {of} have no class")
        allowed = f"0: split.validation divides the images {of}"
        require(not self.validation_images, "validation_images", self.validation_images, allowed)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What is evaluated, and how finely."""

    num_images: int | None = None
    """Test images for the errors, of as many as there are; default all."""
    likelihood_images: int = 1000
    """Test images for the likelihoods, which cost importance_samples times as much."""
    importance_samples: int = 16
    batch_size: int = 250
    log_det: EvaluatedLogDet = "exact"
    """Change of variables in the ELBO and the importance-weighted bound; they are bounds only with "exact"."""
    log_det_floor: float = 1e-3
    """Clamp of |1 + Δu| in the trace form."""
    seed: int = 0
    """Of the posterior samples."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    backend: str | None = None
    """Backend of the potential op; default that of the run."""
    data_dir: Path | None = None
    """Where to look for the data first; default the variable FFRL_DATA."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("likelihood_images", "importance_samples", "batch_size"):
            require_integer(name, getattr(self, name), 1)
        if self.num_images is not None:
            require_integer("num_images", self.num_images, 1)
        require_integer("seed", self.seed, 0)
        require(self.seed < 2**63, "seed", self.seed, "an integer below 2^63")
        require_number("log_det_floor", self.log_det_floor, 0.0, above=True)


PRESET_NAMES = get_args(Preset)
DATA_NAMES = get_args(DataName)
