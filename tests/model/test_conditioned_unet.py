"""The UNet is diffusers' own until its synchronizers read earlier pictures."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from mm_interleaved.errors import ShapeError
from mm_interleaved.model.conditioned_unet import ConditionedUNet, DocumentValues, pixel_centres
from mm_interleaved.model.configuration import MMFSConfig

FEATURE_WIDTH = 6
UNET = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 12, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 10,
    "attention_head_dim": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
MMFS = MMFSConfig(level_sides=(4, 2), base_side=None, heads=2, points=3, value_width=8, max_images=5, offset_init=1.0)
CELLS = sum(side * side for side in MMFS.level_sides)


def build(*, constant=False, unet=UNET, mmfs=MMFS):
    torch.manual_seed(0)
    module = ConditionedUNet(
        unet, mmfs=mmfs, feature_width=FEATURE_WIDTH, latent_side=8, position_side=4, constant_residual_without_image=constant
    )
    return module.eval()


def awaken(module):
    """Makes everything that starts as zero matter."""
    torch.manual_seed(1)
    with torch.no_grad():
        for synchronizer in (*module.skip_synchronizers, module.middle_synchronizer):
            for parameter in synchronizer.parameters():
                parameter.normal_(std=0.5)
    return module


def inputs(images=2, earlier=3, side=8):
    torch.manual_seed(2)
    return {
        "sample": torch.randn(images, 3, side, side),
        "timestep": torch.arange(images) * 100,
        "encoder_hidden_states": torch.randn(images, 5, 10),
    }, torch.randn(images, earlier, CELLS, FEATURE_WIDTH)


def upstream_of(module):
    plain = UNet2DConditionModel(**UNET).eval()
    plain.load_state_dict({name: tensor for name, tensor in module.state_dict().items() if "synchronizer" not in name})
    return plain


@pytest.mark.parametrize("side", [8, 7, 6])
def test_output_with_untrained_synchronizers_is_upstreams_exactly(side):
    module = build()
    arguments, features = inputs(side=side)
    visible = torch.ones(2, 3, dtype=torch.bool)
    with torch.no_grad():
        expected = upstream_of(module)(**arguments).sample
        found = module(**arguments, values=module.project_features(features), visible=visible)
    assert torch.equal(found, expected)


def test_keys_are_upstreams_plus_synchronizers():
    own = {name for name in build().state_dict() if not name.startswith(("skip_synchronizers.", "middle_synchronizer."))}
    assert own == set(UNet2DConditionModel(**UNET).state_dict())


@pytest.mark.parametrize("nothing", ["hidden", "no pictures", "no values"])
def test_without_an_earlier_picture_ours_is_upstreams_exactly(nothing):
    module = awaken(build())
    arguments, features = inputs(earlier=0 if nothing == "no pictures" else 3)
    visible = torch.zeros(features.shape[:2], dtype=torch.bool)
    values = None if nothing == "no values" else module.project_features(features)
    with torch.no_grad():
        found = module(**arguments, values=values, visible=visible)
        assert torch.equal(found, upstream_of(module)(**arguments).sample)


def test_without_an_earlier_picture_the_published_residual_is_one_constant_whatever_is_hidden():
    module = awaken(build(constant=True))
    arguments, features = inputs()
    hidden = torch.zeros(2, 3, dtype=torch.bool)
    with torch.no_grad():
        with_hidden = module(**arguments, values=module.project_features(features), visible=hidden)
        without_values = module(**arguments)
        without_pictures = module(**arguments, values=module.project_features(features[:, :0]), visible=hidden[:, :0])
        assert not torch.allclose(with_hidden, upstream_of(module)(**arguments).sample)
        residual = module.middle_synchronizer(torch.randn(2, 16, 2, 2), None, None)
    torch.testing.assert_close(with_hidden, without_values)
    torch.testing.assert_close(with_hidden, without_pictures)
    torch.testing.assert_close(residual, residual[:1, :, :1, :1].expand_as(residual))


def test_pictures_of_a_mixed_batch_equal_those_computed_alone():
    module = awaken(build())
    arguments, features = inputs(images=3)
    visible = torch.tensor([[True, True, True], [False, False, False], [False, True, False]])
    with torch.no_grad():
        together = module(**arguments, values=module.project_features(features), visible=visible)
        for index in range(3):
            mine = {name: value[index : index + 1] for name, value in arguments.items()}
            seen = features[index : index + 1, visible[index]]
            alone = module(**mine, values=module.project_features(seen), visible=torch.ones(seen.shape[:2], dtype=torch.bool))
            torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-4, atol=1e-5)


def test_every_visible_picture_changes_the_output_and_hidden_ones_do_not():
    module = awaken(build())
    arguments, features = inputs(images=1)
    visible = torch.tensor([[True, False, True]])

    def run(features):
        with torch.no_grad():
            return module(**arguments, values=module.project_features(features), visible=visible)

    for index, matters in enumerate((True, False, True)):
        changed = features.clone()
        changed[:, index] += 1.0 * torch.randn_like(changed[:, index])
        assert torch.allclose(run(changed), run(features)) is not matters


def test_gradients_reach_the_features_and_every_synchronizer():
    module = awaken(build())
    arguments, features = inputs()
    features.requires_grad_()
    module(**arguments, values=module.project_features(features), visible=torch.ones(2, 3, dtype=torch.bool)).square().sum().backward()
    assert features.grad.abs().sum(dim=(2, 3)).min() > 0
    for name, parameter in module.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert not module.middle_synchronizer.mmfs.null_value.requires_grad


def test_inputs_and_skips_are_not_changed_in_place():
    module = awaken(build())
    arguments, features = inputs()
    before = {name: value.clone() for name, value in arguments.items()}
    module(**arguments, values=module.project_features(features), visible=torch.ones(2, 3, dtype=torch.bool))
    for name, value in arguments.items():
        assert torch.equal(value, before[name])


def test_real_map_shapes_may_differ_from_the_configured_ones():
    module = awaken(build())
    arguments, _ = inputs()
    shapes = ((3, 5), (2, 1))
    features = torch.randn(2, 1, sum(h * w for h, w in shapes), FEATURE_WIDTH)
    found = module(**arguments, values=module.project_features(features), visible=torch.ones(2, 1, dtype=torch.bool), level_shapes=shapes)
    assert found.isfinite().all()


def test_float64_runs_throughout():
    module = awaken(build()).double()
    arguments, features = inputs()
    arguments = {name: value.double() if value.is_floating_point() else value for name, value in arguments.items()}
    visible = torch.ones(2, 3, dtype=torch.bool)
    double = module(**arguments, values=module.project_features(features.double()), visible=visible)
    assert double.dtype == torch.float64
    arguments, features = inputs()
    single = awaken(build())
    torch.testing.assert_close(
        single(**arguments, values=single.project_features(features), visible=visible).double(), double, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("layers", [1, 2])
def test_grids_and_channels_follow_the_configuration(blocks, layers):
    unet = UNET | {
        "block_out_channels": UNET["block_out_channels"][:blocks],
        "down_block_types": UNET["down_block_types"][:blocks],
        "up_block_types": UNET["up_block_types"][3 - blocks :],
        "layers_per_block": layers,
    }
    module = build(unet=unet)
    widths = [synchronizer.output_convolution.out_channels for synchronizer in module.skip_synchronizers]
    sides = [synchronizer.mmfs.config.base_side for synchronizer in module.skip_synchronizers]
    expected = [(8, 8)]
    for index, width in enumerate(unet["block_out_channels"]):
        expected += [(width, 8 >> index)] * layers + [(width, 8 >> (index + 1))] * (index < blocks - 1)
    assert list(zip(widths, sides, strict=True)) == expected
    assert module.middle_synchronizer.mmfs.config.base_side == 8 >> (blocks - 1)
    arguments, features = inputs()
    visible = torch.ones(2, 3, dtype=torch.bool)
    assert module(**arguments, values=module.project_features(features), visible=visible).shape == arguments["sample"].shape


def test_a_fixed_base_side_is_kept():
    module = build(mmfs=replace(MMFS, base_side=5))
    assert {synchronizer.mmfs.config.base_side for synchronizer in module.skip_synchronizers} == {5}


def test_queries_look_at_the_centres_of_their_pixels():
    centres = pixel_centres(2, 4, like=torch.zeros(1))
    assert centres[0].tolist() == [[x, y] for y in (0.25, 0.75) for x in (0.125, 0.375, 0.625, 0.875)]


def test_values_for_another_number_of_synchronizers_are_refused():
    module = build()
    arguments, features = inputs()
    with pytest.raises(ShapeError, match="synchronizers"):
        module(**arguments, values=module.project_features(features)[:-1], visible=torch.ones(2, 3, dtype=torch.bool))


def test_upstream_parts_are_marked_as_initialised_and_ours_are_not():
    module = build()
    for name, part in module.named_modules():
        assert getattr(part, "_is_hf_initialized", False) is ("synchronizer" not in name), name


def test_no_buffer_is_left_out_of_the_state_dict():
    module = build()
    assert {name for name, _ in module.named_buffers()} <= set(module.state_dict())


@pytest.mark.parametrize("documents", [1, 2])
def test_branches_of_guidance_read_what_each_reads_alone_and_the_first_skip_once(documents):
    module = awaken(build())
    given, features = inputs(images=2 * documents)
    for name in ("sample", "timestep"):
        given[name] = torch.cat([given[name][:documents]] * 2)
    rows = tuple(torch.tensor([number, documents + number]) for number in range(documents))
    values = tuple(module.project_features(features[number : number + 1]) for number in range(documents))
    asked = []
    hook = module.skip_synchronizers[0].register_forward_hook(lambda module, given, found: asked.append(given[0].shape[0]))
    together = module(**given, values=DocumentValues(values, rows, branches=True))
    hook.remove()
    assert asked == [1] * documents
    for own, value in zip(rows, values, strict=True):
        alone = module(**{name: tensor[own] for name, tensor in given.items()}, values=DocumentValues((value,), (torch.arange(2),)))
        torch.testing.assert_close(together[own], alone)
