"""Nothing of mixwell remains in a model that it has trained."""

import copy
import importlib.util
import io
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mixwell
from mixwell.heads import release

METHODS = [
    "mixup", "manifold_mixup", "am_mixup", "sk_mixup", "infinite_class", "automix", "snapmix",
]  # fmt: skip
X = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(3))
Y = torch.arange(24) % 5


def train(name, model, steps=3):
    """Train as a plain loop does."""
    method = mixwell.create(name, num_classes=5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for step in range(steps):
        method.set_progress(step / steps)
        optimizer.zero_grad()
        method(model, X, Y).backward()
        optimizer.step()
    return model


def train_by_lightning(name, model):
    """Train by a Trainer; without a name, as Lightning itself does."""
    from lightning.pytorch import LightningModule, Trainer

    from mixwell.compat.lightning import MixupCallback

    class Wrapped(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = Trainer(
        callbacks=[MixupCallback(name, num_classes=5)] if name else [],
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Wrapped()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, DataLoader(TensorDataset(X, Y), 8))
    return module


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


@pytest.fixture(params=["loop", "lightning"])
def trained(request, name, make_net):
    """Return a trained model, and an untouched copy that was given its weights."""
    model = make_net()
    untouched, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    if request.param == "lightning":
        pytest.importorskip("lightning")
        train_by_lightning(name, model)
    else:
        train(name, model)
    assert not torch.equal(model[0].weight, before["0.weight"])  # it was trained
    untouched.load_state_dict(model.state_dict())
    return model.eval(), untouched.eval()


def anatomy(model):
    """Return all that a module is made of but its values: classes, attributes, hooks, names."""
    parts = {}
    for name, module in model.named_modules():
        hooks = {key: len(value) for key, value in vars(module).items() if "hooks" in key and value}
        parts[name] = (type(module), sorted(vars(module)), hooks)
    return {
        "parts": parts,
        "parameters": [name for name, _ in model.named_parameters()],
        "buffers": [name for name, _ in model.named_buffers()],
        "state": list(model.state_dict()),
        "text": repr(model),
    }


def graph_of(model):
    program = torch.export.export(model, (X[:2],))
    return program.graph_module.code, str(program.graph_signature), list(program.state_dict)


def test_the_module_is_made_of_what_it_was_made_of(trained):
    model, untouched = trained
    assert anatomy(model) == anatomy(untouched)
    assert torch.equal(model(X), untouched(X))


@pytest.mark.cases(quick=5)
def test_torch_export_gives_the_same_graph(trained):
    model, untouched = trained
    graph = graph_of(model)
    assert graph == graph_of(untouched)
    assert "conv2d" in graph[0]
    assert "mixwell" not in "".join(map(str, graph))


def test_the_lightning_module_itself_is_as_lightning_leaves_it(name, make_net):
    pytest.importorskip("lightning")
    found, expected = train_by_lightning(name, make_net()), train_by_lightning(None, make_net())
    found, expected = anatomy(found), anatomy(expected)
    for one in (found, expected):  # two classes of the same name
        one["parts"][""] = one["parts"][""][1:]
    assert found == expected


@pytest.mark.cases(slow=3)
@pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("onnx", "onnxscript")),
    reason="onnx and onnxscript are not there",
)
def test_onnx_gives_the_same_numbers(name, make_net, tmp_path):
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = train(name, make_net()).eval()
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        model, (X[:2],), path, dynamo=True, input_names=["x"], output_names=["logits"]
    )
    exported = onnx.load(path)
    onnx.checker.check_model(exported)
    (logits,) = ReferenceEvaluator(exported).run(None, {"x": X[:2].numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(X[:2]), rtol=1e-4, atol=1e-5)
    assert "mixwell" not in str(exported)


@pytest.mark.slow
def test_whole_models_load_where_mixwell_is_not(make_net, tmp_path):
    models = {name: train(name, make_net()).eval() for name in METHODS}
    with torch.no_grad():
        torch.save({name: (model, model(X)) for name, model in models.items()}, tmp_path / "m.pt")
    script = f"""
        import sys
        sys.modules["mixwell"] = None  # importing it raises
        import torch
        torch.set_num_threads(1)
        saved = torch.load({str(tmp_path / "m.pt")!r}, weights_only=False)
        x = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(3))
        for name, (model, logits) in saved.items():
            torch.testing.assert_close(model(x), logits)
            print(name)
    """
    script = "\n".join(line[8:] for line in script.splitlines())
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == METHODS


@pytest.mark.cases(quick=1)
def test_a_compiled_model_keeps_an_idle_hook_until_it_is_released(name, make_net):
    model = make_net()
    untouched = copy.deepcopy(model)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    torch.compile(untouched, backend="eager")  # marks the module
    train(name, compiled)
    release(compiled)
    untouched.load_state_dict(model.state_dict())
    model.eval()
    untouched.eval()
    assert anatomy(model) == anatomy(untouched)
    torch.testing.assert_close(compiled(X), untouched(X))
    file = io.BytesIO()
    torch.save(model, file)
    assert b"mixwell" not in file.getvalue()
    assert graph_of(model) == graph_of(untouched)


def test_without_a_release_the_hook_is_there(make_net):
    model = make_net()
    torch.compiler.reset()
    train("am_mixup", torch.compile(model, backend="eager"))
    assert anatomy(model) != anatomy(make_net())
