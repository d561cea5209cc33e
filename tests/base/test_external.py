"""BPG and VTM with stand-in programs that keep the pixels: everything around them is real."""

import shutil
import struct
import sys
import zlib
from pathlib import Path

import pytest
import torch

from diffcodec.base.external import Bpg, Vtm, rgb_to_ycbcr, ycbcr_to_rgb
from diffcodec.codec import to_uint8
from diffcodec.coding.bitstream import BitstreamError, pack


def program(path: Path, body: str) -> str:
    path.write_text(f"#!{sys.executable}\nimport shutil, sys\nargs = sys.argv[1:]\n{body}")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def bpg(tmp_path) -> Bpg:
    enc = program(
        tmp_path / "bpgenc",
        "assert args[args.index('-q') + 1] == '37' and args[args.index('-f') + 1] == '444'\n"
        "shutil.copy(args[-1], args[args.index('-o') + 1])",
    )
    dec = program(tmp_path / "bpgdec", "shutil.copy(args[-1], args[args.index('-o') + 1])")
    return Bpg([37], bpgenc=enc, bpgdec=dec)


@pytest.fixture(params=[8, 10])
def vtm(tmp_path, request) -> Vtm:
    enc = program(
        tmp_path / "EncoderApp",
        "assert '--InputChromaFormat=444' in args and args[args.index('-q') + 1] == '32'\n"
        "shutil.copy(args[args.index('-i') + 1], args[args.index('-b') + 1])",
    )
    dec = program(
        tmp_path / "DecoderApp",
        "shutil.copy(args[args.index('-b') + 1], args[args.index('-o') + 1])",
    )
    config = tmp_path / "encoder_intra_vtm.cfg"
    config.write_text("")
    return Vtm([32], config=str(config), bit_depth=request.param, encoder=enc, decoder=dec)


def test_bpg_round_trip(bpg, photo):
    x = photo[..., :33, :21]
    assert torch.equal(to_uint8(bpg.decompress(bpg.compress(x))), to_uint8(x))


def test_vtm_round_trip_loses_only_the_rounding_of_ycbcr(vtm, photo):
    x = photo[..., :64, :48]
    x_hat = vtm.decompress(vtm.compress(x))
    error = (to_uint8(x_hat).int() - to_uint8(x).int()).abs()
    # 10 bits hold 8-bit RGB exactly; 8 bits are off by at most 2, unbiased.
    assert error.max() <= (0 if vtm._bit_depth == 10 else 2)
    assert (x_hat - x).mean().abs() < 1e-3


def test_8_bit_ycbcr_reaches_more_than_truncation_would(photo):
    # Rounding once costs 52 dB at most; truncating twice is the ceiling of 43.7 dB on Kodak.
    x = to_uint8(photo[0]) / 255
    x_hat = to_uint8(ycbcr_to_rgb(rgb_to_ycbcr(x, 8), 8)) / 255
    assert 10 * torch.log10(1 / (x - x_hat).square().mean()) > 50


@pytest.mark.parametrize(
    ("rgb", "ycbcr"),
    [((0, 0, 0), (0, 128, 128)), ((1, 1, 1), (255, 128, 128)), ((1, 0, 0), (54, 98, 255))],
)
def test_bt_709_in_closed_form(rgb, ycbcr):
    x = torch.tensor(rgb, dtype=torch.float32).view(3, 1, 1)
    assert rgb_to_ycbcr(x, 8).flatten().tolist() == list(ycbcr)


def test_a_program_that_fails_is_quoted(bpg, tmp_path, photo):
    program(tmp_path / "bpgenc", "sys.exit('no such colour')")
    with pytest.raises(RuntimeError, match="no such colour"):
        bpg.compress(photo[..., :8, :8])
    program(tmp_path / "bpgenc", "shutil.copy(args[-1], args[args.index('-o') + 1])")
    (stream,) = bpg.compress(photo[..., :8, :8])
    program(tmp_path / "bpgdec", "sys.exit(3)")
    with pytest.raises(BitstreamError, match="exited 3"):
        bpg.decompress([stream])


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file whose header claims a size, with any further chunks."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (header, *chunks)
    )


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (png(30_000, 30_000, (b"IDAT", b"")), "not a readable BPG file.*decompression bomb"),
        (png(8, 8, (b"IDAT", b"x"), (b"\x00" * 4, b"")), "not a readable BPG file"),
        (png(9, 8, (b"IDAT", b"")), "the BPG file is 8x9, but its header says 8x8"),
        (b"", "not a readable BPG file"),
    ],
    ids=["bomb", "broken chunk", "another size", "empty"],
)
def test_a_hostile_bpg_file_raises_a_bitstream_error(bpg, file, message):
    stream = pack([file], height=8, width=8, fingerprint=bpg.fingerprint())
    with pytest.raises(BitstreamError, match=message):
        bpg.decompress([stream])


@pytest.mark.parametrize("num_bytes", [3 * 64 * 2 + 1, 3 * 64 * 2 - 2, 1, 0])
def test_a_vvc_stream_of_another_size_raises_a_bitstream_error(vtm, num_bytes):
    stream = pack([bytes(num_bytes)], height=8, width=8, fingerprint=vtm.fingerprint())
    with pytest.raises(BitstreamError, match="the VVC stream is not 8x8"):
        vtm.decompress([stream])


def test_missing_programs_say_what_to_install(tmp_path):
    with pytest.raises(ValueError, match="build libbpg"):
        Bpg([37], bpgenc=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="build VTM"):
        Vtm([32], config=None, encoder=str(tmp_path / "nothing"))
    true = shutil.which("true")
    with pytest.raises(ValueError, match="encoder_intra_vtm"):
        Vtm([32], config=None, encoder=true, decoder=true)
    with pytest.raises(ValueError, match=r"\[52\] is outside 0 to 51"):
        Bpg([52])


def test_pictures_over_the_standards_highest_level_are_refused(bpg, vtm):
    for codec, height, width, message in (
        *((bpg, 1, 16889, "HEVC level 6.2 allows at most 16888 pixels per side"),),
        *((bpg, 6000, 6000, "35651584 in total, got 6000x6000"),),
        *((vtm, 25333, 1, "VVC level 6.3 allows at most 25332 pixels per side"),),
    ):
        with pytest.raises(ValueError, match=message):
            codec.compress(torch.zeros(1, 1, 1).expand(1, 3, height, width))
    assert bpg.size_problem(4096, 8192) is None
    assert vtm.size_problem(8192, 8192) is None


@pytest.mark.binary
@pytest.mark.skipif(not shutil.which("bpgenc"), reason="bpgenc is not installed")
def test_real_bpg(photo):
    codec = Bpg([32])
    x_hat = codec.decompress(codec.compress(photo))
    assert 10 * torch.log10(1 / (photo - x_hat).square().mean()) > 30


@pytest.mark.binary
@pytest.mark.skipif(not shutil.which("EncoderApp"), reason="VTM is not installed")
def test_real_vtm(photo):
    config = Path(shutil.which("EncoderApp") or "").parents[1] / "cfg" / "encoder_intra_vtm.cfg"
    codec = Vtm([32], config=str(config))
    x_hat = codec.decompress(codec.compress(photo[..., :128, :128]))
    assert 10 * torch.log10(1 / (photo[..., :128, :128] - x_hat).square().mean()) > 30
