import pytest
import torch
from torch import Tensor

from diffcodec.base.classical import PillowCodec
from diffcodec.base.vbr import VariableRateCodec
from diffcodec.codec import Codec
from diffcodec.sdedit import SDEdit
from diffcodec.sdedit.presets import Preset
from diffcodec.sdedit.small_prior import SmallPrior
from diffcodec.sdedit.small_unet import SmallUNet

PRESETS = {
    "fast": Preset("consistency"),
    "medium": Preset(steps=3),
    "slow": Preset("euler_sde", steps=3, zeta=0.6),
}


@pytest.fixture(scope="session")
def make_prior():
    """Options -> a tiny prior whose networks do something, the same weights every time."""
    return _prior


@pytest.fixture(scope="session")
def make_codec():
    """Presets, base, options -> an enhancer with a tiny prior."""
    return _codec


@pytest.fixture(scope="session")
def hyperprior():
    """The variable-rate hyperprior that ships, at two of its levels."""

    def build() -> Codec:
        return VariableRateCodec(level=[1, 5], weights="mbt2018_mean_vbr").eval()

    return build


@pytest.fixture
def x(photo) -> Tensor:
    """Two photographs (2, 3, 72, 100) in [0, 1]."""
    return torch.cat([photo[..., 20:92, 180:280], photo[..., 300:372, 60:160]])


def _prior(**options) -> SmallPrior:
    torch.manual_seed(0)
    prior = SmallPrior(SmallUNet([8, 12], 1), SmallUNet([8, 12], 1), **options)
    with torch.no_grad():
        for network in (prior.network, prior.consistency_network):
            network.conv_out.weight.normal_(std=0.02)
    return prior


def _codec(*presets: str, base: Codec | None = None, **options) -> SDEdit:
    base = PillowCodec("JPEG", quality=[10, 60]) if base is None else base
    options = {"strength": 0.1, **options}
    chosen = {name: PRESETS[name] for name in presets or ("fast", "medium")}
    return SDEdit(base, options.pop("prior", _prior()), chosen, **options).eval()
