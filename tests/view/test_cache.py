import gc

import pytest
import torch
from torch import nn

from mixwell.view.cache import known


def net():
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))


def asked(model, answers):
    return known(model, "question", lambda: answers.append(1) or len(answers))


def test_a_fact_is_found_once_while_the_model_consists_of_the_same_modules():
    model, answers = net(), []
    assert asked(model, answers) == asked(model, answers) == 1
    model[0].weight.data.zero_()
    model.to(torch.float64)
    model.steps = 7
    assert asked(model, answers) == 1
    assert asked(net(), answers) == 2
    assert asked(nn.DataParallel(model), answers) == 3  # what is around it may add a path


def test_it_is_of_the_state_that_the_model_is_in():
    class Net(nn.Sequential):
        def forward(self, x):
            return super().forward(x)

    model, answers = Net(nn.Linear(2, 2), nn.Dropout()), []
    model.skips = False
    assert asked(model, answers) == 1
    model[1].eval()
    assert asked(model, answers) == 2
    model.skips = True
    assert asked(model, answers) == 3
    model.forward = model[0].forward
    assert asked(model, answers) == 4
    del model.forward
    model.skips = False
    model.train()
    assert asked(model, answers) == 1


def test_it_is_stale_when_a_module_was_gained_lost_or_replaced():
    model, answers = net(), []
    asked(model, answers)
    model.append(nn.Identity())
    assert asked(model, answers) == 2
    del model[3]
    assert asked(model, answers) == 3
    model[2] = nn.Linear(3, 2)
    assert asked(model, answers) == 4


@pytest.mark.slow
def test_a_module_that_took_the_place_of_another_in_memory_is_another():
    model, answers = net(), []
    for turn in range(1, 6):
        assert asked(model, answers) == turn
        del model[2]
        gc.collect()
        model.append(nn.Linear(3, 2))
