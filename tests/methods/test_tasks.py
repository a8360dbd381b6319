"""Beyond one class an image: several classes, class maps, text, several inputs, sound, video."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mixwell
from mixwell import InputError, Method, Mix, MixedTarget, Recipe, Term
from mixwell.coefficient import Constant
from mixwell.interpolation import CutMix, Linear
from mixwell.losses import DecoupledBCE, DecoupledCrossEntropy, MixedBCE, MixedCrossEntropy
from mixwell.pairing import Flip

# ---------------------------------------------------------------------------------- segmentation


def segmenter(classes=3):
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, classes, 1))


def class_maps(size=5):
    return torch.rand(size, 3, 8, 6), torch.randint(3, (size, 8, 6))


def test_the_classes_are_cut_where_the_pixels_are():
    x, y = class_maps()
    method = mixwell.create("cutmix", num_classes=3, task="segmentation")
    step = method.step(segmenter(), x, y)
    mask = step.mix.dense_mask()[:, 0]
    assert torch.equal(step.target.lam, mask.float())
    seen = torch.where(mask, y, y[step.mix.partner])
    expected = F.cross_entropy(step.logits, seen)
    torch.testing.assert_close(step.loss, expected)
    assert step.logits.shape == (5, 3, 8, 6)


@pytest.mark.parametrize("name", ["mixup", "decoupled", "regmixup", "manifold_mixup"])
def test_blended_class_maps_weigh_both_classes_at_each_position(name):
    x, y = class_maps()
    net = segmenter()
    step = mixwell.create(name, num_classes=3, task="segmentation").step(net, x, y)
    step.loss.backward()
    assert net[0].weight.grad.abs().sum() > 0
    both = step.target.dense(3)
    soft = -(both * step.logits.log_softmax(1)).sum(1).mean()
    if name != "decoupled":
        torch.testing.assert_close(step.terms["mixed"], soft.detach())
    else:
        assert step.terms["mixed"] > soft.detach()


def test_positions_without_a_class_count_by_what_has_one():
    logits = torch.randn(2, 3, 1, 2)
    a = torch.tensor([[[0, 255]], [[255, 1]]])
    b = torch.tensor([[[1, 2]], [[255, 255]]])
    lam = torch.tensor([0.25, 0.5])
    loss = MixedCrossEntropy(ignore_index=255)(logits, MixedTarget(a, b, lam))
    log_p = logits.log_softmax(1)
    total = -(0.25 * log_p[0, 0, 0, 0] + 0.75 * log_p[0, 1, 0, 0])
    total = total - 0.75 * log_p[0, 2, 0, 1] - 0.5 * log_p[1, 1, 0, 1]
    torch.testing.assert_close(loss, total / (1 + 0.75 + 0.5))
    each = MixedCrossEntropy(ignore_index=255, reduction="none")(logits, MixedTarget(a, b, lam))
    assert each.shape == (2, 1, 2)
    assert float(each[1, 0, 0]) == 0


def test_ignored_positions_are_left_out_in_evaluation_too():
    x, y = class_maps()
    y[:, 2:] = 255
    net = segmenter()
    method = mixwell.create("mixup", num_classes=3, task="segmentation", ignore_index=255).eval()
    torch.testing.assert_close(method(net, x, y), F.cross_entropy(net(x), y, ignore_index=255))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("infinite_class", "for task='segmentation'"),
        ("remix", "for task='segmentation'"),
        ("mixup_io", "HeavierSide is for"),
    ],
)
def test_what_has_no_meaning_by_position_is_refused(name, words):
    arguments = {"class_counts": [1.0, 2, 3]} if name == "remix" else {}
    with pytest.raises(InputError, match=words):
        mixwell.create(name, num_classes=3, task="segmentation", **arguments)


def test_wrong_class_maps_and_logits_are_named():
    x, y = class_maps()
    method = mixwell.create("mixup", num_classes=3, task="segmentation")
    with pytest.raises(InputError, match=r"class indices \(B, H, W\)"):
        method(segmenter(), x, y[:, 0, 0])
    with pytest.raises(InputError, match=r"logits \(B, C, H, W\)"):
        method(nn.Sequential(nn.Flatten(), nn.Linear(144, 3)), x, y)
    with pytest.raises(InputError, match="logits must be"):
        method(nn.Conv2d(3, 3, 3), x, y)
    by_class = mixwell.create("mixup", task="segmentation", pairing="InterClass")
    with pytest.raises(InputError, match="no one class"):
        by_class(segmenter(), x, y)


# ------------------------------------------------------------------------------------ multi-label


def several_classes(size=7):
    return torch.rand(size, 3, 8, 8), (torch.rand(size, 4) < 0.4).long()


def tagger():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.mark.parametrize("name", ["mixup", "cutmix", "manifold_mixup", "sk_mixup", "regmixup"])
def test_several_classes_a_sample_are_mixed_class_by_class(name):
    x, y = several_classes()
    net = tagger()
    step = mixwell.create(name, num_classes=4, task="multilabel").step(net, x, y)
    lam = step.target.lam[:, None]
    soft = lam * y + (1 - lam) * y[step.mix.partner]
    expected = F.binary_cross_entropy_with_logits(step.logits, soft)
    torch.testing.assert_close(step.terms["mixed"], expected.detach())
    step.loss.backward()
    assert net[1].weight.grad.abs().sum() > 0


def test_pos_weight_is_torchs():
    logits, a, b = torch.randn(3, 4), torch.rand(3, 4).round(), torch.rand(3, 4).round()
    target = MixedTarget(a, b, torch.tensor([0.2, 0.5, 1.0]))
    weight = torch.tensor([1.0, 2, 0.5, 3])
    expected = F.binary_cross_entropy_with_logits(logits, target.dense(), pos_weight=weight)
    torch.testing.assert_close(MixedBCE(pos_weight=weight)(logits, target), expected)


def test_decoupled_bce_of_one_class_each_is_that_of_its_two_hot_rows():
    logits = torch.randn(4, 5)
    a, b = torch.tensor([0, 1, 2, 2]), torch.tensor([3, 1, 0, 4])
    lam = torch.tensor([0.1, 0.5, 0.7, 0.95])
    rows = MixedTarget(F.one_hot(a, 5).float(), F.one_hot(b, 5).float(), lam)
    loss = DecoupledBCE(reduction="none")
    torch.testing.assert_close(loss(logits, rows), loss(logits, MixedTarget(a, b, lam)))


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (torch.zeros(7), r"y must be \(B, 4\)"),
        (torch.zeros(7, 3), r"y must be \(B, 4\)"),
        (torch.full((7, 4), 2), "got values from 2 to 2"),
    ],
)
def test_wrong_multilabels_are_named(y, words):
    with pytest.raises(InputError, match=words):
        mixwell.create("mixup", num_classes=4, task="multilabel")(tagger(), torch.rand(7, 192), y)


def test_losses_say_for_which_task_they_are():
    recipe = Recipe()
    with pytest.raises(InputError, match="MixedBCE is for multilabel"):
        Method(Term(MixedBCE(), recipe))
    with pytest.raises(InputError, match="DecoupledCrossEntropy is for classification or segm"):
        Method(Term(DecoupledCrossEntropy(), recipe), task="multilabel")


# ------------------------------------------------------------------------------------------- text


class Reader(nn.Module):
    """Embeds tokens, averages what the attention mask shows, classifies."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.classifier = nn.Linear(6, 2)

    def forward(self, x):
        seen = x["attention_mask"][..., None].float()
        return self.classifier((self.embedding(x["input_ids"]) * seen).sum(1) / seen.sum(1))


