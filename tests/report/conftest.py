import json

import numpy as np
import pytest

from mixwell.studies import load_records


@pytest.fixture
def make_records(tmp_path):
    """Return a maker of run folders with made-up results."""

    def make(methods=("erm", "mixup"), seeds=3, task="classification", failed=()):
        generator = np.random.default_rng(0)
        for place, method in enumerate(methods):
            for seed in range(seeds):
                folder = tmp_path / f"run-{place}-{seed}"
                folder.mkdir()
                config = {"data": "digits", "method": method, "seed": seed, "model": "cnn",
                          "method_options": {}, "epochs": 2}  # fmt: skip
                if (method, seed) in failed:
                    failure = {"error": "it <broke>", "config": config}
                    (folder / "error.json").write_text(json.dumps(failure))
                    continue
                noise = generator.normal(0, 0.002)
                if task == "classification":
                    measures = {
                        "accuracy": 0.9 + 0.02 * place + noise,
                        "nll": 0.3,
                        "temperature": 1.2,
                    }
                    for name in ("ece", "ece_scaled", "adaptive_ece", "brier"):
                        measures[name] = 0.05 - 0.01 * place + noise
                    measures |= {"alignment": 0.2, "uniformity": -1.0 - place + noise}
                    history = {"val_accuracy": 0.9, "val_nll": 0.3}
                    logits = generator.normal(size=(50, 3)).astype(np.float32)
                    np.savez(
                        folder / "predictions.npz",
                        test_logits=logits,
                        test_labels=generator.integers(0, 3, 50),
                        test_features=generator.normal(size=(50, 4)).astype(np.float32),
                    )
                else:
                    measures = {"rmse": 3.0 + place + noise, "mae": 2.0, "r2": 0.8}
                    history = {"val_rmse": 3.0}
                rows = [{"epoch": e, "lr": 0.1, "loss": 1 / e, "seconds": 1.0, **history}
                        for e in (1, 2)]  # fmt: skip
                result = {
                    "format": 1, "config": config, "metrics": measures, "history": rows,
                    "seconds_per_step": 0.01, "seconds": 2.0, "peak_memory_mb": 500.0,
                    "parameters": 1234, "versions": {"torch": "9.9"}, "command": "made up",
                    "task": task, "classes": ["a", "b", "c"] if task == "classification" else [],
                    "train_samples": 100,
                }  # fmt: skip
                (folder / "result.json").write_text(json.dumps(result))
        return load_records(tmp_path)

    return make
