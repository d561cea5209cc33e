"""Wrong sections behind a right checksum, of every codec that has a YAML.

Whatever they are, they end in a `BitstreamError` or in a picture of finite values, soon and in
little memory.
"""

import random
import resource
import time
from collections import Counter

import pytest
import torch

from diffcodec.codec import Codec
from diffcodec.coding.bitstream import BitstreamError, pack, pack_progressive
from tests.reliability.mutation import mutated_sections
from tests.test_contract import CASES, find_case

HEIGHT, WIDTH = 40, 24
MAX_SECONDS = 10.0
MAX_BYTES = 1 << 30
# Of the default run: what decodes in milliseconds, and what takes a diffusion model's steps.
COUNT = {"avif": 600, "webp": 150, "jpeg": 150, "jpeg2000": 150}
OTHERS = 60
DIFFUSION = {"cdc", "diffc", "ddcm", "perco", "cdc_residual", "cdc_jpeg", "sdedit", "stablecodec"}
# Of the slow run, in which what has a context model, evaluated for every latent, takes long, too.
SLOW_SHARE = DIFFUSION | {"mbt2018", "cheng2020_anchor", "cheng2020_attn", "elic"}
SLOW_RUN = {True: 1500, False: 7000}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=CASES)
def codec(request) -> Codec:
    name = request.param
    built = find_case(name).codec
    built.test_name = name
    return built


def attack(codec: Codec, photo, count: int, seed: int) -> Counter:
    """Decode `count` wrong streams; returns how they ended."""
    rng = random.Random(f"{codec.test_name} {seed}")
    x = photo[..., 100 : 100 + HEIGHT, 200 : 200 + WIDTH]
    originals = []
    for point in dict.fromkeys((codec.points[0], codec.points[-1])):
        originals.append(list(codec.unpack(codec.compress(x, point))[0].sections))
    ends: Counter = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        sections = mutated_sections(rng.choice(originals), rng)
        about = {"height": HEIGHT, "width": WIDTH, "fingerprint": codec.fingerprint()}
        if codec.progressive:
            stream = pack_progressive(sections[0], **about)
        else:
            stream = pack(sections, **about)
        start = time.perf_counter()
        try:
            x_hat = codec.decompress([stream], point)
        except BitstreamError:
            ends["refused"] += 1
        else:
            ends["decoded"] += 1
            assert x_hat.shape == (1, 3, HEIGHT, WIDTH)
            assert x_hat.isfinite().all()
            assert x_hat.min() >= 0
            assert x_hat.max() <= 1
        assert time.perf_counter() - start < MAX_SECONDS
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MAX_BYTES
    print(codec.test_name, dict(ends))
    return ends


def test_wrong_sections_end_in_an_error_or_a_picture(codec, photo):
    count = COUNT.get(codec.test_name, 10 if codec.test_name in DIFFUSION else OTHERS)
    assert sum(attack(codec, photo, count, seed=0).values()) == count


@pytest.mark.slow
def test_many_wrong_sections_end_in_an_error_or_a_picture(codec, photo, record_property):
    ends = attack(codec, photo, SLOW_RUN[codec.test_name in SLOW_SHARE], seed=1)
    for end, number in ends.items():
        record_property(end, number)
