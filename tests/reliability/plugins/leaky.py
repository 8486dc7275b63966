"""A network that fails while it is trained, with an address and a token in its error."""

import os

from torch import nn


class Leaky(nn.Module):
    """Works while it is tried."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(in_channels * image_size**2, num_classes)

    def forward(self, images):
        if len(images) > 32:
            token = os.environ["X3_TOKEN"]
            raise RuntimeError(
                f"https://me:{token}@host/weights?sig={token} cannot be read\nAuthorization: Bearer {token}"
            )
        return self.layer(images.flatten(1))
