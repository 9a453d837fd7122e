"""A schema registry for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service.formats.stub import Stub, registry


@pytest.fixture
def stub() -> Iterator[Stub]:
    """A registry that knows no schema."""
    with registry() as found:
        yield found
