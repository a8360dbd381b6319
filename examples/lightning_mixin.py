"""Lightning: a module that calls the method itself, by the mixin.

python examples/lightning_mixin.py --method regmixup --epochs 5
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import mixwell
from mixwell.compat.lightning import MixupMixin


class Digits(MixupMixin, LightningModule):
    """A module whose loss is a method's."""

    def __init__(self, method: str, lr: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10)),
        )
        self.mixup = mixwell.create(method, num_classes=10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the method's loss, and log what it is made of."""
        step = self.mixed_step(batch)
        self.log_dict({f"train_{name}": loss for name, loss in step.terms.items()})
        return step.loss

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the accuracy, and the plain loss: in evaluation mode nothing is mixed."""
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())
        self.log("loss", self.mixed_loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])


def main(argv: list[str] | None = None) -> float:
    """Train on handwritten digits; return the accuracy on those held out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="regmixup")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=3e-3)
    args = parser.parse_args(argv)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seed_everything(0, verbose=False)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    train, test = random_split(TensorDataset(x, torch.tensor(labels)), [1297, 500])

    trainer = Trainer(
        max_epochs=args.epochs,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Digits(args.method, args.lr)
    trainer.fit(module, DataLoader(train, batch_size=64, shuffle=True))
    (result,) = trainer.test(module, DataLoader(test, batch_size=len(test)), verbose=False)
    accuracy: float = result["accuracy"]
    print(f"{args.method}: accuracy {accuracy:.1%}, loss {result['loss']:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
