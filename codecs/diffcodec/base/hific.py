"""HiFiC (Mentzer et al., NeurIPS 2020), with the networks of the public PyTorch reimplementation.

x -> g_a -> y -> h_a -> z -> factorized prior -> bytes
            y | mu, sigma of h_s(z_hat) -> Gaussian or logistic conditional -> bytes
y_hat -> g_s -> x_hat

The layers, their order and their names match its checkpoints.
"""

import copy
from itertools import pairwise
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.models import MeanScaleHyperprior
from torch import Tensor, nn
from torch.nn import functional as F

from diffcodec.base.learned import LearnedCodec
from diffcodec.coding.hyper_synthesis import exact_synthesis
from diffcodec.networks.tiles import Network
from diffcodec.points import combine
from diffcodec.weights.loading import load_checkpoint, remap
from diffcodec.weights.model_folder import load_saved

LIKELIHOODS = ("gaussian", "logistic")
LAMBDA_ABOVE = {0.14: 2.0, 0.3: 1.0, 0.45: 0.5}
"""Target rate in bits per pixel -> weight of the rate if it is above the target (Table 3a)."""
LAMBDA_BELOW = 2**-4
K_M = 0.075 * 2**-5

_RELEASED = "model_state_dict"  # key in the public checkpoints
_Z = "Hyperprior.hyperlatent_likelihood."
KEY_TABLE: list[tuple[str, str | None]] = [
    (r"Encoder\.", "g_a."),
    (r"Generator\.", "g_s."),
    (r"Hyperprior\.analysis_net\.", "h_a."),
    (r"Hyperprior\.synthesis_mu\.", "h_s.mu."),
    (r"Hyperprior\.synthesis_std\.", "h_s.std."),
    (_Z.replace(".", r"\.") + r"H_(\d)$", r"entropy_bottleneck.matrices.\1"),
    (_Z.replace(".", r"\.") + r"b_(\d)$", r"entropy_bottleneck.biases.\1"),
    (_Z.replace(".", r"\.") + r"a_(\d)$", r"entropy_bottleneck.factors.\1"),
    # Entropy tables, which are rebuilt, and modules used in training only.
    (
        r"Hyperprior\.(hyperprior_entropy_model|prior_entropy_model|prior_density|index_tables)",
        None,
    ),
    (r"(Discriminator|perceptual_loss|squared_difference)\.", None),
]


class ChannelNorm(nn.Module):
    """Normalization of each pixel over its channels, with learned scale and shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True)
        return self.gamma * (x - mean) * torch.rsqrt(variance + 1e-3) + self.beta


class Encoder(nn.Module):
    """g_a: images (B, 3, H, W) in [0, 1] -> y (B, M, H/16, W/16)."""

    def __init__(self, width: int, M: int, *, normalized: bool) -> None:
        super().__init__()
        self.normalized = normalized
        widths = [width << i for i in range(5)]
        self.conv_block1 = _normed(nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7))
        for i, (before, after) in enumerate(pairwise(widths), start=2):
            # As in the public code, pad one pixel at the right and one at the top.
            pad, conv = nn.ReflectionPad2d((0, 1, 1, 0)), nn.Conv2d(before, after, 3, stride=2)
            self.add_module(f"conv_block{i}", _normed(pad, conv))
        self.conv_block_out = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(widths[-1], M, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = 2 * x - 1 if self.normalized else x
        for block in self.children():
            x = block(x)
        return x


class ResidualBlock(nn.Module):
    """x + two normalized 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(1)
        self.conv1, self.conv2 = nn.Conv2d(channels, channels, 3), nn.Conv2d(channels, channels, 3)
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm1(self.conv1(self.pad(x))))
        out: Tensor = x + self.norm2(self.conv2(self.pad(h)))
        return out


class Generator(nn.Module):
    """g_s: y_hat (B, M, h, w) -> images (B, 3, 16 h, 16 w) in about [0, 1], not clamped."""

    def __init__(self, width: int, M: int, *, blocks: int, normalized: bool) -> None:
        super().__init__()
        self.blocks, self.normalized = blocks, normalized
        widths = [width << i for i in range(5)][::-1]
        self.conv_block_init = nn.Sequential(
            *(ChannelNorm(M), nn.ReflectionPad2d(1), nn.Conv2d(M, widths[0], 3)),
            ChannelNorm(widths[0]),
        )
        for i in range(blocks):
            self.add_module(f"resblock_{i}", ResidualBlock(widths[0]))
        for i, (before, after) in enumerate(pairwise(widths), start=1):
            conv = nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1)
            self.add_module(f"upconv_block{i}", _normed(conv))
        self.conv_block_out = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(widths[-1], 3, 7))

    def forward(self, y_hat: Tensor) -> Tensor:
        head = self.conv_block_init(y_hat)
        x = head
        for i in range(self.blocks):
            x = self.get_submodule(f"resblock_{i}")(x)
        x = x + head
        for i in range(1, 5):
            x = self.get_submodule(f"upconv_block{i}")(x)
        x = self.conv_block_out(x)
        return (torch.tanh(x) + 1) / 2 if self.normalized else x


