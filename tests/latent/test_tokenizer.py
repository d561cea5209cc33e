import torch

from diffcodec.latent.tokenizer import BEGIN, END, WordTokenizer


def test_known_words_are_one_token_and_others_their_bytes():
    rows = WordTokenizer(16)(["A red boat", "xyzzy é"])
    assert rows.shape == (2, 16)
    assert rows[0, 0] == BEGIN
    assert (rows[0] != END).sum() == 1 + 3
    assert (rows[1] != END).sum() == 1 + 5 + 2
    assert rows.max() < WordTokenizer().vocabulary_size


def test_case_and_space_do_not_matter_but_words_do():
    tokenizer = WordTokenizer()
    assert torch.equal(tokenizer(["A  Red\nboat"]), tokenizer(["a red boat"]))
    assert not torch.equal(tokenizer(["a red boat"]), tokenizer(["a blue boat"]))


def test_long_texts_are_cut_and_end_all_the_same():
    rows = WordTokenizer(8)(["boat " * 50, ""])
    assert rows[0, -1] == END
    assert (rows[0, :-1] != END).all()
    assert rows[1].tolist() == [BEGIN] + [END] * 7
