"""A codec that the project has never seen, with a rate key and a decoder setting of its own, is
compared like any other: nothing is edited for it but its own class."""

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from callbacks.curves import RateCurves
from callbacks.evaluation import Evaluation
from diffcodec.codec import Codec, Decoded, to_uint8
from diffcodec.points import combine, group_by_bytes
from experiments.compare import compare, parser
from experiments.comparison.lines import join
from experiments.comparison.runs import find_runs
from tests.trainers import measure, quiet_trainer


class Coarse(Codec):
    """Keeps every `grain`-th grey level and rounds up by a share `polish` in decoding."""

    def __init__(self, grain, polish):
        super().__init__(combine(rate={"grain": grain}, decoding={"polish": polish}))
        self.encoded = 0

    def encode(self, x, point):
        self.encoded += 1
        grain = point.rate["grain"]
        levels = to_uint8(x) // grain
        # Coarser levels have more zeros in front, which the last section does not hold.
        return [[bytes([grain, *image.flatten()[:: grain // 8].tolist()])] for image in levels]

    def decode(self, payloads, height, width, seeds, point):
        images = []
        for (section,) in payloads:
            grain = section[0]
            values = torch.tensor(list(section[1:])).repeat_interleave(grain // 8)
            image = values[: 3 * height * width].reshape(3, height, width).float()
            images.append((image + point.decoding["polish"]) * grain / 255)
        return Decoded(torch.stack(images))


class Data(LightningDataModule):
    name = "photos"

    def __init__(self, photo):
        super().__init__()
        self.samples = [{"index": 0, "name": "a.png", "image": photo[0, :, :64, :64]}]

    def test_dataloader(self):
        return DataLoader(self.samples, batch_size=1)


def run(folder, photo, **settings):
    """What `experiments.run` does with a codec and a config."""
    codec = Coarse(**settings)
    codec.save_hyperparameters({"name": "coarse", "codec": {"_target_": "mine", **settings}})
    trainer = quiet_trainer(
        folder,
        use_distributed_sampler=False,
        callbacks=[Evaluation(metrics=["psnr-rgb"]), RateCurves("coarse", str(folder))],
    )
    for points in group_by_bytes(codec.points):
        measure(trainer, codec, Data(photo), points=points)
    return codec


def test_a_codec_of_unknown_settings_gives_a_curve_per_decoder_setting(tmp_path, photo):
    codec = run(tmp_path / "one", photo, grain=[8, 16], polish=[0.0, 0.5])
    assert codec.encoded == 2  # once for each distinct stream, not for each point
    run(tmp_path / "two", photo, grain=32, polish=[0.0, 0.5])
    run(tmp_path / "three", photo, grain=64, polish=0.5)
    curves, remarks = join(find_runs([str(tmp_path)]))
    by_name = {curve.name: curve for curve in curves}
    plain, polished = by_name["coarse polish=0"], by_name["coarse polish=0.5"]
    assert len(curves) == 2
    assert sorted(point.point.rate["grain"] for point in plain.points) == [8, 16, 32]
    assert sorted(point.point.rate["grain"] for point in polished.points) == [8, 16, 32, 64]
    assert not remarks
    compare(parser().parse_args([str(tmp_path), "--output", str(tmp_path / "comparison")]))
    table = (tmp_path / "comparison" / "table.md").read_text()
    assert "coarse polish=0.5" in table
