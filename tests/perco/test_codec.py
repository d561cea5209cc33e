import pytest
import torch

from diffcodec.coding.bitstream import BitstreamError
from diffcodec.measuring import decompress_at
from diffcodec.metrics import Coding, find_metric
from diffcodec.perco import PerCo
from diffcodec.perco.captioners import FileCaptioner, FixedCaptioner
from diffcodec.perco.palette import PaletteCaptioner
from diffcodec.perco.rates import TABLE_2
from diffcodec.sdedit import SDEdit
from diffcodec.sdedit.presets import Preset
from diffcodec.sdedit.small_prior import SmallPrior
from diffcodec.sdedit.small_unet import SmallUNet
from diffcodec.sdedit.strength import PER_IMAGE
from tests.perco.tiny import SIZES, arguments
from tests.seams import seam_ratio

CAPTION = "a red barn in a field"


@pytest.fixture(scope="module")
def perco(make_codec) -> PerCo:
    return make_codec(captioner=FixedCaptioner(CAPTION))


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(2, 3, 70, 90, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 1), (70, 130)])
def test_any_size_comes_back_at_any_rate(perco, size):
    x = torch.rand(1, 3, *size)
    for point in perco.points:
        x_hat = perco.decompress(perco.compress(x, point), point)
        assert x_hat.shape == x.shape
        assert x_hat.isfinite().all()
        assert 0 <= x_hat.min() <= x_hat.max() <= 1


@pytest.mark.parametrize(
    ("name", "num_bytes"), zip(TABLE_2, (4096, 3072, 1665, 1024, 320, 80, 64), strict=True)
)
def test_the_spatial_part_of_table_2(make_backbone, name, num_bytes):
    codes = PerCo(make_backbone(), [name], **arguments(**SIZES)).eval()
    text, spatial = codes.encode(torch.rand(1, 3, 512, 512), codes.points[0])[0]
    assert len(spatial) == num_bytes
    assert len(text) == 1


def test_points_are_the_rates_in_their_order(make_codec):
    points = make_codec(["16x16/16", "8x8/256", "8x8/16"]).points
    assert [point.rate["rate"] for point in points] == ["8x8/16", "8x8/256", "16x16/16"]


def test_the_picture_depends_on_the_stream_and_not_on_the_batch(perco, x):
    streams = perco.compress(x, "16x16/16")
    together = perco.decompress(streams, "16x16/16")
    assert torch.equal(perco.decompress(streams[::-1], "16x16/16"), together.flip(0))
    assert torch.equal(perco.decompress(streams[1:], "16x16/16"), together[1:])
    assert perco.compress(x[1:], "16x16/16")[0] == streams[1]
    assert not torch.equal(perco.decompress(streams, "16x16/16", seed=1), together)


def test_the_stream_names_its_rate(perco, x):
    stream = perco.compress(x[:1], "8x8/16")
    expected = perco.decompress(stream, "8x8/16")
    assert torch.equal(perco.decompress(stream, "16x16/16"), expected)


def test_coding_does_not_move_the_codebook(make_codec, x):
    one = make_codec(captioner=PaletteCaptioner()).train()
    before = {k: v.clone() for k, v in one.state_dict().items()}
    stream = one.compress(x[:1])
    one.decompress(stream)
    assert all(torch.equal(v, before[k]) for k, v in one.state_dict().items())


def test_a_caption_changes_the_picture_and_costs_its_bytes(perco, x):
    plain, red, blue = (
        perco.compress(x[:1], "8x8/16", captions=[c]) for c in (None, "red", "blue")
    )
    assert len(plain[0]) < len(red[0])
    pictures = [perco.decompress(stream, "8x8/16", seed=0) for stream in (plain, red, blue)]
    assert all(not torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])
    with pytest.raises(ValueError, match="1 captions for 2 images"):
        perco.compress(x, "8x8/16", captions=["red"])


def test_guidance_is_on_the_text_alone(make_codec, x):
    one = make_codec(["8x8/16"], guidance=[0.0, 1.0, 3.0], captioner=FixedCaptioner(CAPTION))
    streams = [one.compress(x[:1])[0], one.compress(x[:1], captions=[None])[0]]
    pictures = {}
    for point in one.points:
        pictures[point.decoding["guidance"]] = [
            one.decompress([stream], point, seed=0) for stream in streams
        ]
    unguided = pictures[0]
    # Scale 0 is the picture without the caption, at which no scale matters.
    torch.testing.assert_close(unguided[0], unguided[1], rtol=0, atol=1e-5)
    assert not torch.equal(pictures[3][0], pictures[1][0])
    assert torch.equal(pictures[3][1], pictures[1][1])


