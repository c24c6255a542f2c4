"""The blocks by Prefect's own standards, but for their image, which would be asked for in the internet."""

from __future__ import annotations

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite

from o9.blocks import AggregatorStore, AlertChannel


@pytest.mark.parametrize("block", [AggregatorStore, AlertChannel])
class TestBlocks(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:  # each by its parameter
        raise NotImplementedError

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """That there is one, over HTTPS."""
        assert str(block._logo_url).startswith("https://")
