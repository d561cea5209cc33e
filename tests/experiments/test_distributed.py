"""The same numbers and the same pictures on 1, 2 and 3 processes."""

import pytest

CASES = [
    ("mbt2018_mean_vbr", ("codec=mbt2018_mean_vbr", "codec.level=[2]"), (3,)),
    (
        "cdc",
        (
            *("codec=cdc", "codec.width=8", "codec.weights=null"),
            *("codec.steps=2", "codec.gamma=0.8"),
        ),
        (2,),
    ),
    pytest.param(
        "cdc_jpeg",
        (
            *("codec=cdc_residual", "codec/compressor=jpeg", "codec.compressor.quality=[20]"),
            *("codec.width=4", "codec.steps=2", "codec.gamma=0.8"),
        ),
        (2,),
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "sdedit",
        (
            *("codec=sdedit", "codec/base=jpeg", "codec.base.quality=[20]", "codec/preset=medium"),
            *(
                "codec.preset.medium.steps=2",
                "codec.prior.denoiser.channels=[8]",
                "codec.show_base=false",
            ),
            *("codec.prior.denoiser.weights=null", "codec.prior.consistency.weights=null"),
        ),
        (2,),
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("case", "overrides", "counts"), CASES)
def test_metrics_do_not_depend_on_the_number_of_processes(runner, case, overrides, counts):
    # A CPU's last digits depend on the threads of a process, whatever the number of processes.
    arguments = ("allow_untrained=true", "threads=1", *overrides)
    expected, _ = runner(f"{case}-1", *arguments)
    for count in counts:
        name = f"{case}-{count}"
        curve, _ = runner(name, *arguments, "trainer=ddp_cpu", f"trainer.devices={count}")
        assert curve["meta"]["world_size"] == count
        assert curve["meta"]["threads"] == 1
        assert curve["meta"]["num_images"] == 5
        for metric, values in expected["results"].items():
            if not metric.endswith("_time"):
                assert curve["results"][metric] == pytest.approx(values, rel=1e-6), metric
        for picture in (runner.root / f"{case}-1").rglob("a*.png"):
            other = runner.root / name / picture.relative_to(runner.root / f"{case}-1")
            assert other.read_bytes() == picture.read_bytes()


def test_training_on_two_processes_and_a_set_smaller_than_that(runner):
    curve, _ = runner(
        *("ddp-fit", "codec=mbt2018_mean", "trainer=ddp_cpu", "trainer.max_steps=2"),
        "fit=true",
        *("codec.size=[8,8]", "datamodule.batch_size=1"),
    )
    assert curve["meta"]["world_size"] == 2
    assert len(curve["results"]["bpp"]) == 1
