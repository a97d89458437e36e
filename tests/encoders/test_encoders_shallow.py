"""The shallow text network of the paper and its tokenisation."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from fusetune.encoders import ShallowText, load_text_encoder, special_ids, train_word_tokenizer


def batch(*rows: list[int]) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])
    return {"ids": ids, "mask": mask}


def test_it_equals_its_formula() -> None:
    torch.manual_seed(0)
    encoder = ShallowText(9)
    assert (encoder.words.embedding_dim, encoder.first.out_features, encoder.second.out_features) == (128, 200, 200)
    words = [3, 1, 4]
    hidden = []
    for word in words:
        x = F.leaky_relu(encoder.first.weight @ encoder.words.weight[word] + encoder.first.bias)
        hidden.append(F.leaky_relu(encoder.second.weight @ x + encoder.second.bias))
    torch.testing.assert_close(encoder(batch(words))[0], torch.stack(hidden).mean(0))


def test_padding_counts_in_the_mean_only_as_published() -> None:
    torch.manual_seed(0)
    sound, published = ShallowText(9), ShallowText(9, masked=False)
    published.load_state_dict(sound.state_dict())
    short, long = [3, 1], [5, 2, 6, 4, 8, 7]
    torch.testing.assert_close(sound(batch(short))[0], sound(batch(short, long))[0])
    torch.testing.assert_close(published(batch(short))[0], sound(batch(short))[0])
    assert not torch.allclose(published(batch(short))[0], published(batch(short, long))[0])


def test_words_are_cut_as_in_basic_english() -> None:
    tokenizer = train_word_tokenizer(['It\'s "pie", (hot)! pie<br />pie; soup: A.', "soup"])
    assert tokenizer.encode('It\'s "pie", (hot)!').tokens == ["it", "'", "s", "pie", ",", "(", "hot", ")", "!"]
    assert tokenizer.encode("pie<br />pie; soup: A.").tokens == ["pie", "pie", "soup", "a", "."]


def test_vocabulary_is_ordered_by_frequency_then_alphabet() -> None:
    tokenizer = train_word_tokenizer(["soup pie", "pie apple"])
    assert tokenizer.get_vocab() == {"<unk>": 0, "pie": 1, "apple": 2, "soup": 3}
    assert tokenizer.encode("stew pie").ids == [0, 1]
    assert special_ids(tokenizer).pad == 0  # as published: padding is the unknown word


def test_it_is_an_encoder_of_the_configuration() -> None:
    tokenizer = train_word_tokenizer(["soup pie"])
    encoder, same = load_text_encoder("shallow", max_tokens=8, tokenizer=tokenizer)
    assert isinstance(encoder, ShallowText)
    assert encoder.masked
    assert same is tokenizer
