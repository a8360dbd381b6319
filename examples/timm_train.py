"""timm: its Mixup replaced as it stands in timm's own script, or a method on any timm model.

python examples/timm_train.py --mixing drop-in
python examples/timm_train.py --mixing cutmix+decoupled
"""

from __future__ import annotations

import argparse

import timm
import torch
from sklearn.datasets import load_digits
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch.utils.data import DataLoader, TensorDataset, random_split

import mixwell
from mixwell.compat.timm import Mixup  # instead of timm.data


def main(argv: list[str] | None = None) -> float:
    """Train a small vision transformer on digits; return the accuracy on those held out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mixing", default="drop-in", help="'drop-in', or a method's name")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-3)
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = (images - images.mean()) / images.std()
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8)
    train, test = random_split(TensorDataset(x, torch.tensor(labels)), [1297, 500])
    loader = DataLoader(train, batch_size=32, shuffle=True)  # the last batch is odd: that is fine

    small = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 48, "depth": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, **small)
    optimizer = create_optimizer_v2(model, "adamw", lr=args.lr, weight_decay=0.05)
    scheduler = CosineLRScheduler(optimizer, t_initial=args.epochs, warmup_t=1)
    mixup_fn = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, mode="elem", num_classes=10)
    criterion = SoftTargetCrossEntropy()
    method = None if args.mixing == "drop-in" else mixwell.create(args.mixing, num_classes=10)

    model.train()
    for epoch in range(args.epochs):
        scheduler.step(epoch)
        for x, y in loader:
            if method is None:
                mixed, target = mixup_fn(x, y)
                loss = criterion(model(mixed), target)
            else:
                loss = method(model, x, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    model.eval()
    with torch.no_grad():
        x, y = next(iter(DataLoader(test, batch_size=len(test))))
        accuracy = (model(x).argmax(1) == y).float().mean().item()
    print(f"{args.mixing}: accuracy {accuracy:.1%} on {len(test)} digits")
    return accuracy


if __name__ == "__main__":
    main()
