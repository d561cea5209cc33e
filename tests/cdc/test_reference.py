"""Agreement with the authors' implementation, for both parameterizations.

The references of width 4 are part of the tests. Those of width 8 lie beside the project, hold more
outputs, and are skipped where they are not there.
"""

import pytest
import torch
from torch import Tensor

from diffcodec.diffusion.sampler import ddim


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def relative_error(value: Tensor, expected: Tensor) -> float:
    assert value.shape == expected.shape
    return ((value - expected).norm() / expected.norm()).item()


def context_terms(codec, reference):
    contexts = codec.compressor.contexts(codec.compressor(reference.x).y_hat)
    return codec.unet.context_terms(contexts)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("y_hat", "q_latent"),
        ("z_hat", "q_hyper_latent"),
        ("means", "latent_mean"),
        ("scales", "latent_scale"),
    ],
)
def test_latents(reference, ours, theirs):
    latents = reference.codec().compressor(reference.x)
    assert relative_error(getattr(latents, ours), reference.outputs[theirs]) < 1e-5


def test_rate(reference):
    bits = reference.codec().compressor(reference.x).bits()
    bpp = bits / (reference.x.shape[-2] * reference.x.shape[-1])
    assert bpp.item() == pytest.approx(reference.outputs["bpp"].item(), abs=1e-5)


def test_contexts(reference):
    codec = reference.codec()
    contexts = codec.compressor.contexts(codec.compressor(reference.x).y_hat)
    assert len(contexts) == 4
    for i, expected in reference.matching("context_").items():
        assert relative_error(contexts[int(i)], expected) < 1e-5


def test_schedule(larger_reference):
    expected = larger_reference.outputs["alphas_cumprod"]
    process = larger_reference.codec().process
    torch.testing.assert_close(process.alphas_cumprod, expected, rtol=1e-6, atol=0)


def test_noisy_images(larger_reference):
    process = larger_reference.codec().process
    for t, expected in larger_reference.matching("x_noisy_t").items():
        sigma = process.sigmas[int(t)]
        x = larger_reference.x + sigma * larger_reference.outputs["noise"]
        assert relative_error((x / (1 + sigma**2).sqrt()).float(), expected) < 1e-5


def test_denoiser_outputs(reference):
    codec = reference.codec()
    terms = context_terms(codec, reference)
    denoiser = codec.process.training_denoiser(codec.unet)
    for t, expected in reference.matching("denoise_out_t").items():
        sigma = codec.process.sigmas[int(t)]
        x = reference.x + sigma * reference.outputs["noise"]
        output = denoiser.output(x.float(), sigma, terms=terms)
        assert relative_error(output, expected) < 1e-5


def test_samples(reference):
    codec = reference.codec()
    terms = context_terms(codec, reference)
    for name, expected in reference.matching("sample_").items():
        steps, gamma = name.split("_gamma")
        denoiser, sigmas = codec.process.sampling(codec.unet, int(steps))
        x = float(gamma) * (1 + sigmas[0] ** 2).sqrt() * reference.outputs["noise"]
        sample = ddim(denoiser, x.float(), sigmas, terms=terms)
        tolerance = reference.five_step_tolerance if steps == "5" else 1e-4
        assert relative_error(sample, expected) < tolerance


def test_training_errors(larger_reference_x0):
    codec = larger_reference_x0.codec()
    terms = context_terms(codec, larger_reference_x0)
    noise = larger_reference_x0.outputs["noise"]
    for t, expected in larger_reference_x0.matching("weighted_l2_t").items():
        error, _ = codec.process.loss(
            codec.unet, larger_reference_x0.x, noise, torch.tensor([int(t)]), terms=terms
        )
        assert relative_error(error, expected) < 1e-5


def test_decoded_bytes_give_the_reference_picture(reference):
    # The whole way through real bytes, at gamma = 0 where no noise has to be the same.
    codec = reference.codec(steps=17 if reference.prediction == "x0" else 5)
    x_hat = codec.decompress(codec.compress(reference.outputs["image_01"]))
    if reference.prediction == "x0":
        expected = (reference.outputs["sample_17_gamma0"] + 1) / 2
        assert relative_error(x_hat, expected.clamp(0, 1)) < 1e-4
    assert x_hat.isfinite().all()
