"""The metrics that pyiqa computes; closed forms need no network."""

import builtins
import hashlib
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import signal

from callbacks.metric_networks import choose_metrics, load_networks
from diffcodec.metrics import all_metrics, find_metric
from diffcodec.metrics.networks.pyiqa import PyiqaMetric

CLOSED_FORMS = ("ssim", "cw_ssim", "fsim", "gmsd", "nlpd", "vsi", "mad")
LEARNED = ("dists", "pieapp", "ckdn", "musiq", "dbcnn")


@pytest.fixture
def pyiqa():
    return pytest.importorskip("pyiqa", reason="pip install 'diffcodec[iqa]'")


def luma(image):
    """BT.601's luma in [0, 255] of a uint8 image (3, H, W), in float64."""
    return np.tensordot(np.array([0.299, 0.587, 0.114]), image.double().numpy(), 1)


def test_cdc_has_sixteen_metrics():
    sixteen = {
        *("fid", "lpips", "psnr-rgb", "ms-ssim-rgb", *CLOSED_FORMS, *LEARNED),
    }
    assert len(sixteen) == 16
    assert sixteen <= set(all_metrics())
    assert not any(find_metric(key).default for key in (*CLOSED_FORMS, *LEARNED))


def test_without_the_package_they_are_left_out_and_it_is_named(monkeypatch):
    own = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "pyiqa":
            raise ImportError("No module named 'pyiqa'")
        return own(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"gmsd needs .*non-commercial.*diffcodec\[iqa\]"):
        find_metric("gmsd").build(None)
    measures, _ = load_networks(choose_metrics(["psnr-rgb", "gmsd"]), {}, announce=False)
    assert list(measures) == ["psnr-rgb"]


@pytest.mark.parametrize("key", CLOSED_FORMS)
def test_equal_pictures_are_perfect_and_small_ones_have_no_value(pyiqa, pair, key):
    measure = find_metric(key).build(None)
    x = pair[0][:, :96, :128]
    assert measure(x, x) == pytest.approx(0 if find_metric(key).better == "lower" else 1, abs=1e-6)
    side = measure.min_side
    assert measure(x[:, :side, :side], x[:, :side, :side]) is not None
    assert measure(x[:, : side - 1], x[:, : side - 1]) is None


def test_ssim_is_that_of_scikit_image(pyiqa, pair):
    from skimage.metrics import structural_similarity

    full = structural_similarity(
        *map(luma, pair),
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )[1]
    # Without borders, as in the authors' program: the window is inside the picture.
    expected = full[5:-5, 5:-5].mean()
    assert find_metric("ssim").build(None)(*pair) == pytest.approx(expected, abs=1e-3)


def test_gmsd_is_the_deviation_of_gradient_similarity(pyiqa, pair):
    """Xue et al. (2014), Eqs. 1 to 6, with c = 170 for pictures in [0, 255]."""
    prewitt = np.array([[1, 0, -1]] * 3) / 3
    gradients = []
    for image in pair:
        grey = signal.convolve2d(luma(image), np.ones((2, 2)) / 4, mode="valid")[::2, ::2]
        across, down = (signal.convolve2d(grey, k, mode="valid") for k in (prewitt, prewitt.T))
        gradients.append(np.hypot(across, down))
    a, b = gradients
    expected = ((2 * a * b + 170) / (a**2 + b**2 + 170)).std()
    assert find_metric("gmsd").build(None)(*pair) == pytest.approx(expected, abs=5e-4)


