"""BPG and VTM, which run as external programs on temporary files."""

import math
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffcodec.base.images import read_untrusted, to_pil
from diffcodec.codec import Codec, Decoded
from diffcodec.coding.bitstream import BitstreamError
from diffcodec.points import Point, combine, listed
from diffcodec.weights.local_files import is_file, local_path

# BT.709 luma weights; chroma is scaled to [-1/2, 1/2] (Rec. ITU-R BT.709-6, item 3.3).
_KR, _KB = 0.2126, 0.0722
_KG = 1.0 - _KR - _KB
_RGB_TO_YCBCR = torch.tensor(
    [
        [_KR, _KG, _KB],
        [-_KR / (2 * (1 - _KB)), -_KG / (2 * (1 - _KB)), 0.5],
        [0.5, -_KG / (2 * (1 - _KR)), -_KB / (2 * (1 - _KR))],
    ],
    dtype=torch.float64,
)


def find_program(path: str, *, install: str) -> str:
    """The full path of a program given by name (searched on PATH) or by path.

    Raises:
        ValueError: the program does not exist; the message says what to install.
    """
    found = shutil.which(str(local_path(path)))
    if found is None:
        raise ValueError(f"program {path!r} was not found: {install}")
    return found


@dataclass(frozen=True)
class PictureLimit:
    """The picture size limit of a standard's highest numbered level.

    Attributes:
        level: names of the standard and the level.
        samples: maximum number of luma samples of a picture (`MaxLumaPs`). A side has at most
            sqrt(8 samples) samples.
    """

    level: str
    samples: int

    def problem(self, height: int, width: int) -> str | None:
        """The reason why a picture of this size is too large, or None."""
        side = math.isqrt(8 * self.samples)
        if max(height, width) <= side and height * width <= self.samples:
            return None
        return (
            f"{self.level} allows at most {side} pixels per side and {self.samples} in total, "
            f"got {height}x{width}"
        )


# Rec. ITU-T H.265, table A.8, and Rec. ITU-T H.266, table A.1.
HEVC = PictureLimit("HEVC level 6.2", 35_651_584)
VVC = PictureLimit("VVC level 6.3", 80_216_064)


class ExternalCodec(Codec):
    """A codec that runs two programs; the stream contains the encoder's file.

    Args:
        qp: quantization parameter, one or several; each is an operating point, and a lower one has
            a higher rate.
        low, high: range of the quantization parameter.
        timeout: seconds per image after which a program is stopped.
    """

    limit: PictureLimit

    def __init__(self, qp: int | Sequence[int], *, low: int, high: int, timeout: float) -> None:
        values = listed(qp)
        outside = [value for value in values if not low <= value <= high]
        if outside:
            raise ValueError(f"quantization parameter {outside} is outside {low} to {high}")
        super().__init__(combine(rate={"qp": sorted(values, reverse=True)}))
        self._timeout = timeout

    def size_problem(self, height: int, width: int) -> str | None:
        return self.limit.problem(height, width) or super().size_problem(height, width)

    def encode(self, x: Tensor, point: Point) -> list[list[bytes]]:
        if problem := self.size_problem(*x.shape[-2:]):
            raise ValueError(problem)
        qp = int(point.rate["qp"])  # type: ignore[arg-type]
        return [[self._in_folder(self._encode_image, image, qp)] for image in x]

    def decode(
        self,
        payloads: list[list[bytes]],
        height: int,
        width: int,
        seeds: list[int],
        point: Point,
    ) -> Decoded:
        images = []
        for (file,) in payloads:
            try:
                image = self._in_folder(self._decode_image, file, height, width)
            except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
                raise BitstreamError(f"the decoder failed: {error}") from error
            images.append(image)
        return Decoded(torch.stack(images).to(self.device))

    def _encode_image(self, folder: Path, image: Tensor, qp: int) -> bytes:
        raise NotImplementedError

    def _decode_image(self, folder: Path, file: bytes, height: int, width: int) -> Tensor:
        raise NotImplementedError

    @staticmethod
    def _in_folder(function: Any, *args: Any) -> Any:
        with tempfile.TemporaryDirectory(prefix="diffcodec-") as folder:
            return function(Path(folder), *args)

    def _run(self, *command: str | Path) -> None:
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            timeout=self._timeout,
            check=False,
        )
        if done.returncode:
            output = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise RuntimeError(f"{Path(command[0]).name} exited {done.returncode}: {output[-500:]}")


class Bpg(ExternalCodec):
    """BPG (Bellard): HEVC intra coding in a container.

    Args:
        qp: quantization parameter, 0 to 51, one or several.
        chroma: chroma format, `420` (the program's default), `422` or `444`.
        encoder: HEVC encoder in the program, `x265` or `jctvc`.
        bpgenc, bpgdec: the programs, by name on PATH or by path.
    """

    limit = HEVC
    INSTALL = (
        "build libbpg (https://bellard.org/bpg) and put bpgenc and bpgdec on PATH, or pass "
        "codec.bpgenc=FILE codec.bpgdec=FILE"
    )

    def __init__(
        self,
        qp: int | Sequence[int],
        *,
        chroma: str = "444",
        encoder: str = "x265",
        bpgenc: str = "bpgenc",
        bpgdec: str = "bpgdec",
        timeout: float = 600.0,
    ) -> None:
        if str(chroma) not in ("420", "422", "444"):
            raise ValueError(f"unknown chroma {chroma!r}, choose from 420, 422, 444")
        super().__init__(qp, low=0, high=51, timeout=timeout)
        self._chroma, self._encoder = str(chroma), encoder
        self._bpgenc = find_program(bpgenc, install=self.INSTALL)
        self._bpgdec = find_program(bpgdec, install=self.INSTALL)

    def _encode_image(self, folder: Path, image: Tensor, qp: int) -> bytes:
        source, target = folder / "in.png", folder / "out.bpg"
        to_pil(image).save(source)
        self._run(
            *(self._bpgenc, "-q", str(qp), "-f", self._chroma, "-e", self._encoder),
            *("-o", target, source),
        )
        return target.read_bytes()

    def _decode_image(self, folder: Path, file: bytes, height: int, width: int) -> Tensor:
        source, target = folder / "in.bpg", folder / "out.png"
        source.write_bytes(file)
        self._run(self._bpgdec, "-o", target, source)
        return read_untrusted(target, "PNG", height, width, name="BPG")


