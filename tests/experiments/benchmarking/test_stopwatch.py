import torch
from torch import Tensor, nn

from experiments.benchmarking.stopwatch import Instruments, Stopwatch


class Ticks:
    """A clock that others turn."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def layer(self, seconds: float, *inner: nn.Module) -> nn.Module:
        ticks = self

        class Layer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Sequential(*inner)

            def forward(self, x: Tensor) -> Tensor:
                ticks.now += seconds
                return self.inner(x)

        return Layer()


def test_inner_parts_are_not_counted_for_outer_ones():
    ticks = Ticks()
    watch = Stopwatch(ticks)
    with watch.part("a"):
        ticks.now += 1
        with watch.part("b"):
            ticks.now += 2
            with watch.part("b"):
                ticks.now += 4
            ticks.now += 8
        ticks.now += 16
    ticks.now += 32
    with watch.part("b"):
        ticks.now += 64
    assert watch.seconds == {"a": 17, "b": 78}


def test_networks_and_coders_are_seen_wherever_they_are_called():
    from diffcodec.coding import latent_coder  # imports rans_encode by name

    ticks = Ticks()
    network = ticks.layer(1.0, ticks.layer(2.0))
    instruments = Instruments()
    original = latent_coder.rans_encode
    try:
        compiled = torch.compile(lambda x: network(x) + 1, backend="eager")
        watch = Stopwatch(ticks)
        with instruments.watching(watch):
            network(torch.zeros(1))
            assert latent_coder.rans_encode is not original
            latent_coder.rans_encode(torch.zeros(0), torch.zeros(0), None)
            compiled(torch.zeros(1))
            network(torch.zeros(1))
        assert watch.seconds["network"] >= 6
        assert watch.seconds["entropy"] == 0
        before = dict(watch.seconds)
        network(torch.zeros(1))
        compiled(torch.zeros(1))
        assert watch.seconds == before
        assert latent_coder.rans_encode is original
    finally:
        instruments.close()
    assert torch.compile.__module__.startswith("torch")
