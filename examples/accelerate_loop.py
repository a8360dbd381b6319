"""Hugging Face Accelerate: the loop that its launcher runs anywhere.

python examples/accelerate_loop.py --method sk_mixup --epochs 5
accelerate launch examples/accelerate_loop.py
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import mixwell


def main(argv: list[str] | None = None) -> float:
    """Train on handwritten digits; return the accuracy on those held out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="sk_mixup")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--accumulate", type=int, default=2)
    args = parser.parse_args(argv)

    accelerator = Accelerator(gradient_accumulation_steps=args.accumulate)
    set_seed(0, device_specific=True)  # each process has its own draws
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    split = torch.Generator().manual_seed(0)  # alike in all processes
    train, test = random_split(TensorDataset(x, torch.tensor(labels)), [1297, 500], split)

    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    method = mixwell.create(args.method, num_classes=10).to(accelerator.device)
    model, optimizer, loader, held_out = accelerator.prepare(
        model,
        torch.optim.AdamW(model.parameters(), lr=3e-3),
        DataLoader(train, batch_size=32, shuffle=True),
        DataLoader(test, batch_size=100),
    )
    accelerator.register_for_checkpointing(method)  # progress and memory go with save_state()

    model.train()
    for epoch in range(args.epochs):
        for batch, (x, y) in enumerate(loader):
            with accelerator.accumulate(model):
                method.set_progress((epoch + batch / len(loader)) / args.epochs)
                loss = method(model, x, y)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()

    model.eval()
    right = []
    with torch.no_grad():
        for x, y in held_out:
            right.append(accelerator.gather_for_metrics(model(x).argmax(1) == y))
    accuracy = torch.cat(right).float().mean().item()
    accelerator.print(f"{args.method}: accuracy {accuracy:.1%} on {len(test)} digits")
    return accuracy


if __name__ == "__main__":
    main()
