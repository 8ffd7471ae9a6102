"""A network inside which the images of a batch don't come first."""

import torch
from torch import Tensor, nn


class RowsOfSteps(nn.Module):
    """Takes ``[N, 5, 3]``; its neurons see rows ``[5 * N, 4]``, those of one step together."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``[N, 2]``."""
        rows = torch.relu(self.first(x.transpose(0, 1).reshape(-1, 3)))
        return self.second(rows).view(5, -1, 2).mean(0)
