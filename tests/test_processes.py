"""A process that can't take its batch leaves none of the others waiting."""

import pytest
import torch
from helpers import run_processes

import mixwell
from mixwell import processes

MEETING = """
import faulthandler, sys, torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import mixwell
from mixwell import InputError, processes
from mixwell.interpolation import AutoMix, Linear, Switch

torch.set_num_threads(1)
faulthandler.dump_traceback_later(200)
rank, count = int(sys.argv[1]), int(sys.argv[3])
dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=count)
torch.manual_seed(0)
net = nn.Sequential(  # whose running means DDP sends around in each pass
    nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, 2), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
)
model = DistributedDataParallel(net)
torch.manual_seed(rank)
"""


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize("count", [2, 3])
def test_a_batch_that_one_process_can_not_take_is_refused_by_all(count, tmp_path):
    script = (
        MEETING
        + """
def batch(size=5 - rank):
    return torch.randn(size, 3, 16, 16), torch.randint(4, (size,))

def bad():
    x, y = batch(4)
    nan = x.clone()
    nan[0, 0, 0, 0] = torch.nan
    yield "class indices in", x, y + 4
    yield "got torch.float32", x, y.float()
    yield "equally long", x[1:], y
    yield "must be finite", nan, y
    yield "must be a tensor", x, y.tolist()

class Shorter(nn.Module):
    def forward(self, x):
        return model(x)[: len(x) - (rank == count - 1)]

class Failing(nn.Module):
    def forward(self, x):
        z = model(x)
        if rank == count - 1:
            raise KeyError("of the model's own")
        return z

def refused(words, kinds, method, *given):
    try:
        method(*given)
    except kinds as error:
        told = words in str(error) and (
            rank == count - 1 or f"process {count - 1} can't take this step" in str(error))
        assert told, error
    else:
        raise AssertionError(f"{words}: it went on")

for name in ("infinite_class", "regmixup+infinite_class", "infinite_class+am_mixup", "automix"):
    method = mixwell.create(name, num_classes=4)
    for words, x, y in bad():
        given = (x, y) if rank == count - 1 else batch()
        refused(words, InputError, method, model, *given)
        loss = method(model, *batch())  # and all go on
        loss.backward()
        assert loss.isfinite()
        net.zero_grad()
method = mixwell.create("infinite_class", num_classes=4)
refused("one row for each sample", InputError, method, Shorter(), *batch())
refused("of the model's own", (KeyError, RuntimeError), method, Failing(), *batch())
unknown = mixwell.create("infinite_class")  # the classes are seen at the loss
x, y = batch()
refused("class indices in", InputError, unknown, model, x, y + 4 * (rank == count - 1))
assert method(model, *batch()).isfinite()
dist.barrier()
dist.destroy_process_group()
"""
    )
    run_processes(script, tmp_path, count)


@pytest.mark.slow
def test_a_way_of_mixing_that_learns_is_drawn_alike_by_all(tmp_path):
    script = (
        MEETING
        + """
switch = Switch([Linear(), AutoMix()], per="batch")
method = mixwell.create("mixup", num_classes=4, interpolation=switch)
taken = []
for _ in range(8):
    size = 4 + rank
    method(model, torch.randn(size, 3, 16, 16), torch.randint(4, (size,))).backward()
    taken.append(method.recipe.interpolation._taken)
everyone = processes.gathered(torch.tensor(taken))
assert len(set(taken)) == 2 and (everyone == everyone[0]).all(), everyone
dist.barrier()
dist.destroy_process_group()
"""
    )
    run_processes(script, tmp_path)


@pytest.mark.slow
def test_what_processes_tell_each_other_in_a_step(tmp_path):
    """Two small messages (is my batch right, how large is it), the targets, the pair axis."""
    script = (
        MEETING
        + """
sent = []
gather = dist.all_gather
def counted(parts, tensor, *args, **more):
    sent.append(tensor.numel())
    return gather(parts, tensor, *args, **more)
dist.all_gather = counted
x, y = torch.randn(6, 3, 16, 16), torch.randint(4, (6,))
mixwell.create("infinite_class", num_classes=4)(model, x, y)
assert sent == [4, 4, 6 * 4, 12], sent
sent.clear()
for name in ("mixup", "sk_mixup+decoupled"):
    mixwell.create(name, num_classes=4)(model, x, y)
assert not sent, sent
dist.barrier()
dist.destroy_process_group()
"""
    )
    run_processes(script, tmp_path)


def test_a_process_by_itself_tells_nobody(monkeypatch, make_net, images):
    monkeypatch.setattr(processes, "gathered", None)
    for name in ("infinite_class", "automix"):
        assert mixwell.create(name, num_classes=5)(make_net(), *images).isfinite()
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        assert mixwell.create("infinite_class", num_classes=5)(make_net(), *images).isfinite()
    finally:
        torch.distributed.destroy_process_group()
