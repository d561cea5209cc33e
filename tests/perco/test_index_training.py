import pytest
import torch
from torch.utils.data import DataLoader

from diffcodec.perco.index_training import IndexModelTraining
from tests.trainers import quiet_trainer


@pytest.fixture
def codec(make_codec):
    return make_codec(rates=("16x16/16", "64x64/256"), index_coder="model")


def images(count: int) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    big = torch.nn.functional.interpolate(coarse, scale_factor=16)
    return [{"image": x, "index": i, "name": f"{i}"} for i, x in enumerate(big)]


def test_it_learns_and_counts_and_changes_nothing_else(codec, tmp_path):
    part = IndexModelTraining(codec, lr=1e-2, warmup_steps=1)
    before = {k: v.clone() for k, v in codec.state_dict().items()}
    trainer = quiet_trainer(tmp_path, max_steps=30)
    data = images(8)
    (first,) = trainer.validate(part, DataLoader(data), verbose=False)
    trainer.fit(part, DataLoader(data, batch_size=4))
    (last,) = trainer.validate(part, DataLoader(data), verbose=False)
    for rate in ("16x16/16", "64x64/256"):
        assert last[f"val/share/{rate}"] < 0.9 * first[f"val/share/{rate}"]
    changed = {k for k, v in codec.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(".index_models." in f".{name}" for name in changed)
    # 30 batches of four images, of 2x2 and 8x8 codes, beside the ones of the start.
    assert [int(codec.model.index_model(i).counts.sum()) for i in range(2)] == [
        16 + 30 * 4 * 4,
        256 + 30 * 4 * 64,
    ]


def test_the_codec_then_sends_fewer_bytes_and_the_same_picture(codec, make_codec, tmp_path):
    data = images(8)
    part = IndexModelTraining(codec, lr=1e-2, warmup_steps=1)
    quiet_trainer(tmp_path, max_steps=40).fit(part, DataLoader(data, batch_size=4))
    uniform = make_codec(rates=("16x16/16", "64x64/256"), noise_seed=1)
    codec.noise_seed = 1
    codec.eval()
    codec.save(tmp_path / "model")
    uniform.load_weights(str(tmp_path / "model"))
    x = data[0]["image"][None]
    last = codec.points[-1]
    short, long = codec.compress(x, last), uniform.compress(x, uniform.points[-1])
    assert len(short[0]) < 0.9 * len(long[0])
    assert torch.equal(codec.decompress(short, last), uniform.decompress(long, uniform.points[-1]))


def test_there_must_be_something_to_train(make_codec):
    with pytest.raises(ValueError, match="index_coder=model"):
        IndexModelTraining(make_codec())


def test_a_model_that_nobody_trained_sends_nothing(codec):
    with pytest.raises(ValueError, match="experiment=perco/index_model"):
        codec.compress(torch.rand(1, 3, 64, 64))