class Vtm(ExternalCodec):
    """VTM, the VVC reference software, in intra mode on BT.709 YCbCr 4:4:4.

    The conversions from and to RGB are computed in float, and each is rounded once. Some wrappers
    truncate to 8 bits instead, which limits the PSNR on Kodak to 43.7 dB.

    Args:
        qp: quantization parameter, 0 to 63, one or several.
        config: path of VTM's `encoder_intra_vtm.cfg`.
        bit_depth: bit depth of the YCbCr samples, 8 or 10.
        encoder, decoder: the programs, by name on PATH or by path.
    """

    limit = VVC
    INSTALL = (
        "build VTM (https://vcgit.hhi.fraunhofer.de/jvet/VVCSoftware_VTM) and put EncoderApp and "
        "DecoderApp on PATH, or pass codec.encoder=FILE codec.decoder=FILE"
    )

    def __init__(
        self,
        qp: int | Sequence[int],
        *,
        config: str | None,
        bit_depth: int = 8,
        encoder: str = "EncoderApp",
        decoder: str = "DecoderApp",
        timeout: float = 7200.0,
    ) -> None:
        if bit_depth not in (8, 10):
            raise ValueError(f"unknown bit depth {bit_depth}, choose from 8, 10")
        super().__init__(qp, low=0, high=63, timeout=timeout)
        self._encoder = find_program(encoder, install=self.INSTALL)
        self._decoder = find_program(decoder, install=self.INSTALL)
        if config is None or not is_file(local_path(config)):
            raise ValueError(
                f"no VTM configuration at {config!r}: pass codec.config=cfg/encoder_intra_vtm.cfg "
                "from the VTM source tree"
            )
        self._config = local_path(config)
        self._bit_depth = bit_depth

    def format_config(self) -> dict[str, Any]:
        return {"bit_depth": self._bit_depth}

    def _encode_image(self, folder: Path, image: Tensor, qp: int) -> bytes:
        source, target = folder / "in.yuv", folder / "out.vvc"
        source.write_bytes(_to_bytes(rgb_to_ycbcr(image, self._bit_depth), self._bit_depth))
        height, width = image.shape[-2:]
        self._run(
            *(self._encoder, "-c", self._config, "-i", source, "-b", target, "-o", "/dev/null"),
            *("-q", str(qp), "-wdt", str(width), "-hgt", str(height), "-fr", "1", "-f", "1"),
            f"--InputBitDepth={self._bit_depth}",
            "--InputChromaFormat=444",
            "--ConformanceWindowMode=1",
        )
        return target.read_bytes()

    def _decode_image(self, folder: Path, file: bytes, height: int, width: int) -> Tensor:
        source, target = folder / "in.vvc", folder / "out.yuv"
        source.write_bytes(file)
        self._run(self._decoder, "-b", source, "-o", target, "-d", str(self._bit_depth))
        dtype = np.dtype(_sample_type(self._bit_depth))
        # Check before reading: a hostile stream may decode to any number of bytes.
        if target.stat().st_size != 3 * height * width * dtype.itemsize:
            raise BitstreamError(f"the VVC stream is not {height}x{width}")
        samples = np.frombuffer(target.read_bytes(), dtype)
        planes = torch.from_numpy(samples.astype(np.int64)).reshape(3, height, width)
        return ycbcr_to_rgb(planes, self._bit_depth)


def rgb_to_ycbcr(x: Tensor, bit_depth: int) -> Tensor:
    """RGB (3, H, W) in [0, 1] -> full-range BT.709 YCbCr, integers, rounded once."""
    top = 2**bit_depth - 1
    ycbcr = torch.einsum("ij,jhw->ihw", _RGB_TO_YCBCR, x.double().cpu())
    ycbcr[1:] += 0.5
    return ycbcr.mul(top).round().clamp(0, top).long()


def ycbcr_to_rgb(planes: Tensor, bit_depth: int) -> Tensor:
    """Inverse of `rgb_to_ycbcr`: (3, H, W) integers -> RGB in [0, 1], float, not rounded."""
    ycbcr = planes.double() / (2**bit_depth - 1)
    ycbcr[1:] -= 0.5
    return torch.einsum("ij,jhw->ihw", _RGB_TO_YCBCR.inverse(), ycbcr).clamp(0, 1).float()


def _sample_type(bit_depth: int) -> str:
    return "u1" if bit_depth == 8 else "<u2"


def _to_bytes(planes: Tensor, bit_depth: int) -> bytes:
    return planes.numpy().astype(_sample_type(bit_depth)).tobytes()
