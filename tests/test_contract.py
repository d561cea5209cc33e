"""What holds for every codec: each YAML of `experiments/configs/codec` is one case."""

import copy
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader

import diffcodec
from diffcodec.codec import Codec, to_uint8
from diffcodec.coding.bitstream import BLOCK_BYTES, BitstreamError, pack, pack_progressive
from experiments.build import is_untrained
from experiments.cli import CONFIG_DIR, compose_config
from tests.fresh_decoder import FreshDecoder
from tests.trainers import quiet_trainer

# Smaller networks than the defaults, where the defaults would take long on a CPU.
OVERRIDES = {
    "cdc_jpeg": ["codec.width=4", "codec.steps=2", "codec.compressor.quality=[10,80]"],
    "cdc_residual": [
        "codec.width=4",
        "codec.steps=2",
        "codec.weights=null",
        "codec.compressor.level=[1,6]",
    ],
    "cdc": ["codec.width=8", "codec.weights=null", "codec.steps=2"],
    "sdedit": [
        *("codec.prior.denoiser.channels=[8,12]", "codec.prior.denoiser.layers=1"),
        *("codec.prior.denoiser.weights=null", "codec.prior.consistency.weights=null"),
        "codec.strength=0.02",  # none is known of another prior than the one that ships
    ],
    "diffc": ["codec.bpp=[0.01,0.1]", "codec.steps=2", "codec.log2_candidates=12"],
    "ddcm": ["codec.bpp=[0.01,0.1]", "codec.steps=2", "codec.T=10", "codec.log2_atoms=14"],
    "stablecodec": [
        *("codec/backbone=small", "codec.backbone.weights=null", "codec.M=16"),
        *("codec.widths=[24,16]", "codec.elic_N=8", "codec.elic_M=12"),
    ],
    "elic": ["codec.N=12", "codec.M=144", "codec.groups=[4,4,8,16,112]"],
    "hific": ["codec.width=2", "codec.M=12", "codec.N=8", "codec.blocks=1"],
    "cheng2020_anchor": ["codec.size=[16]"],
    "cheng2020_attn": ["codec.size=[16]"],
    "mbt2018": ["codec.size=[16,24]"],
    "jpeg": ["codec.quality=[10,80]"],
    "webp": ["codec.quality=[10,80]"],
    "avif": ["codec.quality=[10,80]"],
    "jpeg2000": ["codec.ratio=[50,10]"],
}
# Of what needs no training or has trained weights: an operating point, and the PSNR in dB that
# 256x256 pixels of the astronaut have to reach there: 1.5 dB below what was measured. At its last
# point, any other has to be closer to them than their mean colour is, by MARGIN dB.
MARGIN = 3
QUALITY = {
    "avif": ("quality=80", 36.8),
    "cdc": ("lmbda=0.34,gamma=0", 27.1),
    "cdc_residual": ("level=6,gamma=0", 30.0),
    "ddcm": ("bpp=0.1", 23.4),
    "diffc": ("bpp=0.1", 24.0),
    "jpeg": ("quality=80", 33.9),
    "jpeg2000": ("ratio=10", 36.9),
    "mbt2018_mean_vbr": ("level=7", 33.1),
    "perco": ("rate=32x32/256", 16.5),
    "sdedit": ("fast,level=6", 30.4),
    "webp": ("quality=80", 34.6),
}
# Cases beside the YAMLs: another design of one.
VARIANTS = {
    "cdc_jpeg": ["codec=cdc_residual", "codec/compressor=jpeg"],
}
NAMES = sorted([*VARIANTS, *(path.stem for path in (Path(CONFIG_DIR) / "codec").glob("*.yaml"))])
# Need a program or a download: their own tests have stand-ins, and `-m binary` runs them here.
UNAVAILABLE = {"bpg": "bpgenc", "vtm": "EncoderApp", "msillm": "torch hub"}
CASES = [pytest.param(n, marks=pytest.mark.binary) if n in UNAVAILABLE else n for n in NAMES]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the process that decodes the same streams: the last bits depend on the number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def fresh_decoder() -> Iterator[FreshDecoder]:
    decoder = FreshDecoder()
    yield decoder
    decoder.close()


# What MKL, PyTorch and oneDNN compute with on a processor that has no instructions but the oldest:
# other sums in another order, and other last bits of square roots.
OLD_PROCESSOR = {
    "MKL_CBWR": "COMPATIBLE",
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}


@pytest.fixture(scope="module")
def old_processor() -> Iterator[FreshDecoder]:
    decoder = FreshDecoder(OLD_PROCESSOR)
    yield decoder
    decoder.close()


@dataclass
class Case:
    """A codec, and what it was built from."""

    name: str
    overrides: list[str]
    cfg: DictConfig
    codec: Codec

    @property
    def untrained(self) -> bool:
        return is_untrained(self.codec, self.cfg)


