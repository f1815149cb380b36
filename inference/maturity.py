"""Stages of 13 bones from their patches: DenseNet-121 and attention between the bones (Jia et al. 2022, section 3.3).

DenseNet: Huang et al., CVPR 2017, MONAI's layers. Attention: scaled dot product (Vaswani et al. 2017), Figure 4.
"""

from __future__ import annotations

import math
import re

import torch
from monai.networks.nets import DenseNet
from torch import Tensor, nn

from inference.rus_chn import MOST_STAGES, STAGE_COUNTS

BONES = len(STAGE_COUNTS)
_BLOCKS = (6, 12, 24, 16)
"""Layers of DenseNet-121's four dense blocks."""


class BoneAttention(nn.Module):
    """Each bone's feature looks at all 13, which mature together (Table 1 of Jia et al. gives their correlations).

    Parameters
    ----------
    features
        Length of a bone's feature.
    key_features
        Length of queries and keys.
    """

    def __init__(self, features: int, key_features: int = 64) -> None:
        super().__init__()
        self.query = nn.Linear(features, key_features)
        self.key = nn.Linear(features, key_features)
        self.value = nn.Linear(features, features)

    def weights(self, bones: Tensor) -> Tensor:
        """Return the attention map (N, 13, 13) of features (N, 13, features); each row adds up to 1."""
        query, key = self.query(bones), self.key(bones)
        return torch.softmax(query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]), dim=-1)

    def forward(self, bones: Tensor) -> Tensor:
        """Add to features (N, 13, features) what the attention map takes from the values."""
        attended: Tensor = self.weights(bones) @ self.value(bones)
        return bones + attended


class MaturityNet(nn.Module):
    """Give each of 13 bones a distribution over its stages.

    Parameters
    ----------
    growth
        DenseNet's growth rate; the paper's DenseNet-121 has 32, its first convolution twice as many channels.
    dropout
        Probability of dropping a bone's feature before its stages are told, in training.
    """

    def __init__(self, growth: int = 32, dropout: float = 0.2) -> None:
        super().__init__()
        trunk = DenseNet(2, 1, 1, init_features=2 * growth, growth_rate=growth, block_config=_BLOCKS)
        self.trunk = trunk.features
        features = self.trunk[-1].num_features
        self.bones = nn.Parameter(torch.randn(BONES, features) * 0.02)
        self.attention = BoneAttention(features)
        self.dropout = nn.Dropout(dropout)
        self.stages = nn.ModuleList([nn.Linear(features, count) for count in STAGE_COUNTS])

    def forward(self, patches: Tensor) -> Tensor:
        """Map patches (N, 13, side, side) of -1..1 to probabilities (N, 13, 15); 0 for stages that a bone has not."""
        count, side = len(patches), patches.shape[-1]
        maps = torch.relu(self.trunk(patches.reshape(count * BONES, 1, side, side)))
        bones = maps.mean((-2, -1)).reshape(count, BONES, -1) + self.bones
        bones = self.dropout(self.attention(bones))
        logits = [
            nn.functional.pad(head(bones[:, place]).float(), (0, MOST_STAGES - STAGE_COUNTS[place]), value=-torch.inf)
            for place, head in enumerate(self.stages)
        ]
        return torch.softmax(torch.stack(logits, dim=1), dim=-1)

    def load_imagenet(self, weights: dict[str, Tensor]) -> None:
        """Take the trunk from a DenseNet-121 under torchvision's names; its colours are added up to one grey.

        Raises
        ------
        RuntimeError
            If the weights are of another network, or this one's growth rate is not 32.
        """
        own = {}
        for key, value in weights.items():
            if key.startswith("features."):
                name = re.sub(r"(denselayer\d+)\.", r"\1.layers.", key.removeprefix("features."))
                own[name] = value.sum(1, keepdim=True) if name == "conv0.weight" else value
        self.trunk.load_state_dict(own)
