import pytest

from experiments import doctor
from experiments.cli import compose_config
from experiments.memory import Estimate, estimate, has_estimate

PAPER = ("experiment=perco/paper", "trainer=fsdp", "datamodule.batch_size=1")


@pytest.mark.slow
def test_eight_gpus_hold_an_eighth_of_the_networks_each():
    cfg = compose_config([*PAPER])
    one, eight = (estimate(cfg, count, crop=128) for count in (1, 8))
    # U-Net 866 M, autoencoder 84 M, text encoder 340 M, hyper-encoder: in float32.
    assert one.parts["Sharded Param"] == pytest.approx(4 * 1.295e9, rel=0.02)
    assert eight.parts["Sharded Param"] == pytest.approx(one.parts["Sharded Param"] / 8, rel=0.01)
    # Two averages of what AdamW trains, the linear layers and the hyper-encoder.
    assert one.parts["OptState"] > 8 * 0.3e9
    assert eight.peak < one.peak / 2
    assert sum(eight.parts.values()) == pytest.approx(eight.peak, rel=0.01)


@pytest.mark.slow
def test_checkpointing_keeps_fewer_activations():
    kept, made_again = (
        estimate(
            compose_config([*PAPER, f"codec.training.checkpointing={given}"]), 8, crop=256
        ).peak
        for given in ("false", "true")
    )
    assert made_again < 0.9 * kept


def test_the_doctor_has_a_line_for_each_number_of_gpus(monkeypatch, capsys):
    def made(cfg, count):
        return Estimate(count, 20, (9 << 30) // count, {"Activation": 1 << 30})

    monkeypatch.setattr("experiments.memory.estimate", made)
    doctor.main([*PAPER])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("per GPU")]
    assert lines == [
        "per GPU     1 GPU(s): 9.0 GiB each (activation 1.0)",
        "per GPU     4 GPU(s): 2.2 GiB each (activation 1.0)",
        "per GPU     8 GPU(s): 1.1 GiB each (activation 1.0)",
    ]


def test_of_networks_of_unknown_sizes_there_is_none(capsys):
    cfg = compose_config(["codec=perco", "trainer=fsdp"])
    assert not has_estimate(cfg)
    with pytest.raises(ValueError, match="only for PerCo over Stable Diffusion"):
        estimate(cfg, 2)
    doctor.main(["codec=perco", "trainer=fsdp"])
    assert "per GPU     unknown" in capsys.readouterr().out
