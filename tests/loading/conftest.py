"""What all tests of the loader share."""

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_collections():
    """Keep what was there before out of the collections that tests ask for, which took 1.6 s each late in a run."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
