"""What is said of a step that is replaced."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mixwell.compat.replaced import bypassed, say_replaced, settings_of


class LightningModule(nn.Module):
    """As much of it as is looked at: the framework's own methods are not looked into."""

    def log(self, name, value):
        self.log_dict({name: value})

    def log_dict(self, values):
        pass

    def on_train_batch_end(self, outputs):
        pass


class Accuracy(nn.Module):
    def update(self, logits, y):
        pass

    def compute(self):
        pass


class Plain(LightningModule):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])


class Rich(LightningModule):
    """Its loss and its metrics lie in a method that other steps share; one metric is not of it."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2)
        self.criterion = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0]), label_smoothing=0.1)
        self.accuracy, self.other = Accuracy(), Accuracy()

    def _shared(self, batch):
        logits = self.net(batch[0])
        return self._measured(self.criterion(logits, batch[1]), logits, batch)

    def _measured(self, loss, logits, batch):
        self.accuracy.update(logits, batch[1])
        return loss

    def training_step(self, batch, batch_idx):
        loss = self._shared(batch)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.other.update(batch)

    def on_train_batch_end(self, outputs):
        pass


def said_of(module, own=None, loss_name="train_loss"):
    with pytest.warns(UserWarning, match="said once") as seen:
        say_replaced(module, own, loss_name)
    return str(seen[0].message)


def test_a_plain_step():
    text = said_of(Plain())
    assert "replaces Plain.training_step while it trains: its own loss is not computed." in text
    assert "metrics" not in text
    assert "self.log" not in text
    assert "on_train_batch_end" not in text
    assert "'train_loss'" in text


def test_what_lies_in_methods_that_the_step_calls():
    text = said_of(Rich(), loss_name=None)
    assert (
        "its own loss (self.criterion, CrossEntropyLoss(weight=..., label_smoothing=0.1))" in text
    )
    assert "its metrics (self.accuracy) are not updated and its self.log do not run;" in text
    assert "its on_train_batch_end is given the loss alone" in text
    assert "is not logged (log=None)" in text
    assert "MixupMixin" in text
    assert "self.other" not in text


def test_a_step_that_was_set_on_the_module():
    module = Rich()
    own = lambda batch, batch_idx: module.criterion(module.net(batch[0]), batch[1])  # noqa: E731
    text = said_of(module, own)
    assert "self.criterion" in text
    assert "metrics" not in text


def test_a_step_without_code_is_no_trouble():
    assert bypassed(Rich(), len, LightningModule) == "its own loss is not computed"


@pytest.mark.parametrize(
    ("loss", "shown"),
    [
        (nn.CrossEntropyLoss(), "CrossEntropyLoss()"),
        (nn.CrossEntropyLoss(ignore_index=0), "CrossEntropyLoss(ignore_index=0)"),
        (nn.BCEWithLogitsLoss(pos_weight=torch.ones(2)), "BCEWithLogitsLoss(pos_weight=...)"),
        (nn.MSELoss(), "MSELoss()"),
    ],
)
def test_settings_that_matter_are_shown(loss, shown):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert settings_of(loss) == shown
