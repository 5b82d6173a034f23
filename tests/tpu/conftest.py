import sys

import pytest

from . import repositories
from .cloud import Cloud
from .fakes.scenario import Scenario


@pytest.fixture(scope="session")
def scripts_repository(tmp_path_factory):
    """A repository with the scripts as they are now. Read it only."""
    return repositories.with_scripts(tmp_path_factory.mktemp("scripts") / "jaxllm")


@pytest.fixture
def make_cloud(scripts_repository, tmp_path):
    """Makes the fake cloud of a test from a scenario; nothing that it started outlives the test."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the hosts of a TPU run Linux, and so do the fake ones")
    made = []

    def make(scenario=None, *, repository=None):
        cloud = Cloud(
            tmp_path / f"cloud{len(made)}",
            scenario or Scenario(),
            repository=repository or scripts_repository,
        )
        made.append(cloud)
        return cloud

    yield make
    for cloud in made:
        cloud.close()
