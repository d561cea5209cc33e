from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.sampler import ShardedBatchSampler, ShardedRandomSampler

SIZES = st.lists(st.sampled_from([(1, 1), (1, 2), (2, 1)]), min_size=1, max_size=40)


@given(sizes=SIZES, batch_size=st.integers(1, 5), world_size=st.integers(1, 6))
@settings(deadline=None)
def test_every_image_is_evaluated_once_in_batches_of_one_size(sizes, batch_size, world_size):
    world_size = min(world_size, len(sizes))
    evaluated = []
    for rank in range(world_size):
        batches = list(
            ShardedBatchSampler(
                len(sizes), batch_size=batch_size, rank=rank, world_size=world_size, sizes=sizes
            )
        )
        assert batches
        for batch in batches:
            assert 1 <= len(batch) <= batch_size
            assert len({sizes[index] for index in batch}) == 1
            evaluated += batch
    assert sorted(evaluated) == list(range(len(sizes)))


@given(sizes=SIZES, batch_size=st.integers(1, 5))
@settings(deadline=None)
def test_batches_are_as_few_as_the_sizes_allow(sizes, batch_size):
    sampler = ShardedBatchSampler(len(sizes), batch_size=batch_size, sizes=sizes)
    counts = Counter(sizes).values()
    assert len(sampler) == len(list(sampler)) == sum(-(-count // batch_size) for count in counts)


def test_one_process_evaluates_in_the_order_of_the_set():
    assert list(ShardedBatchSampler(3)) == [[0], [1], [2]]


def test_a_second_pass_is_the_same():
    sampler = ShardedBatchSampler(5, batch_size=2, sizes=[(1, 1)] * 5)
    assert list(sampler) == list(sampler) == [[0, 1], [2, 3], [4]]


def test_fewer_images_than_processes_cannot_be_shared():
    with pytest.raises(ValueError, match="2 images cannot be split over 3 processes"):
        ShardedBatchSampler(2, rank=0, world_size=3)


def test_batches_of_several_need_one_size_per_image():
    with pytest.raises(ValueError, match="need the images' sizes"):
        ShardedBatchSampler(2, batch_size=2)
    with pytest.raises(ValueError, match="1 sizes for 2 images"):
        ShardedBatchSampler(2, batch_size=2, sizes=[(1, 1)])


def training_draws(num_images, num_samples, world_size, *, seed=0, epoch=0):
    """Of all processes: one list per process."""
    draws = []
    for rank in range(world_size):
        sampler = ShardedRandomSampler(
            num_images, num_samples, rank=rank, world_size=world_size, seed=seed
        )
        sampler.set_epoch(epoch)
        draws.append([draw.index for draw in sampler])
        assert len(draws[-1]) == len(sampler)
    return draws


@given(num_images=st.integers(1, 40), world_size=st.integers(1, 6), seed=st.integers(0, 9))
@settings(deadline=None)
def test_an_epoch_draws_each_image_once_over_the_processes(num_images, world_size, seed):
    world_size = min(world_size, num_images)
    draws = training_draws(num_images, None, world_size, seed=seed)
    assert {len(of_rank) for of_rank in draws} == {num_images // world_size}
    drawn = list(chain(*draws))
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(num_images))


@given(num_images=st.integers(1, 20), num_samples=st.integers(1, 60), world_size=st.integers(1, 6))
@settings(deadline=None)
def test_longer_epochs_use_the_images_equally(num_images, num_samples, world_size):
    world_size = min(world_size, num_samples)
    draws = training_draws(num_images, num_samples, world_size)
    assert {len(of_rank) for of_rank in draws} == {num_samples // world_size}
    counts = Counter(chain(*draws))
    least = (num_samples // world_size * world_size) // num_images
    assert all(least <= counts[index] <= least + 1 for index in range(num_images))


def test_at_every_step_the_processes_have_different_images():
    for at_once in zip(*training_draws(12, 48, 4), strict=True):
        assert len(set(at_once)) == 4


def test_epochs_and_seeds_shuffle_differently_and_reproducibly():
    orders = [
        training_draws(50, None, 1, seed=seed, epoch=epoch)[0]
        for seed, epoch in [(0, 0), (0, 1), (7, 0)]
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert orders[0] == training_draws(50, None, 1)[0]
    assert orders[0] != sorted(orders[0])


def test_fewer_draws_than_processes_are_refused():
    with pytest.raises(ValueError, match="2 images cannot be split over 3 processes"):
        ShardedRandomSampler(10, 2, rank=0, world_size=3)


def test_an_epoch_can_begin_in_its_middle():
    sampler = ShardedRandomSampler(10, 30, rank=1, world_size=2)
    sampler.set_epoch(3)
    whole = list(sampler)
    assert len({draw.seed for draw in whole}) == len(whole)
    sampler.first = 4
    assert list(sampler) == whole[4:]
    assert len(sampler) == 15


def test_two_processes_draw_what_one_draws_in_batches_twice_as_large():
    one, *two = (
        list(ShardedRandomSampler(10, 20, rank=rank, world_size=world_size))
        for rank, world_size in ((0, 1), (0, 2), (1, 2))
    )
    assert [draw for draws in zip(*two, strict=True) for draw in draws] == one


@given(measured=st.sets(st.integers(0, 9)), world_size=st.integers(1, 4))
@settings(deadline=None)
def test_what_is_measured_is_left_out_and_no_process_is_without_a_batch(measured, world_size):
    batches = [
        list(ShardedBatchSampler(10, rank=rank, world_size=world_size, without=measured))
        for rank in range(world_size)
    ]
    assert all(batches)
    assert sorted(chain(*chain(*batches))) == sorted(set(range(10)) - measured)
