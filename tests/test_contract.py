"""What holds for every codec: each YAML of `experiments/configs/codec` is one case."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from diffcodec.bitstream import BitstreamError, pack
from diffcodec.codec import Codec, to_uint8
from experiments.cli import CONFIG_DIR, compose_config

# Smaller networks than the defaults, where the defaults would take long on a CPU.
OVERRIDES = {
    "cdc": ["codec.width=8", "codec.weights=null", "codec.steps=2"],
    "sdedit": [
        *("codec.prior.channels=[8,12]", "codec.prior.layers=1"),
        *("codec.prior.weights=null", "codec.prior.consistency_weights=null"),
    ],
    "elic": ["codec.N=12", "codec.M=144", "codec.groups=[4,4,8,16,112]"],
    "cheng2020_anchor": ["codec.size=[16]"],
    "cheng2020_attn": ["codec.size=[16]"],
    "mbt2018": ["codec.size=[16,24]"],
    "jpeg": ["codec.quality=[10,80]"],
    "webp": ["codec.quality=[10,80]"],
    "avif": ["codec.quality=[10,80]"],
    "jpeg2000": ["codec.ratio=[50,10]"],
}
NAMES = sorted(path.stem for path in (Path(CONFIG_DIR) / "codec").glob("*.yaml"))
# Need a program or a download: their own tests run them with stand-ins.
UNAVAILABLE = {"bpg": "bpgenc", "vtm": "EncoderApp", "msillm": "torch hub"}


@pytest.fixture(scope="module", params=NAMES)
def codec(request) -> Codec:
    name = request.param
    cfg = compose_config([f"codec={name}", *OVERRIDES.get(name, [])])
    torch.manual_seed(0)
    if name in UNAVAILABLE and not shutil.which(UNAVAILABLE[name]):
        with pytest.raises(InstantiationException, match=UNAVAILABLE[name]):
            instantiate(cfg.codec)
        pytest.skip(f"{name} needs {UNAVAILABLE[name]}")
    built: Codec = instantiate(cfg.codec).eval()
    # Random networks give all-zero latents; larger weights make them use the coder.
    if built.trainable and not cfg.codec.get("weights"):
        with torch.no_grad():
            for parameter in built.parameters():
                if parameter.ndim == 4:
                    parameter.mul_(1.5)
    return built


@pytest.mark.parametrize("size", [(1, 1), (17, 31), (64, 64)])
def test_a_fresh_instance_decodes_the_same_picture(codec, photo, size):
    x = photo[..., 100 : 100 + size[0], 200 : 200 + size[1]]
    for point in dict.fromkeys((codec.points[0], codec.points[-1])):
        codec.select(point)
        (stream,) = codec.compress(x)
        assert codec.compress(x) == [stream]
        x_hat = codec.decompress([stream])
        assert x_hat.shape == x.shape
        assert x_hat.min() >= 0
        assert x_hat.max() <= 1
        fresh = copy.deepcopy(codec)
        fresh.select(point)
        assert torch.equal(fresh.decompress([stream]), x_hat)


def test_a_large_image(codec, photo):
    codec.select(codec.points[-1])
    x = torch.cat([photo, photo.flip(-1)[..., :256]], dim=-1)
    (stream,) = codec.compress(x)
    assert codec.decompress([stream]).shape == (1, 3, 512, 768)


def test_a_batch_is_what_its_images_are(codec, photo):
    codec.select(codec.points[0])
    x = torch.cat([photo[..., i : i + 72, i : i + 100] for i in (0, 120, 240)])
    streams = codec.compress(x)
    assert streams == [codec.compress(image[None])[0] for image in x]
    together = codec.decompress(streams)
    # Decoder networks may round otherwise in a batch: by less than a pixel value.
    for i, stream in enumerate(streams):
        difference = (codec.decompress([stream])[0] - together[i]).abs().max()
        assert difference < 1 / 255


def test_truncated_and_corrupted_streams_are_refused(codec, photo):
    codec.select(codec.points[0])
    (stream,) = codec.compress(photo[..., :40, :40])
    positions = torch.linspace(0, len(stream) - 1, 24).long().tolist()
    for position in positions:
        with pytest.raises(BitstreamError):
            codec.decompress([stream[:position]])
        broken = bytearray(stream)
        broken[position] ^= 0x55
        with pytest.raises(BitstreamError):
            codec.decompress([bytes(broken)])


@pytest.mark.parametrize("filler", [b"", b"\x00", b"\xff" * 3, bytes(range(256))])
def test_hostile_sections_end_in_an_error_or_a_picture(codec, filler):
    # Right fingerprint, right checksum, wrong content: what only an attacker sends.
    stream = pack(
        [filler] * codec.num_sections, height=40, width=24, fingerprint=codec.fingerprint()
    )
    try:
        x_hat = codec.decompress([stream])
    except BitstreamError:
        return
    assert x_hat.shape == (1, 3, 40, 24)


def test_other_weights_are_refused(codec, photo):
    shared = codec.decoding_state()  # another encoder may write for the same decoder
    names = [name for name, p in codec.named_parameters() if name in shared]
    if not names:
        pytest.skip("has no weights")
    (stream,) = codec.compress(photo[..., :32, :32])
    other = copy.deepcopy(codec)
    with torch.no_grad():
        other.get_parameter(names[-1]).view(-1)[0] += 0.1
    with pytest.raises(BitstreamError):
        other.decompress([stream])


def test_a_checkpoint_restores_the_codec(codec, photo, tmp_path):
    if not codec.trainable:
        pytest.skip("is not trained")
    (stream,) = codec.compress(photo[..., :48, :48])
    torch.save(codec.state_dict(), tmp_path / "w.ckpt")
    other = copy.deepcopy(codec)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    other.fingerprint()
    other.load_state_dict(torch.load(tmp_path / "w.ckpt", weights_only=True))
    assert torch.equal(other.decompress([stream]), codec.decompress([stream]))


def test_a_training_step_changes_the_network(codec, photo):
    if not codec.trainable:
        pytest.skip("is not trained")
    trained = copy.deepcopy(codec).train()
    trained.log = lambda *_, **__: None
    loss = trained.training_step({"image": photo[..., :64, :64].repeat(2, 1, 1, 1)}, 0)
    assert loss.isfinite()
    loss.backward()
    gradients = [p.grad for p in trained.parameters() if p.grad is not None]
    assert sum(float(g.abs().sum()) for g in gradients) > 0


def test_pictures_of_trained_codecs_resemble_the_original(codec, photo):
    if codec.trainable and codec.fingerprint() and not _has_shipped_weights(codec):
        pytest.skip("has no weights yet")
    codec.select(codec.points[-1])
    x = photo[..., :256, :256]
    x_hat = codec.decompress(codec.compress(x))
    mse = (to_uint8(x).float() - to_uint8(x_hat).float()).square().mean()
    assert 10 * torch.log10(255**2 / mse) > 25


def _has_shipped_weights(codec: Codec) -> bool:
    return type(codec).__name__ == "VariableRateCodec"