def vtm_config() -> list[str]:
    """The override that names VTM's configuration, where that lies beside its programs."""
    program = shutil.which("EncoderApp")
    path = Path(program or "").parents[1:2]
    found = [folder / "cfg" / "encoder_intra_vtm.cfg" for folder in path]
    return [f"codec.config={config}" for config in found if config.is_file()]


def build(name: str, overrides: list[str]) -> Case:
    more = vtm_config() if name == "vtm" else []
    overrides = [*VARIANTS.get(name, [f"codec={name}"]), *more, *overrides]
    cfg = compose_config(overrides)
    return Case(name, overrides, cfg, instantiate(cfg.codec).eval())


def build_lively(case_name: str) -> Case:
    """A codec of a test's size that makes use of its entropy coder, trained or not."""
    torch.manual_seed(0)
    built = build(case_name, OVERRIDES.get(case_name, []))
    # Random networks give all-zero latents; larger weights make them use the coder. A layer that
    # starts at zero would leave out what comes before it.
    if built.untrained:
        with torch.no_grad():
            for name, parameter in built.codec.named_parameters():
                if parameter.ndim == 4 and (parameter.requires_grad or name.startswith("codec.")):
                    parameter.mul_(1.5) if parameter.any() else parameter.normal_(std=0.02)
    return built


def find_case(name: str) -> Case:
    """A case; what this machine lacks for it skips the test."""
    try:
        return build_lively(name)
    except InstantiationException as error:
        if name not in UNAVAILABLE:
            raise
        pytest.skip(f"{name} needs {UNAVAILABLE[name]}: {error.__cause__ or error}")


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return find_case(request.param)


@pytest.mark.parametrize("name", sorted(UNAVAILABLE))
def test_what_is_missing_is_named(name, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InstantiationException, match=UNAVAILABLE[name]):
        build(name, OVERRIDES.get(name, []))


@pytest.fixture
def codec(case) -> Codec:
    return case.codec


SIZES = [(1, 1), (17, 31), (64, 64)]


def test_another_process_decodes_the_same_pictures(case, fresh_decoder, photo, tmp_path):
    codec = case.codec
    jobs, expected = [], []
    for point in dict.fromkeys((codec.points[0], codec.points[-1])):
        for height, width in SIZES:
            x = photo[..., 100 : 100 + height, 200 : 200 + width]
            (stream,) = codec.compress(x, point)
            assert codec.compress(x, point) == [stream]
            x_hat = codec.decompress([stream], point)
            assert x_hat.shape == x.shape
            assert x_hat.min() >= 0
            assert x_hat.max() <= 1
            path = tmp_path / f"{len(jobs)}.bin"
            path.write_bytes(stream)
            jobs.append((point.name, path, path.with_suffix(".pt")))
            expected.append(x_hat)
    fresh_decoder.decode(case.overrides, state_of(case, tmp_path), jobs)
    for (_, _, picture), x_hat in zip(jobs, expected, strict=True):
        assert torch.equal(torch.load(picture, weights_only=True), x_hat)


def state_of(case: Case, folder: Path) -> Path | None:
    """The file with a codec's weights, where they are not in its config."""
    if not case.untrained:
        return None
    path = folder / "state.ckpt"
    torch.save(case.codec.state_dict(), path)
    return path


def test_another_processor_decodes_the_same_streams(case, old_processor, photo, tmp_path):
    codec, point = case.codec, case.codec.points[-1]
    x = photo[..., 100:164, 200:264]
    (stream,) = codec.compress(x, point)
    path, picture = tmp_path / "64.bin", tmp_path / "64.pt"
    path.write_bytes(stream)
    old_processor.decode(case.overrides, state_of(case, tmp_path), [(point.name, path, picture)])
    difference = torch.load(picture, weights_only=True) - codec.decompress([stream], point)
    assert -10 * difference.square().mean().clamp(min=1e-12).log10() > 45  # PSNR, dB


def test_a_large_image(codec, photo):
    # A progressive codec takes the longer, the more it sends; the others show all that they have.
    point = codec.points[0 if codec.progressive else -1]
    x = torch.cat([photo, photo.flip(-1)[..., :256]], dim=-1)
    (stream,) = codec.compress(x, point)
    assert codec.decompress([stream], point).shape == (1, 3, 512, 768)


def test_a_batch_is_what_its_images_are(codec, photo):
    x = torch.cat([photo[..., i : i + 72, i : i + 100] for i in (0, 120, 240)])
    streams = codec.compress(x)
    assert streams == [codec.compress(image[None])[0] for image in x]
    together = codec.decompress(streams)
    # Decoder networks may round otherwise in a batch: by less than a pixel value.
    for i, stream in enumerate(streams):
        difference = (codec.decompress([stream])[0] - together[i]).abs().max()
        assert difference < 1 / 255


