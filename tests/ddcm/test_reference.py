"""Against the authors' code: the atoms that it chooses, and whole walks of a tiny U-Net.

`reference.json` was made by their selection rule on the Gaussian codebooks of `drawn.py`, and by
their compressor (the branch of Stable Diffusion, float32, on a CPU) on the pipeline of `drawn.py`,
with the codebooks replaced by ours, from our starting noise.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diffcodec.ddcm import DDCM
from diffcodec.ddcm.codebook import Codebook, choose
from diffcodec.diffusion.sampler import ddim
from diffcodec.latent.stable_diffusion import stable_diffusion
from diffcodec.zero_shot.ladder import Level
from tests.ddcm.drawn import codebook, picture, save_drawn_pipeline

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text())


@pytest.mark.parametrize("expected", REFERENCE["selections"])
def test_the_same_atoms_and_signs_are_chosen(expected):
    residual = np.random.RandomState(expected["seed"]).standard_normal(expected["length"])
    atoms = codebook(expected["size"], expected["length"])
    numbers = choose(torch.from_numpy(residual.astype(np.float32)) @ atoms, expected["atoms"])
    assert (numbers >> 1).tolist() == expected["chosen"]
    assert (1 - (numbers & 1)).tolist() == expected["positive"]
    noise = atoms[:, numbers >> 1] @ (1.0 - 2.0 * (numbers & 1))
    found = (noise / noise.std())[:8]
    torch.testing.assert_close(found, torch.tensor(expected["noise"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("expected", REFERENCE["walks"], ids=lambda e: e["prediction_type"])
@torch.no_grad()
def test_a_whole_walk_is_the_same_step_for_step(expected, tmp_path):
    folder = save_drawn_pipeline(tmp_path, expected["prediction_type"])
    codec = DDCM(stable_diffusion(str(folder)), 1.0, log2_atoms=9).eval()
    book = Codebook(expected["size"], expected["atoms"])
    shared = codec._walk(64, 64, None, book)
    x0 = codec._latent_of(picture())
    sigmas = codec.process.sigmas[expected["timesteps"]]
    for number, step in enumerate(expected["levels"]):
        level = Level(number, 1, float(sigmas[number]), float(sigmas[number + 1]))
        numbers = shared.send(x0, level)
        assert (numbers >> 1).tolist() == step["chosen"]
        assert (1 - (numbers & 1)).tolist() == step["positive"]
        x = (shared.x / (1 + shared.sigma**2) ** 0.5).flatten()
        torch.testing.assert_close(x[:16], torch.tensor(step["x"]), rtol=1e-3, atol=1e-4)
    # Without bits: DDIM over the timesteps that are left, down to the process's first.
    left = torch.cat([sigmas[len(expected["levels"]) :], codec.process.sigmas[:1]])
    x = ddim(codec._estimate(None, (64, 64)), shared.x, left) / (1 + left[-1] ** 2).sqrt()
    final = torch.tensor(expected["final"])
    torch.testing.assert_close(x.flatten().float(), final, rtol=1e-3, atol=1e-4)
