"""Operations are counted alike on every device, attention among them, and in networks that hand their parameters on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewstep.evaluation.operations import operations


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_counted(device: str, masked: bool) -> None:
    """Queries times keys, and the weights times values: each is a product of 6 x 10 x 8 numbers a head."""
    query, keys = torch.zeros(1, 3, 6, 8, device=device), torch.zeros(1, 3, 10, 8, device=device)
    mask = torch.zeros(1, 1, 6, 10, device=device) if masked else None
    assert operations(lambda: F.scaled_dot_product_attention(query, keys, keys, mask)) == 2 * 2 * 3 * 6 * 10 * 8


def test_a_network_that_gives_a_module_its_own_parameter_is_counted() -> None:
    table, layer = nn.Parameter(torch.zeros(4, 5)), nn.Linear(5, 7)
    assert operations(lambda: layer(table)) == 2 * 4 * 5 * 7


def test_a_network_that_attends_takes_as_many_without_its_weights() -> None:
    from diffusers import UNet2DConditionModel

    def counted(device: str) -> int:
        with torch.device(device):
            network = UNet2DConditionModel(
                8, down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), layers_per_block=1,
                block_out_channels=(8,), cross_attention_dim=6, attention_head_dim=2, norm_num_groups=4,
            )  # fmt: skip
            inputs = torch.zeros(1, 4, 8, 8), torch.zeros(1), torch.zeros(1, 5, 6)
        return operations(lambda: network(*inputs))

    assert counted("cpu") == counted("meta") > 0
