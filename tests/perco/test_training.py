import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from diffcodec.latent.parts_training import TextToImageTraining
from diffcodec.perco import PerCo
from diffcodec.perco.captioners import FixedCaptioner
from diffcodec.perco.finetune import drop, spread_over
from diffcodec.perco.palette import PaletteCaptioner
from tests.perco.tiny import SIZES, arguments
from tests.trainers import quiet_trainer


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        blocks = torch.rand(3, 8, 8, generator=generator)
        image = torch.nn.functional.interpolate(blocks[None], scale_factor=8)[0]
        return {"image": image, "index": i, "name": f"{i}.png"}


def loader() -> DataLoader:
    return DataLoader(Images(), batch_size=2)


def fit(codec, tmp_path, **options) -> Trainer:
    trainer = quiet_trainer(tmp_path, **{"num_sanity_val_steps": 0, "max_steps": 6, **options})
    trainer.fit(codec, loader(), loader() if "val_check_interval" in options else None)
    return trainer


def trained(codec) -> set[str]:
    return {name for name, p in codec.named_parameters() if p.requires_grad}


def changed(codec, before) -> set[str]:
    return {k for k, v in codec.state_dict().items() if not torch.equal(v, before[k])}


def test_what_is_trained_changes_and_nothing_else(make_codec, tmp_path):
    codec = make_codec(
        ["8x8/16", "16x16/16"], captioner=PaletteCaptioner(), lr=1e-2, warmup_steps=2
    ).train()
    before = {k: v.clone() for k, v in codec.state_dict().items()}
    fit(codec, tmp_path)
    moved = changed(codec, before)
    assert {name for name in moved if "_codebook" not in name} == trained(codec)
    assert "model.null_text" in moved
    for rate in ("8x8/16", "16x16/16"):
        assert f"model.hyper_encoders.{rate}.quantizer._codebook.embed" in moved


def test_validation_draws_the_same_every_time(make_codec, tmp_path):
    codec = make_codec(["8x8/16", "16x16/16"], captioner=PaletteCaptioner())
    trainer = quiet_trainer(tmp_path)
    losses = [trainer.validate(codec, loader(), verbose=False)[0]["val/v_loss"] for _ in range(2)]
    assert losses[0] == losses[1] > 0
    with torch.no_grad():
        codec.model.backbone.unet.conv_out.weight.mul_(2)
    assert trainer.validate(codec, loader(), verbose=False)[0]["val/v_loss"] != losses[0]


def test_the_hyper_encoder_is_trained_without_quantisation(make_codec, tmp_path):
    codec = make_codec(["16x16/16"], quantize=False, lr=1e-2, warmup_steps=2).train()
    before = {k: v.clone() for k, v in codec.state_dict().items()}
    trainer = fit(codec, tmp_path)
    assert "model.hyper_encoders.16x16/16.backbone.0.weight" in changed(codec, before)
    assert trainer.callback_metrics["train/commit_loss"] == 0


def test_a_unet_held_in_half_precision_is_not_trained(make_backbone, tmp_path):
    codec = PerCo(make_backbone(memory="all"), "16x16/16", **arguments(**SIZES))
    with pytest.raises(ValueError, match="pass memory=frozen or memory=full"):
        fit(codec, tmp_path)


def test_only_linear_layers_and_the_first_convolution_of_the_unet_are_trained(make_codec):
    unet = make_codec().model.backbone.unet
    modules = dict(unet.named_modules())
    for name, parameter in unet.named_parameters():
        module = modules[name.rpartition(".")[0]]
        linear = isinstance(module, torch.nn.Linear) or module is unet.conv_in
        assert parameter.requires_grad == linear, name


def test_all_and_lora(make_codec, tmp_path):
    everything = make_codec(finetune="all").model.backbone.unet
    assert all(p.requires_grad for p in everything.parameters())
    codec = make_codec(["8x8/16"], finetune="lora", lora_rank=2, lr=1e-2, warmup_steps=1)
    x = torch.rand(1, 3, 64, 64)
    # Before training, the low-rank change is none.
    plain = make_codec(["8x8/16"])
    assert torch.equal(
        codec.decompress(codec.compress(x), seed=0), plain.decompress(plain.compress(x), seed=0)
    )
    names = {n for n in trained(codec) if n.startswith("model.backbone.unet.")}
    rest = {n for n in names if "parametrizations.weight.0" not in n}
    assert rest == {f"model.backbone.unet.conv_in.{n}" for n in ("weight", "bias")}
    before = {k: v.clone() for k, v in codec.state_dict().items()}
    fit(codec.train(), tmp_path, max_steps=3)
    assert names <= changed(codec, before)


def test_the_loss_falls(make_codec, tmp_path):
    torch.manual_seed(0)
    codec = make_codec(["16x16/16"], finetune="all", lr=3e-3, warmup_steps=1).train()
    x = torch.stack([Images()[i]["image"] for i in range(4)])

    def loss() -> float:
        torch.manual_seed(5)
        return sum(codec.model.losses(x, [None] * 4, 0)["v_loss"].item() for _ in range(8))

    before = loss()
    fit(codec, tmp_path, max_steps=30)
    assert loss() < 0.8 * before


def test_quantisers_train_again_after_validation_and_frozen_parts_never(make_codec, tmp_path):
    codec = make_codec(["8x8/16"], captioner=FixedCaptioner("red"), steps=1).train()
    modes = []
    training_step = codec.training_step

    def spy(batch, batch_idx):
        modes.append(
            (
                codec.model.encoder(0).quantizer.training,
                codec.model.backbone.latents.training,
                codec.model.backbone.text_encoder.training,
            )
        )
        return training_step(batch, batch_idx)

    codec.training_step = spy
    fit(codec, tmp_path, max_steps=4, val_check_interval=2)
    assert modes == [(True, False, False)] * 4


