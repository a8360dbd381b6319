"""PyTorch Ignite: the method in the update function of a trainer.

python examples/ignite_loop.py --method am_mixup --epochs 5
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from ignite.engine import Engine, Events, create_supervised_evaluator
from ignite.metrics import Accuracy
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import mixwell


def main(argv: list[str] | None = None) -> float:
    """Train on handwritten digits; return the accuracy on those held out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="am_mixup")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=3e-3)
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    train, test = random_split(TensorDataset(x, torch.tensor(labels)), [1297, 500])

    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    method = mixwell.create(args.method, num_classes=10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)

    def update(engine: Engine, batch: Any) -> dict[str, Tensor]:
        model.train()
        step = method.step(model, *batch)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        return step.terms

    trainer = Engine(update)
    evaluator = create_supervised_evaluator(model, {"accuracy": Accuracy()})

    @trainer.on(Events.ITERATION_STARTED)
    def follow(engine: Engine) -> None:
        total = engine.state.max_epochs * engine.state.epoch_length
        method.set_progress((engine.state.iteration - 1) / total)

    @trainer.on(Events.EPOCH_COMPLETED)
    def evaluate(engine: Engine) -> None:
        evaluator.run(DataLoader(test, batch_size=len(test)))
        losses = ", ".join(f"{name} {loss:.3f}" for name, loss in engine.state.output.items())
        accuracy = evaluator.state.metrics["accuracy"]
        print(f"epoch {engine.state.epoch}: {losses}; accuracy {accuracy:.1%}")

    trainer.run(DataLoader(train, batch_size=64, shuffle=True), max_epochs=args.epochs)
    return float(evaluator.state.metrics["accuracy"])


if __name__ == "__main__":
    main()