def test_cw_ssim_of_a_picture_with_less_contrast_is_a_closed_form(pyiqa, photo):
    """2 a / (1 + a^2) for coefficients times a (Sampat et al., 2009, Eq. 8), while K is small."""
    x = (photo[0] * 255).byte() // 4 * 4
    grey = x[1:2].expand(3, -1, -1)
    expected = 2 * 0.25 / (1 + 0.25**2)
    found = find_metric("cw_ssim").build(None)(grey, grey // 4)
    assert found == pytest.approx(expected, abs=5e-3)


def test_fsim_and_vsi_are_those_of_another_implementation(pyiqa, pair):
    """piq 0.8.0 has 0.966549 and 0.990006 for this pair."""
    assert find_metric("fsim").build(None)(*pair) == pytest.approx(0.966549, abs=1e-5)
    assert find_metric("vsi").build(None)(*pair) == pytest.approx(0.990006, abs=1e-5)


def test_nlpd_and_mad_rise_with_the_noise(pyiqa, pair):
    x, y = (image[:, 60:220, 100:300] for image in pair)
    more = (x.int() + 3 * (y.int() - x.int())).clamp(0, 255).byte()
    for key in ("nlpd", "mad"):
        measure = find_metric(key).build(None)
        assert 0 < measure(x, y) < measure(x, more), key


def test_a_closed_form_takes_no_weights(pyiqa, tmp_path):
    (tmp_path / "x.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="gmsd is a closed form and takes no weights"):
        find_metric("gmsd").build(str(tmp_path / "x.pth"))


def test_a_learned_one_takes_its_weights_from_a_file(pyiqa, pair, tmp_path):
    from pyiqa.archs.pieapp_arch import PieAPP

    torch.manual_seed(0)
    network = PieAPP(pretrained=False)
    torch.save(network.state_dict(), tmp_path / "pieapp.pth")
    measure = find_metric("pieapp").build(str(tmp_path / "pieapp.pth"))
    x, y = (image[:, :128, :128] for image in pair)
    expected = network.eval()(y[None] / 255, x[None] / 255)
    assert measure(x, y) == pytest.approx(expected.item(), rel=1e-4)


def test_weights_that_cannot_be_had_are_an_error(pyiqa, tmp_path):
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="no weights for pieapp of pyiqa"):
        PyiqaMetric("pieapp", str(tmp_path / "empty.pth"))


# What the authors' own programs give for five pairs of 512x384 pixels, and how far pyiqa 0.1.16 was
# from it when it was measured: ResultsCalibra/results_official.csv of pyiqa's repository.
REPOSITORY = "https://raw.githubusercontent.com/chaofengc/IQA-PyTorch"
COMMIT = "01ae427f9afd66842031d3a7cb694dcad5b5cbb8"
PAIRS = {
    "I03": ("bb817e7fef614dcc", "28441215ca5b6358"),
    "I04": ("f3d685983aacd76b", "c8500941a30397bc"),
    "I06": ("726e043e99d8e072", "445c2c0fcb47898e"),
    "I08": ("8ad39042d7e17d6c", "b5d6738ece811f45"),
    "I19": ("e0c6000652d270d1", "b8a2ede827d8db21"),
}
OFFICIAL = {
    "ssim": ((0.6993, 0.9978, 0.9989, 0.9669, 0.6519), 5e-4),
    "cw_ssim": ((0.2763, 0.9996, 1.0, 0.9068, 0.8658), 1e-4),
    "gmsd": ((0.220348, 0.000522, 0.000448, 0.134632, 0.204996), 1e-5),
    "fsim": ((0.689, 0.9702, 0.9927, 0.9575, 0.822), 1e-4),
    "vsi": ((0.9139, 0.9620, 0.9922, 0.9571, 0.9262), 1.3e-2),
    "nlpd": ((0.561610, 0.019535, 0.015916, 0.302802, 0.432605), 6e-3),
    "mad": ((195.2796, 80.8379, 30.3918, 84.3542, 202.2371), 1e-3),
}


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    """The pairs (original, distorted) as uint8 images."""
    folder = tmp_path_factory.mktemp("calibration")
    pairs = []
    for name, digests in PAIRS.items():
        images = []
        for side, digest in zip(("dist_dir", "ref_dir"), digests, strict=True):
            path = folder / f"{side}-{name}.bmp"
            urllib.request.urlretrieve(
                f"{REPOSITORY}/{COMMIT}/ResultsCalibra/{side}/{name}.bmp", path
            )
            assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(digest)
            pixels = np.array(Image.open(path).convert("RGB"))
            images.append(torch.from_numpy(pixels).permute(2, 0, 1))
        pairs.append((images[1], images[0]))
    return pairs


@pytest.mark.network
@pytest.mark.parametrize("key", CLOSED_FORMS)
def test_values_are_those_of_the_authors(pyiqa, calibration, key):
    expected, tolerance = OFFICIAL[key]
    measure = find_metric(key).build(None)
    assert [measure(*pair) for pair in calibration] == pytest.approx(expected, abs=tolerance)
