import pytest

import mixwell
from mixwell.training import RunConfig, train


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A run on a few digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(RunConfig(epochs=2, threads=1, method="mixup", train_size=200, accelerator="cpu"), folder)
    return mixwell.load_run(folder)
