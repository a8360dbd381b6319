"""A loss of one's own: interpolation consistency (ICT), from outside of mixwell.

The prediction on a mix should be the mix of the predictions on its samples (arXiv:1903.03825). The
loss declares that it reads the unmixed samples, and is a term of a method like any other.

python examples/interpolation_consistency.py --epochs 10
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mixwell import Method, Mix, Recipe, Term, functional
from mixwell.losses import Clean, Loss, MixedCrossEntropy, Outcome


class InterpolationConsistency(Loss):
    """``‖softmax f(λ x_i + (1 - λ) x_j) - (λ softmax f(x_i) + (1 - λ) softmax f(x_j))‖²``."""

    needs = (Clean(),)

    def of_step(self, outcome: Outcome) -> torch.Tensor:
        mixed, clean = outcome.mixed, outcome.clean
        assert isinstance(mixed.mix, Mix)
        own = clean.logits.detach().softmax(1)
        wanted = functional.mix(own, Mix(mixed.mix.partner, mixed.mix.lam))
        return (mixed.logits.softmax(1) - wanted).square().sum(1).mean()


def main(argv: list[str] | None = None) -> float:
    """Learn digits with ICT beside the cross-entropy; return the accuracy on those held out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--weight", type=float, default=5.0)
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    values, classes = load_digits(return_X_y=True)
    x = torch.tensor(values, dtype=torch.float32).div(16).view(-1, 1, 8, 8)
    y = torch.tensor(classes)
    order = torch.randperm(len(y))
    train, test = order[:1000], order[1000:]
    loader = DataLoader(TensorDataset(x[train], y[train]), batch_size=64, shuffle=True)

    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 10)
    )
    method = Method(
        Term(MixedCrossEntropy()),
        Term(InterpolationConsistency(), Recipe(), weight=args.weight, name="consistency"),
        num_classes=10,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(args.epochs):
        for images, labels in loader:
            loss = method(model, images, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    with torch.no_grad():
        accuracy = float((model(x[test]).argmax(1) == y[test]).float().mean())
    print(f"consistency: accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
