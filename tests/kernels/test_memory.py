"""Memory is handed out again only when nobody can see it any more."""

import gc
import multiprocessing
import random
import threading
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils import dlpack

from mixwell import Mix, functional
from mixwell.kernels.memory import SMALLEST, Recycler, recycled

SIZE = SMALLEST // 4  # float32 elements of the smallest that is kept
LIKE = torch.empty(SIZE)


@pytest.fixture
def memory():
    return Recycler()


def filled(memory, value, like=LIKE):
    return memory.empty_like(like).fill_(value)


# ------------------------------------------------------------------------- it is handed out again


def test_what_is_dropped_is_handed_out_again(memory):
    first = filled(memory, 1)
    address = first.data_ptr()
    del first
    for _ in range(5):
        again = memory.empty_like(LIKE)
        assert again.data_ptr() == address
        del again


def test_the_mix_of_a_loop_lives_in_two_buffers():
    recycled.clear()
    x, mix = torch.randn(8, SIZE // 8), Mix(torch.arange(8).roll(1), torch.rand(8))
    addresses = set()
    for _ in range(10):
        mixed = functional.mix(x, mix)  # the one before is still held
        addresses.add(mixed.data_ptr())
    assert len(addresses) == 2
    recycled.clear()


def test_a_size_serves_any_shape_and_dtype_of_as_many_bytes(memory):
    address = filled(memory, 1).data_ptr()
    shapes = [LIKE.view(4, -1), LIKE.double()[: SIZE // 2], torch.empty(4 * SIZE).byte()]
    shapes.append(torch.empty(2, 4, 64, SIZE // 512).to(memory_format=torch.channels_last))
    for like in shapes:
        got = memory.empty_like(like)
        assert got.data_ptr() == address
        assert (got.shape, got.dtype, got.stride()) == (like.shape, like.dtype, like.stride())
        assert not got.requires_grad
        del got
    assert memory.empty_like(torch.empty(SIZE + 1)).data_ptr() != address


# ------------------------------------------------------------------------------- what holds memory


def cycle(tensor):
    holder = [tensor]
    holder.append(holder)
    return holder


HOLDERS = {
    "the tensor": lambda t: t,
    "a view": lambda t: t[5:6],
    "a view of a view": lambda t: t.view(4, -1)[1][::2],
    "detached": lambda t: t.detach(),
    "data": lambda t: t.data,
    "NumPy": lambda t: t.numpy(),
    "a view in NumPy": lambda t: t.numpy()[3:4],
    "a memoryview": lambda t: memoryview(t.numpy()),
    "DLPack": lambda t: dlpack.to_dlpack(t),
    "from DLPack": lambda t: np.from_dlpack(t),
    "the storage": lambda t: t.untyped_storage(),
    "a parameter": lambda t: torch.nn.Parameter(t, requires_grad=False),
    "another dtype": lambda t: t.view(torch.int32),
    "a list": lambda t: [[t]],
    "a generator": lambda t: (part for part in t),
    "a closure": lambda t: lambda: t,
    "saved for a gradient": lambda t: t * torch.ones(SIZE, requires_grad=True),
    "a view that is saved": lambda t: t[:7].exp() @ torch.ones(7, requires_grad=True) * t[0],
    "an inference tensor's": lambda t: torch.inference_mode()(lambda: t[3:])(),
    "a reference cycle": cycle,
}


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS.keys())
def test_what_holds_memory_keeps_it(holder, memory):
    tensor = filled(memory, 1)
    address = tensor.data_ptr()
    held = holder(tensor)
    del tensor
    others = [filled(memory, 2) for _ in range(4)]
    assert address not in [other.data_ptr() for other in others]
    del others
    for _ in range(4):
        assert filled(memory, 3).data_ptr() != address
    assert held is not None


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS.keys())
def test_and_lets_go_of_it(holder, memory):
    tensor = filled(memory, 1)
    address = tensor.data_ptr()
    held = holder(tensor)
    del tensor, held
    if holder is cycle:
        gc.collect()
    assert filled(memory, 2).data_ptr() == address


def test_what_a_gradient_needs_is_not_overwritten(memory):
    w = torch.full((SIZE,), 2.0, requires_grad=True)
    losses = [(filled(memory, value) * w).sum() for value in range(6)]
    for value, loss in enumerate(losses):
        (grad,) = torch.autograd.grad(loss, w)
        assert (grad == value).all()


def test_an_inference_tensors_memory_makes_usual_tensors(memory):
    with torch.inference_mode():
        address = filled(memory, 1).data_ptr()
    got = filled(memory, 2)
    assert got.data_ptr() == address
    assert not got.is_inference()


def test_another_thread_holds_it_too(memory):
    go, done, held = threading.Event(), threading.Event(), [filled(memory, 1)]
    address, seen = held[0].data_ptr(), []

    def work():
        mine = held.pop()
        go.set()
        done.wait(10)
        seen.append(bool((mine == 1).all()))

    thread = threading.Thread(target=work)
    thread.start()
    go.wait(10)
    addresses = [filled(memory, 2).data_ptr() for _ in range(5)]
    done.set()
    thread.join()
    assert seen == [True]
    assert address not in addresses
    assert filled(memory, 3).data_ptr() in {address, *addresses}


def test_a_hundred_results_in_a_list_are_all_apart():
    x = torch.randn(4, SIZE // 4)
    kept = []
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        mix = Mix(torch.randperm(4, generator=generator), torch.rand(4, generator=generator))
        kept.append((functional.mix(x, mix), mix))
    assert len({mixed.data_ptr() for mixed, _ in kept}) == 100
    for mixed, mix in kept:
        torch.testing.assert_close(mixed, torch.lerp(x[mix.partner], x, mix.lam[:, None]))


# ------------------------------------------------------------------------------------------- shared


def test_shared_memory_is_never_handed_out_again(memory):
    tensor = filled(memory, 1).share_memory_()
    address = tensor.data_ptr()
    del tensor
    for _ in range(4):
        got = filled(memory, 2)
        assert not got.is_shared()
        assert got.data_ptr() != address


def test_what_was_sent_to_another_process_stays_whole():
    context = multiprocessing.get_context("fork")
    queue, go, answer = context.SimpleQueue(), context.Event(), context.SimpleQueue()

    def work():
        values = [queue.get() for _ in range(4)]
        go.wait(10)
        answer.put([value.numpy()[[0, -1]].tolist() for value in values])

    process = context.Process(target=work, daemon=True)
    process.start()
    memory = Recycler()
    for value in range(4):
        queue.put(filled(memory, value))
    kept = [filled(memory, 9) for _ in range(4)]
    go.set()
    assert answer.get() == [[value] * 2 for value in range(4)]
    process.join(10)
    assert len(kept) == 4


# ------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_no_more_is_kept_than_asked_for(keep):
    memory = Recycler(keep)
    held = [filled(memory, 1) for _ in range(8)]
    assert len(memory._storages) == keep
    del held
    for extra in range(8):
        memory.empty_like(torch.empty(SIZE + extra))
        assert len(memory._storages) == keep
    assert {storage.nbytes() for storage in memory._storages} == {
        4 * (SIZE + extra) for extra in range(8 - keep, 8)
    }


def test_the_last_ones_are_kept(memory):
    rare = filled(memory, 1, torch.empty(2 * SIZE)).data_ptr()
    for _ in range(20):  # one buffer that is used again pushes nothing out
        filled(memory, 2)
    assert filled(memory, 3, torch.empty(2 * SIZE)).data_ptr() == rare


@pytest.mark.parametrize(
    "like",
    [
        torch.empty(SIZE - 1),
        torch.empty(0),
        torch.empty(2 * SIZE)[::2],
        torch.empty(1).expand(SIZE),
        torch.empty(4, SIZE // 4).T,
        torch.empty(SIZE, device="meta"),
    ],
)
def test_what_is_small_or_strange_is_the_allocators(like, memory):
    got = memory.empty_like(like)
    assert memory._storages == []
    assert (got.shape, got.dtype, got.device) == (like.shape, like.dtype, like.device)
    assert got.stride() == torch.empty_like(like).stride()


def test_clear_gives_idle_memory_back_and_leaves_what_is_held(memory):
    held, address = filled(memory, 1), filled(memory, 2).data_ptr()
    assert address
    memory.clear()
    assert memory._storages == []
    others = [filled(memory, 3) for _ in range(4)]
    assert (held == 1).all()
    assert len(others) == 4


def test_a_storage_that_was_resized_is_no_trap(memory):
    tensor = filled(memory, 1)
    tensor.untyped_storage().resize_(16)
    del tensor
    assert filled(memory, 2).sum() == 2 * SIZE
    tensor = filled(memory, 1)
    tensor.resize_(2 * SIZE)
    del tensor
    assert filled(memory, 2).sum() == 2 * SIZE


# ------------------------------------------------------------------------------------------- stress


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_held_in_whatever_way_keeps_its_content(seed, memory):
    """Random holders of random results: each keeps the number that its memory was filled with."""
    chance = random.Random(seed)
    ways = [
        lambda t: partial(torch.Tensor.detach, t),
        lambda t: partial(torch.Tensor.detach, t[-1:]),
        lambda t: partial(torch.Tensor.detach, t.view(-1).view(2, -1)[1]),
        lambda t: partial(torch.from_numpy, t.numpy()),
        lambda t: partial(torch.empty(0).set_, t.untyped_storage()),
        by_gradient,
    ]
    held, again, addresses = {}, 0, set()
    for number in range(1, 500):
        like = chance.choice([LIKE, LIKE.view(2, -1), torch.empty(2 * SIZE)])
        tensor = filled(memory, number, like)
        again += tensor.data_ptr() in addresses
        addresses.add(tensor.data_ptr())
        if chance.random() < 0.5:
            held[number] = chance.choice(ways)(tensor)
        del tensor
        while held and (len(held) > 6 or chance.random() < 0.4):
            held.pop(chance.choice(list(held)))
        for value, look in held.items():
            seen = look()
            assert seen.min() == seen.max() == value
    assert again > 100


def by_gradient(tensor):
    weight = torch.ones_like(tensor, requires_grad=True)
    loss = (tensor * weight).sum()
    return lambda: torch.autograd.grad(loss, weight, retain_graph=True)[0]


def test_several_threads_take_and_drop_at_once(memory):
    wrong = []

    def work(seed):
        chance, held = random.Random(seed), {}
        for number in range(150):
            value = 1000 * seed + number
            held[value] = filled(memory, value)
            while len(held) > chance.randrange(1, 4):
                held.pop(chance.choice(list(held)))
            wrong.extend(value for value, t in held.items() if not t.min() == t.max() == value)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
