import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # tests run side by side; threads of torch that wait burn each other's time

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, so that a red run is the change's doing; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=1000)
# Few examples, where tests run hundreds of times (benchmarks/mutation.py).
settings.register_profile("quick", derandomize=True, deadline=None, max_examples=10)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real slides and annotations beside the checkout; tests that want them are skipped where they are missing."""
    if not SHARED.is_dir():
        pytest.skip("no folder of real slides beside the checkout")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Levels that tests make, and projects that they open, are kept in folders of their own, not in the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "SLIDECORR_CONFIG_DIR", str(tmp_path_factory.mktemp("config")))
        patch.setitem(os.environ, "SLIDECORR_CACHE_DIR", str(folder))
        yield folder