def test_guidance_may_be_on_text_and_codes(make_codec, x):
    """eps(0, 0) + lambda (eps(z_l, z_g) - eps(0, 0)): Table 1's other form."""
    one = make_codec(
        ["8x8/16"],
        guidance=[0.0, 1.0, 3.0],
        guided=["text", "text_and_codes"],
        captioner=FixedCaptioner(CAPTION),
    )
    stream = one.compress(x[:1])
    nothing = one.model.reconstruct(
        height=x.shape[-2],
        width=x.shape[-1],
        caption=None,
        index=0,
        codes=None,
        seed=0,
        num_steps=one.points[0].decoding["steps"] or one.rates[0].default_steps,
        guidance=1.0,
    ).clamp(0, 1)
    pictures = {}
    for point in one.points:
        settings = point.decoding
        pictures[settings["guided"], settings["guidance"]] = one.decompress(stream, point, seed=0)
    # Without guidance both are the same; at scale 0 only this one drops the codes as well.
    assert torch.equal(pictures["text", 1.0], pictures["text_and_codes", 1.0])
    torch.testing.assert_close(pictures["text_and_codes", 0.0], nothing, rtol=0, atol=1e-5)
    assert not torch.allclose(pictures["text", 0.0], nothing, atol=1e-3)
    assert not torch.equal(pictures["text", 3.0], pictures["text_and_codes", 3.0])


def test_guidance_on_text_and_codes_needs_no_caption(make_codec, x):
    one = make_codec(["8x8/16"], guidance=[1.0, 3.0], guided="text_and_codes")
    stream = one.compress(x[:1])
    pictures = []
    for point in one.points:
        pictures.append(one.decompress(stream, point, seed=0))
    assert not torch.equal(*pictures)


def test_what_is_sent_by_condition(make_codec, x):
    one = make_codec(
        ["8x8/16"], condition=["both", "text", "local"], captioner=FixedCaptioner("red")
    )
    sizes = {}
    for point in one.points:
        (text, codes), _ = one.encode(x, point)
        sizes[point.encoding["condition"]] = (len(text) > 1, len(codes) > 0)
        assert one.decompress(one.compress(x, point), point).shape == x.shape
    assert sizes == {"both": (True, True), "text": (True, False), "local": (False, True)}


def test_text_and_codes_are_counted_apart(make_codec, x):
    one = make_codec(["16x16/16"], condition=["both", "text", "local"], caption="an old castle")
    found = {}
    for point in one.points:
        sections = one.encode(x, point)[0]
        found[point.encoding["condition"]] = one.num_part_bytes(sections)
        # All but the byte of facts.
        assert sum(one.num_part_bytes(sections).values()) == sum(map(len, sections)) - 1
    text, codes = found["both"]["text"], found["both"]["codes"]
    assert min(text, codes) > 0
    assert found["text"] == {"text": text, "codes": 0}
    assert found["local"] == {"text": 0, "codes": codes}
    (decoding,) = decompress_at(one, one.compress(x), one.points[:1])
    coding = Coding(70, 90, num_part_bytes=decoding.num_part_bytes[0])
    assert find_metric("bpp-text").read(coding) == 8 * text / (70 * 90)
    assert find_metric("bpp-codes").read(coding) == 8 * codes / (70 * 90)
    assert find_metric("bpp-text").read(Coding(70, 90)) is None


@pytest.mark.parametrize("strength", [0.1, PER_IMAGE])
def test_the_enhancer_counts_the_text_and_codes_of_its_base(make_codec, x, strength):
    base = make_codec(["16x16/16"], caption="an old castle")
    prior = SmallPrior(SmallUNet([8], 1), SmallUNet([8], 1))
    enhancer = SDEdit(base, prior, {"fast": Preset("consistency")}, strength=strength).eval()
    point = enhancer.points[-1]
    (decoding,) = decompress_at(enhancer, enhancer.compress(x, point), [point])
    (own,) = decompress_at(base, base.compress(x), base.points)
    assert decoding.num_part_bytes == own.num_part_bytes
    coding = Coding(70, 90, num_part_bytes=decoding.num_part_bytes[0])
    assert find_metric("bpp-text").read(coding) > 0
    assert find_metric("bpp-codes").read(coding) > 0


