"""These tests need torch and PEFT; where they are missing each is skipped, and says so."""

from __future__ import annotations

import pytest

from adalora_ref.conformance.peft_target import peers
from adalora_ref.conformance.target import TargetError


@pytest.fixture(autouse=True, scope="session")  # before what modules share is made
def _peers_installed() -> None:
    try:
        peers()
    except TargetError as error:
        pytest.skip(str(error))