def sentences():
    ids = torch.randint(1, 11, (4, 5))
    mask = (torch.arange(5) < torch.tensor([5, 2, 3, 1])[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}, torch.tensor([0, 1, 0, 1])


def at_half(layer):
    return Method(
        Term(MixedCrossEntropy(), Recipe(Flip(), Constant(0.5), Linear(layer=layer))),
        num_classes=2,
    )  # fmt: skip


def test_mixed_embeddings_are_as_long_as_the_longer_sentence():
    net, (x, y) = Reader(), sentences()
    step = at_half("embedding").step(net, x, y)
    ids, mask = x["input_ids"], x["attention_mask"]
    blend = (net.embedding(ids) + net.embedding(ids.flip(0))) / 2
    seen = torch.maximum(mask, mask.flip(0))[..., None].float()
    expected = net.classifier((blend * seen).sum(1) / seen.sum(1))
    torch.testing.assert_close(step.logits, expected)


def test_mixed_sentence_features_keep_each_sentences_own_mask():
    net, (x, y) = Reader(), sentences()
    step = at_half("head").step(net, x, y)
    clean = net(x)
    torch.testing.assert_close(step.logits, (clean + clean.flip(0)) / 2)


def test_a_sentence_that_is_not_mixed_keeps_its_length():
    net, (x, y) = Reader(), sentences()
    recipe = Recipe(Flip(), Constant(0.5), Linear(layer="embedding"), p=0.0)
    step = Method(Term(MixedCrossEntropy(), recipe), num_classes=2).step(net, x, y)
    torch.testing.assert_close(step.logits, net(x))


def test_rows_that_the_attention_mask_does_not_know_are_refused():
    method = mixwell.create("regmixup", num_classes=2, layer="embedding")
    with pytest.raises(InputError, match="attention_mask has no rows"):
        method(Reader(), *sentences())
    step = mixwell.create("regmixup", num_classes=2, layer="head").step(Reader(), *sentences())
    assert step.loss.isfinite()


def test_tokens_are_not_interpolated():
    with pytest.raises(InputError, match="mix a hidden layer"):
        mixwell.create("mixup", num_classes=2)(Reader(), *sentences())


# ------------------------------------------------------------------- several inputs, sound, video


class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.table = nn.Linear(3 * 8 * 8, 4), nn.Linear(2, 4)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        image, table = x
        return self.head(torch.cat([self.image(image.flatten(1)), self.table(table)], 1))


@pytest.mark.parametrize("name", ["mixup", "cutmix", "am_mixup", "sk_mixup", "manifold_mixup"])
def test_an_image_and_a_row_of_numbers_are_mixed_together(name):
    net = TwoTowers()
    x, y = (torch.rand(6, 3, 8, 8), torch.rand(6, 2)), torch.randint(3, (6,))
    step = mixwell.create(name, num_classes=3).step(net, x, y)
    step.loss.backward()
    assert net.table.weight.grad.abs().sum() > 0


def test_cutmix_cuts_the_image_and_weighs_the_numbers_by_its_area():
    x = {"image": torch.rand(6, 3, 8, 8), "table": torch.rand(6, 2)}
    (mixed, target, mix) = mixwell.create("cutmix", num_classes=3).preview(
        x, torch.randint(3, (6,))
    )
    expected = torch.where(mix.dense_mask(), x["image"], x["image"][mix.partner])
    assert torch.equal(mixed["image"], expected)
    lam = target.lam[:, None]
    expected = lam * x["table"] + (1 - lam) * x["table"][mix.partner]
    torch.testing.assert_close(mixed["table"], expected)


@pytest.mark.parametrize("shape", [(1, 40, 25), (3, 4, 9, 7)])
def test_spectrograms_and_clips_are_cut_by_one_box_each(shape):
    """(1, mels, frames) and (C, T, H, W): the last two dimensions are cut."""
    x = torch.rand(5, *shape)
    mixed, target, mix = mixwell.create("cutmix", num_classes=3).preview(x, torch.randint(3, (5,)))
    mask = mix.dense_mask()
    mask = mask.view(5, *[1] * (len(shape) - 2), *shape[-2:])
    assert torch.equal(mixed, torch.where(mask, x, x[mix.partner]))
    torch.testing.assert_close(target.lam, mask.float().flatten(1).mean(1))


def test_a_mix_is_drawn_once_for_all_that_belongs_to_a_sample():
    x, classes = torch.rand(4, 3, 8, 8), torch.randint(5, (4, 8, 8))
    _, _, mix = mixwell.create("cutmix").preview(x, torch.randint(3, (4,)))
    assert isinstance(mix, Mix)
    assert isinstance(mixwell.create("cutmix").recipe.interpolation, CutMix)
    both = mixwell.functional.mix({"image": x, "classes": classes}, mix)
    mask = mix.dense_mask()
    assert torch.equal(both["image"], torch.where(mask, x, x[mix.partner]))
    assert torch.equal(both["classes"], torch.where(mask[:, 0], classes, classes[mix.partner]))