def test_without_quantisation_vectors_are_sent(make_codec, x):
    one = make_codec(["16x16/16"], quantize=False)
    head, vectors = one.encode(x, one.points[0])[0]
    assert len(vectors) == 4 * 6 * 3 * 3
    z = one.model.codes(x[:1], 0)
    codes = one._read([head, vectors], 70, 90)[2]
    assert torch.equal(codes[None], z)
    assert one.decompress(one.compress(x)).shape == x.shape
    quantised = make_codec(["16x16/16"])
    with pytest.raises(BitstreamError, match="other weights"):
        quantised.decompress(one.compress(x))
    with pytest.raises(ValueError, match="quantize=false has none: set index_coder=uniform"):
        make_codec(["16x16/16"], quantize=False, index_coder="table")


def test_a_swapped_caption_keeps_the_codes(make_codec, x):
    one = make_codec(["8x8/16"], caption=[None, "an old castle"], captioner=FixedCaptioner("red"))
    assert [point.encoding["caption"] for point in one.points] == [None, "an old castle"]
    (own_text, own_codes), _ = one.encode(x, one.points[0])
    (text, codes), _ = one.encode(x, one.points[1])
    assert codes == own_codes
    assert text != own_text


def test_the_noise_may_be_the_same_for_every_stream(make_codec, x):
    codec = make_codec(["8x8/16"], noise_seed=5)
    expected = make_codec(["8x8/16"]).decompress(codec.compress(x), seed=5)
    assert torch.equal(codec.decompress(codec.compress(x)), expected)


def test_samples_share_the_bytes_and_differ(make_codec, x):
    one = make_codec(["8x8/16"], num_samples=3)
    streams, pictures = [], []
    for point in one.points:
        streams.append(one.compress(x[:1], point))
        pictures.append(one.decompress(streams[0], point))
    assert streams[0] == streams[1] == streams[2]
    assert all(not torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])
    assert torch.equal(pictures[0], make_codec(["8x8/16"]).decompress(streams[0]))


def test_other_weights_are_refused_but_another_encoder_is_not(make_codec, x):
    one, other = make_codec(), make_codec()
    with torch.no_grad():
        other.model.encoder(0).backbone[0].bias.add_(1)
        other.model.backbone.latents.vae.encoder.conv_in.bias.add_(1)
    one.decompress(other.compress(x))
    for tensor in (
        other.model.encoder(0).quantizer.codebook,
        other.model.backbone.unet.conv_in.bias,
        other.model.null_text,
    ):
        with torch.no_grad():
            tensor.add_(1)
        with pytest.raises(BitstreamError, match="other weights"):
            one.decompress(other.compress(x))
        with torch.no_grad():
            tensor.sub_(1)


def test_malformed_sections_are_refused(perco, x):
    head, codes = perco.encode(x[:1], perco.find_point("16x16/16"))[0]
    for payload, message in (
        ([b"", codes], "no header byte"),
        ([bytes([7 << 2 | 3]) + head[1:], codes], "rate index 7 is outside 0 to 2"),
        ([bytes([head[0] & ~1]) + head[1:], codes], "without caption"),
        ([bytes([head[0] & ~2]) + head[1:], codes], "without codes"),
        ([head[:-1], codes], "text"),
        ([head, codes[:-1]], "bytes"),
        ([head, codes + b"0"], "bytes"),
    ):
        with pytest.raises(BitstreamError, match=message):
            perco.decode([payload], 70, 90, [0], perco.points[0])
    with pytest.raises(BitstreamError, match="bytes"):
        perco.decode([[head, codes]], 700, 900, [0], perco.points[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": []}, "rate is empty"),
        ({"rates": ["8x8/16", "8x8/16"]}, "duplicate names"),
        ({"text_coder": "gzip"}, "'gzip', choose from zlib, dictionary"),
        ({"steps": 51}, "steps must be in 1 to 50, got 51"),
        ({"condition": "edges"}, "'edges', choose from both, text, local"),
        ({"num_samples": 0}, "num_samples must be at least 1"),
        ({"sampler": "heun"}, "unknown sampler 'heun', choose from ddim, dpmpp_2m, euler_sde"),
        ({"finetune": "half"}, "'half', choose from linear, all, lora, low_rank"),
        ({"caption_drop": 2}, r"caption_drop must be in \[0, 1\], got 2"),
        ({"decode_precision": "fp8"}, r"'fp8'.*'32', 'bf16'"),
        ({"steps": []}, "empty"),
    ],
)
def test_wrong_settings_are_named(make_codec, options, message):
    with pytest.raises(ValueError, match=message):
        make_codec(**options)


