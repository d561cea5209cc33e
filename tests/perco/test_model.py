from diffcodec.coding.bitstream import seed_of_sample


def test_seeds_of_samples_differ_and_the_first_is_the_streams():
    seeds = [seed_of_sample(7, i) for i in range(5)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 5
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert seeds[1] == 3825955368494240696  # streams that were decoded before decode the same
