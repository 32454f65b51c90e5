"""The resampler reads any number of tokens, ignores masked ones and computes what a BERT decoder layer computes."""

import pytest
import torch
import torch.nn.functional as F

from mm_interleaved.errors import ConfigError, ShapeError
from mm_interleaved.model.configuration import ResamplerConfig
from mm_interleaved.model.resampler import INITIAL_WIDTH, Resampler

CONFIG = ResamplerConfig(queries=3, width=8, layers=3, heads=2, feed_forward_width=12, cross_attention_every=2)


@pytest.fixture
def resampler():
    torch.manual_seed(0)
    module = Resampler(CONFIG, input_width=6).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def test_cross_attention_stands_in_every_kth_layer_from_the_first(resampler):
    assert [layer.cross_attention is not None for layer in resampler.layers] == [True, False, True]


def test_masked_tokens_have_no_influence(resampler):
    tokens = torch.randn(2, 5, 6)
    mask = torch.tensor([[True, True, True, False, False], [True, False, True, True, True]])
    changed = torch.where(mask[..., None], tokens, torch.randn(2, 5, 6) * 10)
    torch.testing.assert_close(resampler(tokens, mask), resampler(changed, mask))
    torch.testing.assert_close(resampler(tokens, mask)[:1], resampler(tokens[:1, :3]))


def test_full_mask_equals_no_mask(resampler):
    tokens = torch.randn(2, 5, 6)
    torch.testing.assert_close(resampler(tokens, torch.ones(2, 5, dtype=torch.bool)), resampler(tokens))


def test_input_without_readable_token_stays_finite(resampler):
    assert resampler(torch.randn(1, 4, 6), torch.zeros(1, 4, dtype=torch.bool)).isfinite().all()


def test_shared_queries_equal_queries_repeated_for_every_input(resampler):
    tokens = torch.randn(3, 4, 6)
    together = resampler(tokens)
    apart = torch.cat([resampler(one[None]) for one in tokens])
    torch.testing.assert_close(together, apart)


def test_attention_equals_the_written_out_formula(resampler):
    attention = resampler.layers[0].cross_attention.double()
    state, source = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 5, 6, dtype=torch.float64)
    bias = torch.randn(2, 1, 1, 5, dtype=torch.float64)
    read = []
    for head in range(2):
        rows = slice(4 * head, 4 * head + 4)
        query = attention.query_norm(attention.query(state)[..., rows])
        key = attention.key_norm(attention.key(source)[..., rows])
        scores = torch.einsum("bqd,bkd->bqk", query, key) / 2 + bias[:, 0]
        read.append(scores.softmax(-1) @ attention.value(source)[..., rows])
    expected = attention.output_norm(state + attention.output(torch.cat(read, -1)))
    torch.testing.assert_close(attention(state, source, bias), expected)


def test_layer_order_is_self_attention_cross_attention_feed_forward(resampler):
    layer = resampler.layers[0]
    tokens = torch.randn(2, 4, 6)
    state = layer.cross_attention(layer.self_attention(resampler.queries, resampler.queries, None), tokens, None)
    expected = layer.feed_forward_norm(state + layer.feed_forward_out(F.gelu(layer.feed_forward_in(state))))
    torch.testing.assert_close(layer(resampler.queries, tokens, None), expected)


def test_initialisation_is_the_published_one():
    config = ResamplerConfig(queries=64, width=INITIAL_WIDTH, layers=2, heads=2, feed_forward_width=96)
    module = Resampler(config, input_width=96)
    assert abs(module.queries.std().item() - 0.02) < 0.002
    assert abs(module.layers[0].feed_forward_in.weight.std().item() - 0.02) < 0.002
    assert not module.layers[1].self_attention.query.bias.any()


def test_gradients_reach_every_parameter(resampler):
    (resampler(torch.randn(2, 4, 6)) * torch.randn(2, 3, 8)).sum().backward()
    for name, parameter in resampler.named_parameters():
        assert parameter.grad is not None, name
        # A bias on the keys shifts all scores of a query alike unless the head norm stands between.
        assert parameter.grad.abs().max() > 0 or name.endswith("key_norm.bias"), name


def test_empty_batch_gives_no_rows(resampler):
    assert resampler(torch.zeros(0, 5, 6), torch.zeros(0, 5, dtype=torch.bool)).shape == (0, 3, 8)


def test_double_precision_stays_double(resampler):
    assert resampler.double()(torch.randn(1, 2, 6, dtype=torch.float64)).dtype == torch.float64


def test_autocast_stays_near_full_precision(resampler):
    tokens = torch.randn(2, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        low = resampler(tokens)
    # bfloat16 keeps 8 bits; each of the layers ends in a norm, so errors stay near 1e-2 of a unit-scale state.
    torch.testing.assert_close(low.float(), resampler(tokens), atol=0.1, rtol=0.05)


def test_unfit_sizes_are_refused(resampler):
    with pytest.raises(ConfigError, match="no multiple"):
        Resampler(ResamplerConfig(width=10, heads=4), input_width=6)
    with pytest.raises(ShapeError, match="width 6"):
        resampler(torch.zeros(1, 2, 7))