def test_bf16_changes_nothing_beyond_rounding(make_codec, x):
    stream = make_codec(steps=1).compress(x)
    expected = make_codec(steps=1).decompress(stream)
    other = make_codec(steps=1, decode_precision="bf16")
    assert (other.decompress(stream) - expected).abs().mean() < 0.02


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_sde"])
def test_the_sampler_is_the_decoders_choice(make_codec, x, sampler):
    codec, other = make_codec(steps=3), make_codec(steps=3, sampler=sampler)
    stream = codec.compress(x[:1])
    assert other.compress(x[:1]) == stream
    x_hat = other.decompress(stream)
    assert not torch.equal(x_hat, codec.decompress(stream))
    assert torch.equal(x_hat, other.decompress(stream))  # noise of the SDE is the stream's, too
    assert not torch.equal(x_hat, other.decompress(stream, seed=0))


def test_the_ceiling_is_what_the_autoencoder_alone_does(make_codec, x):
    codec = make_codec()
    latents = codec.model.backbone.latents
    with torch.no_grad():
        ceiling = codec.ceiling(x)
        one = latents.decode(latents.encode(x[:1, :, :64, :64])).clamp(0, 1)
        assert torch.equal(codec.ceiling(x[:1, :, :64, :64]), one)
    assert ceiling.shape == x.shape


def test_captions_of_the_batch_are_sent(make_codec, x):
    codec = make_codec(["8x8/16"], captioner=FileCaptioner())
    batch = {"image": x, "caption": ["a red barn", "a blue sky"]}
    assert codec.compress(x, about=batch) == codec.compress(x, captions=batch["caption"])
    with pytest.raises(ValueError, match="the data set has no captions"):
        codec.compress(x)


def test_rates_above_a_limit_send_no_caption(make_codec):
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    rates = ("8x8/16", "64x64/256")
    options = {"captioner": FixedCaptioner("red")}
    limited = make_codec(rates, caption_max_bpp=0.01, **options)
    every = make_codec(rates, **options)
    alone = make_codec(rates, condition="local", **options)
    for name, same in (("8x8/16", every), ("64x64/256", alone)):
        streams = []
        for codec in (limited, every, alone):
            streams.append(codec.compress(x, name))
        assert streams[0] == streams[1 if same is every else 2]
        assert streams[1] != streams[2]
        # Any of them decodes them all: the stream says what it holds.
        assert torch.equal(limited.decompress(streams[1]), every.decompress(streams[1]))
    # Where nothing but the caption is sent, it is.
    texts = [
        make_codec(rates, condition="text", caption_max_bpp=m, **options) for m in (0.01, None)
    ]
    assert len({codec.compress(x, "64x64/256")[0] for codec in texts}) == 1


def test_images_larger_than_the_window_have_no_seams(make_codec, photo):
    x = photo[..., :100, :300]
    whole, tiled = make_codec(noise_seed=0), make_codec(noise_seed=0, window=128)
    for point in whole.points:
        stream = whole.compress(x, point)
        one, other = whole.decompress(stream, point), tiled.decompress(stream, point)
        assert not torch.equal(one, other)
        assert seam_ratio(other, one, 128, 64) < 3


def test_the_codes_of_tiles_are_those_of_the_whole(make_codec, photo, monkeypatch):
    codec = make_codec(rates=["64x64/256"])
    latent = torch.randn(1, 4, 50, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(codec.model.backbone.latents, "encode", lambda x: latent)
    whole = codec.model.codes(photo[..., :400, :], 0)
    monkeypatch.setattr("diffcodec.perco.model.HYPER_WINDOW", 40)
    assert torch.equal(codec.model.codes(photo[..., :400, :], 0), whole)
    assert whole.unique().numel() > 20


def test_a_window_is_whole_codes(make_codec):
    with pytest.raises(ValueError, match="window must be a multiple of 64, got 100"):
        make_codec(window=100)


@pytest.mark.parametrize("memory", ["frozen", "all"])
def test_networks_in_half_precision_code(make_backbone, x, memory):
    codec = PerCo(make_backbone(memory=memory), "16x16/16", **arguments(**SIZES, steps=2))
    pictures = codec.eval().decompress(codec.compress(x))
    assert pictures.dtype == torch.float32
    assert pictures.isfinite().all()
    with pytest.raises(ValueError, match="float32 weights, got bfloat16"):
        codec.bfloat16().compress(x)
