import copy

import pytest
import torch

import diffcodec
from diffcodec.coding.bitstream import BitstreamError
from diffcodec.latent.pixel import pixel_backbone
from diffcodec.latent.stable_diffusion import stable_diffusion
from diffcodec.networks.tiles import by_tiles
from diffcodec.stablecodec import StableCodec
from diffcodec.stablecodec.latent_codec import FourParts, part_mask, spread, squeezed
from experiments.build import is_untrained, refuse_untrained
from experiments.cli import compose_config
from tests.ddcm.drawn import save_drawn_pipeline
from tests.latent.tiny import save_pixel_model, save_sdxl
from tests.stablecodec.drawn import SIZES, save_drawn_checkpoint


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stablecodec")
    weights, elic = save_drawn_checkpoint(folder)
    return str(save_drawn_pipeline(folder / "sd", "epsilon")), str(weights), str(elic)


@pytest.fixture(scope="module")
def make_codec(files):
    pipeline, weights, elic = files

    def make(**options) -> StableCodec:
        given = {"weights": weights, "elic_weights": elic, **SIZES, **options}
        return StableCodec(stable_diffusion(pipeline), **given).eval()

    return make


@pytest.fixture(scope="module")
def codec(make_codec) -> StableCodec:
    return make_codec()


def test_parts_are_each_value_once():
    y = torch.randn(1, 8, 4, 6)
    masks = [part_mask(i, y) for i in range(4)]
    assert torch.equal(sum(masks), torch.ones_like(y))
    back = sum(spread(i, squeezed(i, y), y) for i in range(4))
    assert torch.equal(back, y)
    for i, mask in enumerate(masks):
        assert torch.equal(spread(i, squeezed(i, y), y), mask * y)


def test_a_part_is_predicted_from_those_before_it(codec):
    context = FourParts(codec.codec)
    parameters = torch.randn(1, 16, 4, 4, dtype=torch.float64)

    def means_of(first: int) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []

        def code(part, scales, means):
            found.append(means)
            return torch.full(means.shape, first if len(found) == 1 else 0)

        context(parameters, code)
        return found

    one, other = means_of(0), means_of(3)
    assert torch.equal(one[0], other[0])
    assert all(not torch.equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))


@pytest.mark.parametrize("size", [(1, 1), (40, 300), (256, 256)])
def test_any_size(codec, photo, size):
    x = photo[..., : size[0], : size[1]]
    (stream,) = codec.compress(x)
    assert codec.decompress([stream]).shape == x.shape


@torch.no_grad()
def test_larger_images_go_in_tiles(make_codec, photo):
    # The latent codec and ELIC are cut where nothing changes; autoencoder and U-Net are blended.
    whole, tiled = make_codec(), make_codec(window=256, unet_window=32)
    pictures = [codec.decompress(codec.compress(photo)) for codec in (whole, tiled)]
    assert pictures[0].shape == pictures[1].shape == photo.shape
    assert not torch.equal(*pictures)


@torch.no_grad()
def test_the_synthesis_is_the_same_in_tiles(codec):
    y_hat = torch.randn(1, 16, 8, 80, generator=torch.Generator().manual_seed(0))
    for network in (codec.codec.g_s, codec.codec.aux):
        tiled = by_tiles(network, y_hat, window=64, up=8)
        torch.testing.assert_close(tiled, network(y_hat), rtol=1e-4, atol=1e-4)


def test_other_rates_and_settings_are_refused(codec, make_codec, files, photo, tmp_path):
    (stream,) = codec.compress(photo[..., :64, :64])
    checkpoint = torch.load(files[1], weights_only=True)
    checkpoint["state_dict_codec"]["g_s.synthesis_transform.0.blocks.0.conv1.bias"][0] += 0.1
    torch.save(checkpoint, tmp_path / "other_rate.pkl")
    for other in (make_codec(weights=str(tmp_path / "other_rate.pkl")), make_codec(prompt="a dog")):
        with pytest.raises(BitstreamError):
            other.decompress([stream])
    # Only the encoder is another one.
    encoder = copy.deepcopy(codec)
    with torch.no_grad():
        encoder.elic.analysis_transform[0].bias.add_(0.1)
    assert encoder.fingerprint() == codec.fingerprint()


def test_what_was_saved_needs_no_published_files(codec, photo, tmp_path):
    (stream,) = codec.compress(photo[..., :64, :64])
    other = diffcodec.load(str(codec.save(tmp_path)))
    assert torch.equal(other.decompress([stream]), codec.decompress([stream]))
    assert other.compress(photo[..., :64, :64]) == [stream]


def test_the_rate_is_the_checkpoints(make_codec):
    codec = make_codec(lmbda=16)
    assert codec.points[0].name == "lmbda=16"
    assert codec.points[0].rate == {"lmbda": 16}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"M": 24}, "M must be a multiple of 16, got 24"),
        ({"window": 300}, "window must be a multiple of 256, got 300"),
        ({"unet_window": 33}, "window must be a multiple of 2, got 33"),
        ({"decode_precision": 16}, "16"),
    ],
)
def test_wrong_settings_are_refused(make_codec, options, message):
    with pytest.raises(ValueError, match=message):
        make_codec(weights=None, **options)


def test_other_backbones_are_refused(tmp_path):
    pixels = pixel_backbone(str(save_pixel_model(tmp_path / "pixels")))
    for backbone in (pixels, stable_diffusion(str(save_sdxl(tmp_path / "xl")))):
        with pytest.raises(ValueError, match="StableCodec needs Stable Diffusion Turbo"):
            StableCodec(backbone, **SIZES)


def test_without_weights_it_is_refused(make_codec):
    cfg = compose_config(["codec=stablecodec"])
    untrained = make_codec(weights=None)
    assert is_untrained(untrained, cfg)
    with pytest.raises(ValueError, match=r"StableCodec has no trained weights.*codec\.weights="):
        refuse_untrained(untrained, cfg)
