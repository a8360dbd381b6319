"""Every method steps under Fabric's precisions, also those that go backward on their own."""

import pytest
import torch

import mixwell

fabric = pytest.importorskip("lightning.fabric")


@pytest.mark.cases(quick=12)
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("name", mixwell.list_methods())
def test_a_step_in_a_precision_that_fabric_guards(name, precision, make_net, images):
    machine = fabric.Fabric(accelerator="cpu", devices=1, precision=precision)
    x, y = images
    try:
        mixwell.create(name, num_classes=5)(make_net(), x, y, index=torch.arange(len(x)))
    except mixwell.InputError as error:
        pytest.skip(f"not for this network: {error}")
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    model, optimizer = machine.setup(net, optimizer)
    before = set(vars(model))
    method = mixwell.create(name, num_classes=5)
    for _ in range(2):
        loss = method(model, x, y, index=torch.arange(len(x)))
        optimizer.zero_grad()
        machine.backward(loss)
        optimizer.step()
        assert loss.isfinite()
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert set(vars(model)) == before
    if precision == "bf16-mixed":
        with pytest.raises(RuntimeError, match=r"fabric\.backward"):  # its guard is there again
            method(model, x, y, index=torch.arange(len(x))).backward()
