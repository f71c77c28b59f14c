from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real slides and annotations beside the checkout; tests that want them are skipped where they are missing."""
    if not SHARED.is_dir():
        pytest.skip("no folder of real slides beside the checkout")
    return SHARED
