import gc
import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *argv):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    gc.collect()
    gc.freeze()  # the Trainer collects garbage when it starts: not all that is imported as well
    try:
        return module.main(list(argv))
    finally:
        gc.unfreeze()


@pytest.mark.release
def test_images_are_learnt():
    """Ten classes; by chance one in ten is right."""
    pytest.importorskip("sklearn")
    assert run("huggingface_image") > 0.85


@pytest.mark.cases(slow=1)
@pytest.mark.parametrize("layer", ["bert.embeddings", "head"])
def test_sentences_are_learnt(layer):
    """Four topics; by chance one in four is right."""
    assert run("huggingface_text", "--layer", layer) > 0.85


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("huggingface_image", ["--method", "cutmix+decoupled"]),
        ("huggingface_text", ["--method", "am_mixup", "--layer", "head"]),
    ],
)
def test_another_method_runs(name, options):
    assert 0 <= run(name, *options, "--epochs", "1") <= 1
