"""Groups of PerCo's arguments: the hyper-encoders, and how a PerCo is trained."""

from diffcodec.weights.configuration import argument_group


@argument_group
class HyperEncoderSettings:
    """Sizes and quantizer of the hyper-encoders (Sec. 3.2).

    Args:
        N, M: numbers of channels inside the hyper-encoder and of z.
        codebook_dim: dimension in which codes are searched.
        quantize: whether z is quantized. False sends z in single precision, at many times the rate,
            for the comparison in Table 1; train a separate model for it.
        cosine: search codes by cosine similarity, as the public PerCo (SD) and Yu et al. (2022);
            false searches by Euclidean distance. The paper does not state its distance.
        decay: decay of the moving averages that update the codebook.
        dead_code_threshold: codes used less often than this are replaced by random vectors of the
            batch; 0 keeps all codes, as in the paper.
    """

    N: int = 192
    M: int = 320
    codebook_dim: int = 32
    quantize: bool = True
    cosine: bool = True
    decay: float = 0.8
    dead_code_threshold: float = 0.0


@argument_group
class TrainingSettings:
    """How a PerCo is trained; the defaults are the paper's (App. A).

    Args:
        finetune: which weights of the U-Net are trained: `linear`, `all`, `lora` or `low_rank`, see
            `diffcodec.perco.finetune`.
        lora_rank: rank of the updates of `lora` and `low_rank`.
        checkpointing: recompute the U-Net's activations in the backward pass, for less memory and
            more time. The result is the same.
        lr, weight_decay: learning rate and weight decay of AdamW.
        warmup_steps: number of steps of linear warm-up.
        anneal: let the learning rate fall linearly to zero over the run; false keeps it constant,
            as in the paper.
        caption_drop: share of training images whose caption is replaced by the null text.
        local_drop: share of training images whose codes are replaced by zeros.
        learned_null: train the null text, initialized with the embedding of the empty text. False
            keeps that embedding, as the public PerCo (SD) does.
        commitment: weight of the commitment loss (Eq. 4).
        lpips_weight: weight of the perceptual distance, at rates of 0.05 bpp or more.
        perceptual, vgg_weights: choice of that distance and weights of its network, see
            `diffcodec.training.perceptual`; the paper uses LPIPS (`vgg`).
    """

    finetune: str = "linear"
    lora_rank: int = 16
    checkpointing: bool = False
    lr: float = 1e-4
    weight_decay: float = 0.01
    warmup_steps: int = 10_000
    anneal: bool = False
    caption_drop: float = 0.1
    local_drop: float = 0.0
    learned_null: bool = True
    commitment: float = 1.0
    lpips_weight: float = 0.0
    perceptual: str | None = None
    vgg_weights: str | None = None

    def __post_init__(self) -> None:
        for name in ("caption_drop", "local_drop"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