def test_truncated_and_corrupted_streams_are_refused(codec, photo):
    (stream,) = codec.compress(photo[..., :40, :40])
    positions = torch.linspace(0, len(stream) - 1, 24).long().tolist()
    checked = len(stream)
    if codec.progressive:  # what follows the last check is not covered
        checked -= codec.num_payload_bytes(stream) % BLOCK_BYTES
    for position in positions:
        if codec.progressive:
            decodes_or_is_refused(codec, stream[:position], 40, 40)
        else:
            with pytest.raises(BitstreamError):
                codec.decompress([stream[:position]])
        if position >= checked:
            continue
        broken = bytearray(stream)
        broken[position] ^= 0x55
        with pytest.raises(BitstreamError):
            codec.decompress([bytes(broken)])


@pytest.mark.parametrize("filler", [b"", b"\x00", b"\xff" * 3, bytes(range(256))])
def test_hostile_sections_end_in_an_error_or_a_picture(codec, filler):
    # Right fingerprint, right checksum, wrong content: what only an attacker sends.
    about: dict = {"height": 40, "width": 24, "fingerprint": codec.fingerprint()}
    if codec.progressive:
        stream = pack_progressive(filler, **about)
    else:
        stream = pack([filler] * codec.num_sections, **about)
    decodes_or_is_refused(codec, stream, 40, 24)


def decodes_or_is_refused(codec: Codec, stream: bytes, height: int, width: int) -> None:
    try:
        x_hat = codec.decompress([stream])
    except BitstreamError:
        return
    assert x_hat.shape == (1, 3, height, width)


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


def test_a_saved_folder_restores_the_codec(codec, photo, tmp_path):
    (stream,) = codec.compress(photo[..., :48, :48])
    other = diffcodec.load(str(codec.save(tmp_path)))
    assert torch.equal(other.decompress([stream]), codec.decompress([stream]))


def test_a_training_step_changes_the_network(codec, photo, tmp_path):
    if not codec.trainable:
        pytest.skip("is not trained")
    trained = copy.deepcopy(codec)
    before = {name: p.detach().clone() for name, p in trained.named_parameters()}
    crops = [photo[0, :, i : i + 64, :64] for i in (0, 64)]
    batches = [{"image": x, "index": i, "name": f"{i}"} for i, x in enumerate(crops)]
    quiet_trainer(tmp_path, max_steps=1).fit(trained, DataLoader(batches, batch_size=2))
    parameters = dict(trained.named_parameters())
    assert any(not torch.equal(p, before[name]) for name, p in parameters.items())
    assert all(p.isfinite().all() for p in parameters.values())


def test_pictures_of_trained_codecs_resemble_the_original(case, photo):
    if case.untrained:
        pytest.skip("has no trained weights")
    assert_resembles(case, photo)


@pytest.mark.parametrize("name", ["cdc", "cdc_residual", "sdedit"])
def test_pictures_of_shipped_weights_resemble_the_original(name, photo):
    # Those that OVERRIDES replaces.
    case = build(name, [])
    assert not case.untrained
    assert_resembles(case, photo)


def assert_resembles(case: Case, photo: Tensor) -> None:
    """The codec's picture of a crop is as close to it as `QUALITY` says."""
    x = photo[..., :256, :256]
    point, bound = case.codec.points[-1].name, psnr(x, x.mean((2, 3), keepdim=True)) + MARGIN
    point, bound = QUALITY.get(case.name, (point, bound))
    assert psnr(x, case.codec.decompress(case.codec.compress(x, point), point)) > bound


def psnr(x: Tensor, x_hat: Tensor) -> float:
    mse = (to_uint8(x).float() - to_uint8(x_hat).float()).square().mean()
    return float(10 * torch.log10(255**2 / mse))


def test_reference_encoders_on_the_path_need_no_entry_here(tmp_path, monkeypatch, photo):
    for name in ("bpgenc", "bpgdec", "EncoderApp", "DecoderApp"):
        code = "import shutil, sys; a = sys.argv; shutil.copy(a[-1], a[a.index('-o') + 1])"
        (tmp_path / name).write_text(f"#!{sys.executable}\n{code}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert_resembles(find_case("bpg"), photo)
    with pytest.raises(pytest.skip.Exception, match=r"vtm needs EncoderApp.*encoder_intra_vtm"):
        find_case("vtm")  # the configuration is not beside the programs


def test_a_new_codec_without_training_needs_no_entry_here(photo):
    jpeg = build("jpeg", ["codec.quality=[10,80]"])
    assert_resembles(Case("new", jpeg.overrides, jpeg.cfg, jpeg.codec), photo)
    grey = copy.copy(jpeg.codec)
    grey.decompress = lambda streams, point: torch.full((1, 3, 256, 256), 0.5)
    with pytest.raises(AssertionError):
        assert_resembles(Case("new", jpeg.overrides, jpeg.cfg, grey), photo)
