"""Lightning: a callback adds the method to a module that knows nothing of it.

python examples/lightning_callback.py --method cutmix+infinite_class --epochs 5
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from mixwell.compat.lightning import MixupCallback


class Digits(LightningModule):
    """An ordinary module, as it may have been written long ago."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss; the callback's takes its place."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the accuracy; no method changes it."""
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def main(argv: list[str] | None = None) -> float:
    """Train on handwritten digits; return the accuracy on those held out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="cutmix+infinite_class")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--precision", default="32-true")
    args = parser.parse_args(argv)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seed_everything(0, verbose=False)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    train, test = random_split(TensorDataset(x, torch.tensor(labels)), [1297, 500])

    trainer = Trainer(
        callbacks=[MixupCallback(args.method, num_classes=10)],
        max_epochs=args.epochs,
        precision=args.precision,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Digits()
    trainer.fit(module, DataLoader(train, batch_size=64, shuffle=True))
    (result,) = trainer.test(module, DataLoader(test, batch_size=len(test)), verbose=False)
    accuracy: float = result["accuracy"]
    print(f"{args.method}: accuracy {accuracy:.1%} on {len(test)} digits")
    return accuracy


if __name__ == "__main__":
    main()
