import matplotlib.image
import pytest
import torch

from mixwell import InputError, data, models
from mixwell.report import draw_preview
from mixwell.training import RunConfig

TINY = {"train_size": 100}


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize("method", ["mixup", "cutmix", "sk_mixup", "regmixup+infinite_class"])
def test_draws_a_picture(method, tmp_path):
    draw_preview(RunConfig(method=method, **TINY), tmp_path / "p.png", count=5)
    image = matplotlib.image.imread(tmp_path / "p.png")
    assert image.shape[0] > 300
    assert image[..., :3].std() > 0.1


@pytest.mark.slow
def test_takes_a_runs_weights_and_names_those_that_do_not_fit(tmp_path):
    dataset = data.load("digits")
    net = models.build("cnn", input_shape=dataset.input_shape, num_outputs=10)
    torch.save(net.state_dict(), tmp_path / "model.pt")
    config = RunConfig(method="sk_mixup", **TINY)
    draw_preview(config, tmp_path / "p.png", weights=tmp_path / "model.pt")
    torch.save({"other": torch.zeros(1)}, tmp_path / "bad.pt")
    for name in ("bad.pt", "none.pt"):
        with pytest.raises(InputError, match=r"weights=.*don't fit"):
            draw_preview(config, tmp_path / "p.png", weights=tmp_path / name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "am_mixup"}, "inside the model"),
        ({"method": "erm"}, "doesn't mix"),
        ({"data": "diabetes"}, "holds no images"),
    ],
)
def test_what_cannot_be_drawn_is_named(options, words, tmp_path):
    with pytest.raises(InputError, match=words):
        draw_preview(RunConfig(**options), tmp_path / "p.png")
    assert not (tmp_path / "p.png").exists()


@pytest.mark.parametrize(("size", "count"), [(100, 101), (100, 10**6), (1000, 241)])
def test_more_samples_than_a_picture_holds_are_refused(size, count, tmp_path):
    config = RunConfig(method="mixup", train_size=size)
    with pytest.raises(InputError, match=rf"count must be 1 to \d+, got {count}") as told:
        draw_preview(config, tmp_path / "new" / "p.png", count=count)
    most = int(str(told.value).split()[5].rstrip(","))
    assert not (tmp_path / "new").exists()
    assert 50 < most < count