def test_a_run_resumes_where_it_stopped(make_codec, tmp_path):
    def fresh():
        return make_codec(["8x8/16", "16x16/16"], lr=1e-2, warmup_steps=4).train()

    def run(codec, steps, path=None):
        torch.manual_seed(3)
        trainer = quiet_trainer(tmp_path, max_steps=steps)
        trainer.fit(codec, loader(), ckpt_path=path)
        return trainer

    first = fresh()
    path = tmp_path / "last.ckpt"
    run(first, 4).save_checkpoint(path)
    resumed = fresh()
    run(resumed, 6, path)
    straight = fresh()
    run(straight, 4)
    assert all(torch.equal(v, straight.state_dict()[k]) for k, v in first.state_dict().items())
    assert changed(resumed, first.state_dict()) >= trained(resumed) - {"model.null_text"}


def test_half_precision_trains_on_the_same_loss(make_codec):
    codec = make_codec(["16x16/16"]).train()
    x = torch.stack([Images()[i]["image"] for i in range(4)])
    losses = []
    for enabled in (False, True):
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(codec.model.losses(x, ["red"] * 4, 0)["v_loss"])
    assert losses[1].dtype == torch.float32
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0)


def test_lpips_reaches_the_hyper_encoder_through_the_frozen_decoder(make_codec):
    codec = make_codec(["64x64/256"]).train()
    x = torch.rand(2, 3, 64, 64)
    out = codec.model.losses(x, [None, "red"], 0, perceptual=lambda a, b: (a - b).square().mean())
    out["lpips_loss"].backward()
    assert codec.model.encoder(0).backbone[0].weight.grad.abs().sum() > 0
    assert codec.model.backbone.unet.conv_in.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in codec.model.backbone.latents.parameters())


def test_lpips_without_its_weights_says_so(make_codec, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "torch.hub.load_state_dict_from_url", lambda *a, **k: (_ for _ in ()).throw(OSError("off"))
    )
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    codec = make_codec(["64x64/256"], lpips_weight=0.1, perceptual="vgg")
    with pytest.raises(ValueError, match=r"lpips_weight > 0 needs .*'vgg': .*perceptual=…"):
        codec.setup("fit")
    codec = make_codec(["64x64/256"], lpips_weight=0.1)
    codec.setup("fit")
    assert codec._perceptual.name == "st-vgg"


def test_dropping():
    condition, null = torch.ones(1000, 2, 3), torch.zeros(1, 2, 3)
    kept = drop(condition, null, 0.1)[:, 0, 0]
    assert 0.85 < kept.mean() < 0.95
    assert drop(condition, null, 0.0).all()
    always = torch.arange(1000) % 2 == 0
    assert torch.equal(drop(condition, null, 0.0, always)[:, 0, 0] == 0, always)


def test_every_trained_parameter_gets_a_gradient_of_zero(make_codec):
    codec = make_codec()
    zero = spread_over(codec)
    zero.backward()
    assert zero == 0
    assert all(p.grad is not None for p in codec.parameters() if p.requires_grad)


def test_a_trained_codec_loads_again(make_codec, tmp_path):
    codec = make_codec(["8x8/16"])
    with torch.no_grad():
        codec.model.null_text.add_(1)
        codec.model.backbone.unet.conv_in.weight.mul_(2)
    path = codec.save(tmp_path / "model")
    other = make_codec(["8x8/16"], weights=str(path))
    assert torch.equal(other.model.null_text, codec.model.null_text)
    other.load_weights(str(path))
    assert not changed(other, codec.state_dict())
    with pytest.raises(ValueError, match="has no rate 8x8/64, choose from 8x8/16"):
        make_codec(["8x8/64"], weights=str(path))


def test_a_codec_of_one_rate_loads_from_one_of_several(make_codec, tmp_path):
    codec = make_codec(["8x8/16", "16x16/16"])
    other = make_codec(["16x16/16"])
    other.load_weights(str(codec.save(tmp_path / "model")))
    name = "hyper_encoders.16x16/16.backbone.0.weight"
    assert torch.equal(other.model.state_dict()[name], codec.model.state_dict()[name])


def test_a_whole_codec_is_a_backbone_that_brings_its_hyper_encoders(
    make_backbone, make_codec, tmp_path
):
    first = make_codec(["8x8/16", "16x16/16"])
    with torch.no_grad():
        first.model.null_text.add_(1)
        first.model.backbone.latents.scale.fill_(7.0)
    path = str(first.save(tmp_path / "model"))
    sizes = arguments(**SIZES)

    same = PerCo(make_backbone(weights=path), ["8x8/16", "16x16/16"], **sizes)
    assert same.pretrained
    assert not changed(same, first.state_dict())
    more = PerCo(make_backbone(weights=path), ["16x16/16", "32x32/16"], **sizes)
    assert not more.pretrained
    name = "hyper_encoders.16x16/16.backbone.0.weight"
    assert torch.equal(more.model.state_dict()[name], first.model.state_dict()[name])
    with pytest.raises(ValueError, match="set M=6"):
        PerCo(make_backbone(weights=path), ["8x8/16"], **arguments(**{**SIZES, "M": 8}))
    text = TextToImageTraining(make_backbone(weights=path), captioner=PaletteCaptioner())
    assert text.backbone.local_channels == 0
