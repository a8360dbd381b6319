"""Every example in a docstring and in the README runs."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import mixwell
from mixwell import Mix, MixedTarget

README = Path(__file__).parent.parent / "README.md"
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(mixwell.__path__, "mixwell.")
    if name != "mixwell.__main__"
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    module = importlib.import_module(name)
    extra = {"torch": torch, "Mix": Mix, "MixedTarget": MixedTarget}
    result = doctest.testmod(module, extraglobs=extra)
    assert result.failed == 0


def test_readme():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= 3
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU(), nn.Linear(16, 10))
    names = {
        "torch": torch,
        "model": net,
        "optimizer": torch.optim.SGD(net.parameters(), lr=0.1),
        "loader": [(torch.randn(8, 3, 8, 8), torch.randint(10, (8,))) for _ in range(2)],
    }
    names["images"], names["labels"] = names["loader"][0]
    names["logits"] = net(names["images"])
    before = net[1].weight.detach().clone()
    for block in blocks:
        exec(block, names)
    assert not torch.equal(net[1].weight, before)