class HyperAnalysis(nn.Module):
    """h_a: y (B, M, h, w) -> z (B, N, h/4, w/4)."""

    def __init__(self, M: int, N: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(M, N, 3, padding=1)
        self.conv2 = nn.Conv2d(N, N, 5, stride=2)
        self.conv3 = nn.Conv2d(N, N, 5, stride=2)

    def forward(self, y: Tensor) -> Tensor:
        h = torch.relu(self.conv1(y))
        h = torch.relu(self.conv2(_mirrored(h)))
        z: Tensor = self.conv3(_mirrored(h))
        return z


class HyperSynthesis(nn.Sequential):
    """One of the two networks of h_s: z_hat (B, N, h/4, w/4) -> mu or sigma of y, (B, M, h, w)."""

    def __init__(self, M: int, N: int) -> None:
        super().__init__()
        double: dict[str, Any] = {"kernel_size": 5, "stride": 2, "padding": 2, "output_padding": 1}
        self.conv1 = nn.ConvTranspose2d(N, N, **double)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.ConvTranspose2d(N, N, **double)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.ConvTranspose2d(N, M, 3, padding=1)


class Parameters(nn.Module):
    """h_s: z_hat -> sigma and mu of y, concatenated in CompressAI's order."""

    def __init__(self, M: int, N: int) -> None:
        super().__init__()
        self.std, self.mu = HyperSynthesis(M, N), HyperSynthesis(M, N)

    def forward(self, z_hat: Tensor) -> Tensor:
        return torch.cat([self.std(z_hat), self.mu(z_hat)], 1)


class HyperDensity(EntropyBottleneck):
    """The factorized prior of z; unlike CompressAI's, its last layer also has a factor."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, filters=(3, 3, 3))
        self.factors.append(nn.Parameter(torch.zeros(channels, 1, 1)))

    def _logits_cumulative(self, inputs: Tensor, stop_gradient: bool) -> Tensor:
        logits = inputs
        for parameters in zip(self.matrices, self.biases, self.factors, strict=True):
            matrix, bias, factor = (p.detach() if stop_gradient else p for p in parameters)
            logits = torch.matmul(F.softplus(matrix), logits) + bias
            logits = logits + torch.tanh(factor) * torch.tanh(logits)
        return logits

    def find_tails(self) -> None:
        """Find the tail quantiles, and set the median to 0, so that z is rounded to integers."""
        self._update_quantiles()
        with torch.no_grad():
            self.quantiles[:, :, 1] = 0


class LogisticConditional(GaussianConditional):
    """A conditional entropy model with a logistic instead of a Gaussian distribution."""

    def _standardized_cumulative(self, inputs: Tensor) -> Tensor:
        return torch.sigmoid(inputs)

    @staticmethod
    def _standardized_quantile(quantile: float) -> float:
        from scipy.stats import logistic

        return float(logistic.ppf(quantile))


class HiFiCModel(MeanScaleHyperprior):
    """HiFiC's networks in CompressAI's `MeanScaleHyperprior`."""

    def __init__(
        self, width: int, M: int, N: int, *, blocks: int, likelihood: str, normalized: bool
    ) -> None:
        super().__init__(1, 1)  # its networks are replaced below
        self.g_a = Encoder(width, M, normalized=normalized)
        self.g_s = Generator(width, M, blocks=blocks, normalized=normalized)
        self.h_a, self.h_s = HyperAnalysis(M, N), Parameters(M, N)
        self.entropy_bottleneck = HyperDensity(N)
        conditional = LogisticConditional if likelihood == "logistic" else GaussianConditional
        self.gaussian_conditional = conditional(None)


class HiFiC(LearnedCodec):
    """HiFiC, one network for each target rate.

    The bitstream is this project's: real bytes, with the scales of the hyper-synthesis computed in
    integers. Images are padded to multiples of 64 pixels by repeating their border. The public code
    pads images to multiples of 16 and latents to multiples of 4, by reflection.

    The training step minimizes the mean squared error at a target rate. It has neither the LPIPS of
    the paper's first stage nor the discriminator of the second. Each process compares the rate of
    its own images with the target, so training on several processes differs from training on one.

    Args:
        target: target rate in bits per pixel, 0.14, 0.3 or 0.45 (low, medium and high).
        width: number of channels of the first layer of g_a, 60 in the paper; doubled four times.
        M, N: numbers of channels of y and z, 220 and 320 in the paper.
        blocks: number of residual blocks of g_s; null selects that of a public checkpoint, or 9.
        likelihood: distribution of y, `gaussian` or `logistic`; null selects that of a public
            checkpoint, or `gaussian`.
        normalized: whether the networks work on images in [-1, 1]; null selects the setting of a
            public checkpoint, or true.
        weights: null to train from scratch, or a source of `diffcodec.weights`: a public
            checkpoint, one per target, or a model saved by this project.
        lr, aux_lr: learning rates of the network and of the factorized prior's quantiles.

    Raises:
        ValueError: an argument is not among its choices, or the weights do not fit.
    """

    def __init__(
        self,
        target: float = 0.14,
        width: int = 60,
        M: int = 220,
        N: int = 320,
        *,
        blocks: int | None = None,
        likelihood: str | None = None,
        normalized: bool | None = None,
        weights: str | None = None,
        lr: float = 1e-4,
        aux_lr: float = 1e-3,
    ) -> None:
        if target not in LAMBDA_ABOVE:
            raise ValueError(f"unknown target {target}, choose from {sorted(LAMBDA_ABOVE)}")
        if likelihood is not None and likelihood not in LIKELIHOODS:
            raise ValueError(f"unknown likelihood {likelihood!r}, choose from {LIKELIHOODS}")
        found = {} if weights is None else _facts(load_checkpoint(weights))
        asked = {"blocks": blocks, "likelihood": likelihood, "normalized": normalized}
        for name, value in asked.items():
            if value is not None and found.setdefault(name, value) != value:
                raise ValueError(f"{weights} has {name}={found[name]}, not {value}: remove {name}")
        self._facts = {"blocks": 9, "likelihood": "gaussian", "normalized": True, **found}
        model = HiFiCModel(width, M, N, **self._facts)
        super().__init__(model, lr=lr, aux_lr=aux_lr, points=combine(rate={"target": target}))
        self.target = target
        if weights is not None:
            self.load_weights(weights)

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), **self._facts}

    def format_config(self) -> dict[str, Any]:
        return {"likelihood": self._facts["likelihood"]}

    def load_weights(self, source: str, *_: Any) -> None:
        """Load a public checkpoint, or a model saved by this project.

        Raises:
            ValueError: the checkpoint cannot be loaded, or does not fit.
        """
        checkpoint = load_checkpoint(source)
        if _RELEASED not in checkpoint:
            super().load_weights(source)
            return
        state = remap(checkpoint[_RELEASED], KEY_TABLE)
        prior: Any = self.model.entropy_bottleneck
        # A public checkpoint has no quantiles; `find_tails` computes them.
        state.setdefault("entropy_bottleneck.quantiles", prior.quantiles.detach())
        load_saved(self, {f"model.{k}": v for k, v in state.items()}, source=source)
        prior.find_tails()

    def hyper_synthesis(self) -> Network:
        # The means need not be exact; see `diffcodec.coding.hyper_synthesis`.
        std, mu = exact_synthesis(self.model.h_s.std), copy.deepcopy(self.model.h_s.mu).cpu()
        return lambda z_hat: torch.cat([std(z_hat), mu(z_hat.float())], dim=1)

    def rate_distortion(self, x: Tensor) -> dict[str, Tensor]:
        out = self.model(x)
        bits = [likelihood.log2().sum() for likelihood in out["likelihoods"].values()]
        bpp = -torch.stack(bits).sum() / (x.shape[0] * x.shape[2] * x.shape[3])
        mse = F.mse_loss(out["x_hat"], x)
        # Eq. 8: the rate has a larger weight if it is above the target.
        above = bool(bpp.detach() > self.target)
        lmbda = LAMBDA_ABOVE[self.target] if above else LAMBDA_BELOW
        return {"loss": lmbda * bpp + K_M * 255**2 * mse, "bpp_loss": bpp, "mse_loss": mse}


def _facts(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The network's settings in a public checkpoint; empty for any other checkpoint."""
    state, options = checkpoint.get(_RELEASED), checkpoint.get("args")
    if state is None:
        return {}
    if not isinstance(options, dict):
        raise ValueError("the HiFiC checkpoint has no 'args', which describe its network")
    blocks = {key.split(".")[1] for key in state if key.startswith("Generator.resblock_")}
    return {
        "blocks": len(blocks),
        # Checkpoints older than these options use the first choice of each.
        "likelihood": str(options.get("likelihood_type", "gaussian")),
        "normalized": bool(options.get("normalize_input_image", False)),
    }


def _normed(*layers: nn.Module) -> nn.Sequential:
    channels: Any = layers[-1].out_channels
    return nn.Sequential(*layers, ChannelNorm(channels), nn.ReLU())


def _mirrored(h: Tensor) -> Tensor:
    """Pad by two on each side, by reflection, or by repetition if a side is shorter than three."""
    return F.pad(h, (2, 2, 2, 2), mode="reflect" if min(h.shape[-2:]) > 2 else "replicate")
