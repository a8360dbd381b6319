import cmath
import math

import pytest
import torch

from mixwell import InputError, Mix
from mixwell.batch import Batch
from mixwell.interpolation import FMix, fourier
from mixwell.interpolation.fourier import NEGLIGIBLE, lowest, noise


def make_batch(size, height=8, width=8):
    return Batch(torch.zeros(size, 1, height, width), torch.zeros(size).long())


def draw(policy, lam, height, width):
    batch = make_batch(len(lam), height, width)
    mix = policy.shape(batch, Mix(torch.arange(len(lam)).roll(1), lam))
    return mix.mask[:, 0], mix


# ------------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (6, 5), (1, 4), (3, 1)])
def test_noise_is_a_sum_of_waves(height, width, monkeypatch):
    decay, longer = 1.0, max(height, width)
    downs = [k if k <= height // 2 else k - height for k in range(height)]
    acrosses = range(width // 2 + 1)
    normal = torch.randn(2, len(downs), len(acrosses), 2)
    monkeypatch.setattr(Batch, "randn", lambda self, *shape: normal.view(shape))
    found = noise(make_batch(2), 2, height, width, decay)
    for sample in range(2):
        for r in range(height):
            for c in range(width):
                total = 0.0
                for i, down in enumerate(downs):
                    for j, across in enumerate(acrosses):
                        frequency = math.hypot(down / height, across / width)
                        scale = (longer * max(frequency, 1 / longer)) ** -decay
                        wave = cmath.exp(2j * math.pi * (down * r / height + across * c / width))
                        z = complex(*normal[sample, i, j].tolist())
                        # Columns of the other sign are its mirror image.
                        twice = 1 if across == 0 or 2 * across == width else 2
                        total += twice * scale * (z * wave).real
                assert float(found[sample, r, c]) == pytest.approx(
                    total / (height * width), abs=1e-5
                )


@pytest.mark.parametrize("decay", [1.0, 3.0])
def test_noise_decays_by_the_power_of_frequency(decay):
    # Of 400 fields the mean power at a frequency has a standard deviation of 5 %.
    torch.manual_seed(0)
    power = torch.fft.rfft2(noise(make_batch(400), 400, 32, 32, decay)).abs().square().mean(0)
    down = torch.fft.fftfreq(32, 1 / 32)[:, None]
    frequency = torch.hypot(down, torch.arange(17.0))
    inside = (frequency >= 1) & (frequency <= 12)
    inside[:, 0] = inside[:, 16] = False
    flat = power[inside] * frequency[inside] ** (2 * decay)
    assert float((flat / flat.mean()).log().abs().max()) < 0.3


@pytest.mark.parametrize("decay", [1.6, 2.0, 3.0, 6.0])
@pytest.mark.parametrize("side", [32, 224, 1000])
def test_what_noise_leaves_out_is_negligible(decay, side, monkeypatch):
    shapes = []

    def note(self, *shape):
        shapes.append(shape)
        return torch.zeros(shape)

    monkeypatch.setattr(Batch, "randn", note)
    assert noise(make_batch(1), 1, side, side, decay).shape == (1, side, side)
    most = shapes[0][2] - 1
    assert shapes == [(1, min(side, 2 * most + 1), most + 1, 2)]
    down = torch.fft.fftfreq(side, 1 / side, dtype=torch.float64)[:, None]
    across = torch.arange(side // 2 + 1, dtype=torch.float64)
    energy = torch.hypot(down, across).clamp_min(1).pow(-2 * decay)
    kept = (down.abs() <= most) & (across <= most)
    assert float(energy[~kept].sum() / energy.sum()) <= NEGLIGIBLE


# ------------------------------------------------------------------------------------------ ranking


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 9000])
def test_lowest_are_exactly_so_many_and_the_lowest(size):
    values = torch.randn(6, size)
    count = torch.tensor([0, size, size // 2, size // 3, 1, size - 1])
    chosen = lowest(values, count)
    assert torch.equal(chosen.sum(1), count)
    span = (values.amax(1) - values.amin(1)) / 1000
    highest = torch.where(chosen, values, -torch.inf).amax(1)
    rest = torch.where(chosen, torch.inf, values).amin(1)
    assert (highest <= rest + span).all()


def test_lowest_breaks_ties_by_position():
    values = torch.tensor([[1.0, 0, 1, 1, 1, 2], [3, 3, 3, 3, 3, 3], [5, 4, 3, 2, 1, 0]])
    chosen = lowest(values, torch.tensor([3, 2, 2]))
    assert chosen.int().tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]]


def test_lowest_of_one_row_for_all_are_sorted():
    values = torch.randn(1, 500)
    count = torch.tensor([0, 13, 250, 500])
    chosen = lowest(values, count)
    order = values[0].sort().values
    for row, number in zip(chosen, count.tolist(), strict=True):
        assert torch.equal(values[0][row].sort().values, order[:number])


def test_blocks_and_compiled_ranking_agree_with_the_whole(monkeypatch):
    values, count = torch.randn(11, 300), torch.randint(0, 301, (11,))
    whole = lowest(values, count)
    monkeypatch.setattr(fourier, "BLOCK", 700)
    assert torch.equal(lowest(values, count), whole)
    torch.compiler.reset()
    compiled = torch.compile(lowest, fullgraph=True, backend="eager")
    assert torch.equal(compiled(values, count), whole)


# -------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("per", ["sample", "batch"])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 7), (5, 12), (1, 6), (40, 33)])
def test_fmix_gives_exactly_the_nearest_number_of_pixels(height, width, per):
    lam = torch.cat([torch.rand(20), torch.tensor([0.0, 1.0])])
    mask, mix = draw(FMix(per=per), lam, height, width)
    assert mask.dtype == torch.bool
    number = (lam * height * width).round()
    assert torch.equal(mask.sum((1, 2)), number.long())
    assert torch.equal(mix.lam, number / (height * width))


def test_regions_of_one_noise_lie_in_each_other():
    lam = torch.linspace(0, 1, 12)
    mask, _ = draw(FMix(per="batch"), lam, 16, 16)
    assert (mask[:-1] <= mask[1:]).all()


def test_fmix_treats_all_places_alike():
    # 144 counts of 4,000 draws, each within 5.3 standard deviations: by chance not once in 50,000.
    torch.manual_seed(1)
    mask, _ = draw(FMix(), torch.full((4000,), 0.3), 12, 12)
    found = mask.float().mean(0)
    lam = round(0.3 * 144) / 144
    assert float((found - lam).abs().max()) < 5.3 * math.sqrt(lam * (1 - lam) / 4000)


def test_a_greater_decay_makes_larger_regions():
    def edges(decay):
        torch.manual_seed(2)
        mask, _ = draw(FMix(decay), torch.full((50,), 0.5), 32, 32)
        return float((mask[:, 1:] != mask[:, :-1]).float().mean())

    white, usual, smooth = edges(0.0), edges(3.0), edges(6.0)
    assert white == pytest.approx(0.5, abs=0.02)
    assert smooth < usual < 0.12


@pytest.mark.parametrize("decay", [-1, "steep"])
def test_a_bad_decay_is_named(decay):
    with pytest.raises(InputError, match="decay_power must be a number"):
        FMix(decay)
