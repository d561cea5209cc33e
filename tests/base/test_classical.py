import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from datamodules.files import read_rgb
from diffcodec.base.classical import PillowCodec
from diffcodec.codec import to_uint8
from diffcodec.coding.bitstream import BitstreamError, pack
from diffcodec.metrics.psnr import psnr

# CompressAI's published curve of JPEG on Kodak (Pillow 7.1.2): quality -> bpp, PSNR in dB.
PUBLISHED = {
    10: (0.32661, 26.577),
    30: (0.66013, 30.378),
    50: (0.90600, 32.059),
    75: (1.36883, 34.394),
    90: (2.35020, 37.912),
}


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 90])
def test_jpeg_on_kodak_is_what_the_literature_reports(shared, quality):
    codec = PillowCodec("JPEG", quality=[quality])
    rates, scores = [], []
    for path in sorted((shared / "data" / "kodak").glob("*.png")):
        x = pil_to_tensor(read_rgb(path))[None]
        (stream,) = codec.compress(x / 255)
        rates.append(8 * codec.num_payload_bytes(stream) / (768 * 512))
        scores.append(psnr(x, to_uint8(codec.decompress([stream]))))
    bpp, expected = PUBLISHED[quality]
    assert len(rates) == 24
    assert np.mean(rates) == pytest.approx(bpp, rel=2e-3)
    # libjpeg has changed its chroma upsampling since: a tenth of a dB.
    assert np.mean(scores) == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "JPEG2000", "AVIF"])
def test_rate_and_quality_rise_along_the_points(photo, format):
    values = {"JPEG2000": [20, 100]}.get(format, [10, 80])
    parameter = "ratio" if format == "JPEG2000" else "quality"
    codec = PillowCodec(format, **{parameter: values})
    sizes, scores = [], []
    for point in codec.points:
        (stream,) = codec.compress(photo, point)
        sizes.append(len(stream))
        scores.append(psnr(to_uint8(photo), to_uint8(codec.decompress([stream], point))))
    assert sizes == sorted(sizes)
    assert scores == sorted(scores)
    assert scores[0] > 20


def test_the_payload_is_a_plain_file(photo):
    codec = PillowCodec("JPEG", quality=[50])
    (stream,) = codec.compress(photo)
    (file,) = codec.unpack([stream])[0].sections
    assert Image.open(io.BytesIO(file)).format == "JPEG"


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"quality \[0, 96\] is outside 1 to 95"):
        PillowCodec("JPEG", quality=[0, 50, 96])
    with pytest.raises(ValueError, match="choose from"):
        PillowCodec("HEIC", quality=[50])


@pytest.mark.parametrize(
    ("format", "side"), [("JPEG", 65500), ("WEBP", 16383), ("JPEG2000", 65536), ("AVIF", 32768)]
)
def test_the_longest_side_is_decoded_and_a_longer_one_is_refused(format, side):
    parameter = "ratio" if format == "JPEG2000" else "quality"
    codec = PillowCodec(format, **{parameter: [50]})
    for shape in ((1, side), (side, 1)):
        x = torch.full((1, 3, *shape), 0.5)
        assert (codec.decompress(codec.compress(x)) - x).abs().max() < 0.05
        longer = torch.zeros(1, 3, *(n + (n > 1) for n in shape))
        with pytest.raises(ValueError, match=str(side)):
            codec.compress(longer)


def test_a_file_of_another_size_or_format_is_refused(photo):
    jpeg, webp = PillowCodec("JPEG", quality=[50]), PillowCodec("WEBP", quality=[50])
    (stream,) = jpeg.compress(photo[..., :20, :30])
    (file,) = jpeg.unpack([stream])[0].sections
    bigger = pack([file], height=21, width=30, fingerprint=jpeg.fingerprint())
    with pytest.raises(BitstreamError, match=r"20x30.*21x30"):
        jpeg.decompress([bigger])
    foreign = pack([file], height=20, width=30, fingerprint=webp.fingerprint())
    with pytest.raises(BitstreamError, match="not a readable WEBP"):
        webp.decompress([foreign])
    with pytest.raises(BitstreamError, match="another codec"):
        webp.decompress([stream])
