import pytest
import torch

from mixwell import InputError
from mixwell.batch import Batch
from mixwell.coefficient import Beta, Constant
from mixwell.losses import DecoupledBCE, DecoupledCrossEntropy, MixedCrossEntropy
from mixwell.training.forms import FORMS, Heavier, OtherHalf, mix_mask, ramp, rebuilt


def test_the_ramp_is_half_of_one_less_the_cosine():
    found = ramp(torch.linspace(0, 1, 5)).tolist()
    wanted = [0.0, 0.1464466, 0.5, 0.8535534, 1.0]
    assert found == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("threshold", [0.6, 0.95])
@pytest.mark.parametrize("cutoff", [None, 0.0, 0.3, 0.95, 1.0])
def test_the_mask_is_the_authors_formula(threshold, cutoff):
    lam = torch.tensor([0.5, 0.6, 0.8, 1.0]).repeat_interleave(7)
    confidence = torch.tensor([0.1, 0.3, 0.45, 0.6, 0.8, 0.951, 1.0]).repeat(4)
    wanted = [
        float(c >= min(threshold, max(threshold if cutoff is None else cutoff, 1 - one)))
        for c, one in zip(confidence.tolist(), lam.tolist(), strict=True)
    ]
    found = mix_mask(confidence, lam, threshold, cutoff)
    assert found.dtype == lam.dtype
    assert found.tolist() == wanted


def test_with_the_authors_cutoff_the_mask_is_the_threshold():
    confidence = torch.rand(200, generator=torch.Generator().manual_seed(0))
    found = mix_mask(confidence, torch.rand(200) / 2 + 0.5, 0.95, 0.95)
    assert torch.equal(found > 0, confidence >= 0.95)


def test_a_part_is_built_again_with_its_settings_and_checked():
    loss = DecoupledCrossEntropy(eta=0.3, class_weight=[1.0, 2.0], power=0.5)
    again = rebuilt(loss, asymmetric=True)
    assert type(again) is DecoupledCrossEntropy
    assert (again.eta, again.power, again.asymmetric, loss.asymmetric) == (0.3, 0.5, True, False)
    assert torch.equal(again.class_weight, loss.class_weight)
    with pytest.raises(InputError, match="side='heavier' and asymmetric=True both choose a side"):
        rebuilt(DecoupledCrossEntropy(side="heavier"), asymmetric=True)
    with pytest.raises(InputError, match="MixedCrossEntropy has no setting 'eta'"):
        rebuilt(MixedCrossEntropy(), eta=1.0)


@pytest.mark.parametrize("name", sorted(FORMS))
def test_other_losses_keep_their_settings(name):
    loss = MixedCrossEntropy(label_smoothing=0.1)
    across = FORMS[name].across(loss, {"label_smoothing": 0.1})
    assert across is not loss
    assert {**across.settings(), "reduction": "mean"} == loss.settings()
    among = FORMS[name].among(loss, {})
    assert among is None or among.settings() == loss.settings()


def test_class_weights_are_kept_where_labels_are_mixed_among_themselves():
    loss = DecoupledCrossEntropy(class_weight=[1.0, 3.0])
    assert FORMS["authors"].among(loss, {}).class_weight.tolist() == [1.0, 3.0]
    assert FORMS["authors"].across(loss, {}).class_weight.tolist() == [1.0, 3.0]


def test_labelled_samples_among_themselves_are_rescaled_on_both_sides_whatever_the_method_says():
    loss = DecoupledBCE(t=0.7, asymmetric=True)
    assert FORMS["authors"].among(loss, {"asymmetric": True}).settings() == {
        **loss.settings(), "asymmetric": False,
    }  # fmt: skip


def test_only_beside_decoupled_losses_is_one_lam_drawn_for_a_batch():
    class Drawn:
        coefficient = Beta(alpha=0.4)

    authors = FORMS["authors"]
    assert authors.coefficient(Drawn, DecoupledBCE(), ()).inner.settings() == {
        "alpha": 0.4, "per": "batch",
    }  # fmt: skip
    for loss, given in ((DecoupledBCE(), {"per"}), (MixedCrossEntropy(), ())):
        assert authors.coefficient(Drawn, loss, given).inner is Drawn.coefficient
    assert FORMS["paper"].coefficient(Drawn, DecoupledBCE(), ()).inner is Drawn.coefficient
    Drawn.coefficient = Constant(0.3)  # nothing is drawn
    assert authors.coefficient(Drawn, DecoupledBCE(), ()).inner is Drawn.coefficient


def test_partners_are_in_the_other_half_and_the_own_share_is_the_larger():
    batch = Batch(torch.zeros(6, 1), torch.zeros(6, dtype=torch.long))
    assert OtherHalf()(batch).tolist() == [3, 4, 5, 0, 1, 2]
    for lam in (0.2, 0.5, 0.8):
        found, label = Heavier(Constant(lam)).pair(batch, OtherHalf()(batch))
        assert found.tolist() == label.tolist() == pytest.approx([max(lam, 1 - lam)] * 6)
