import numpy as np
import pytest

from mixwell.studies import RunRecord


def _classification(place, noise, generator, arrays, details, kind):
    measures = {"accuracy": 0.9 + 0.02 * place + noise, "nll": 0.3, "temperature": 1.2}
    for name in ("ece", "ece_scaled", "adaptive_ece", "brier"):
        measures[name] = 0.05 - 0.01 * place + noise
    measures |= {"alignment": 0.2, "uniformity": -1.0 - place + noise}
    arrays |= {
        "test_logits": generator.normal(size=(50, 3)).astype(np.float32),
        "test_labels": generator.integers(0, 3, 50),
        "test_features": generator.normal(size=(50, 4)).astype(np.float32),
    }
    details |= {"class_counts": [200, 50, 5], "class_accuracy": [0.9, 0.5, 0.1]}
    if kind == "everything":
        measures |= {
            "accuracy_many": 0.9, "accuracy_medium": 0.5, "accuracy_few": 0.1 + noise,
            "ood_auroc": 0.8, "ood_fpr95": 0.5, "fine_accuracy": 0.7, "fine_alignment": 0.1,
            "fine_uniformity": -0.7, "people_kl": 0.25, "people_entropy_rho": 0.5,
        }  # fmt: skip
        arrays["ood_confidence"] = generator.uniform(0.4, 1, 30).astype(np.float32)
        arrays["people_counts"] = generator.multinomial(20, [0.7, 0.2, 0.1], 50)
        arrays["test_fine"] = generator.integers(0, 6, 50)
        rows = [{"severity": s, "accuracy": 0.9 - 0.1 * s, "ece": 0.05 * s} for s in range(1, 6)]
        details["shift"] = {"blur": rows, "contrast": rows}
        details["fine_classes"] = list("abcdef")
    if kind == "images" and place:
        for name in ("own", "partner", "mixed"):
            images = generator.integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)
            arrays[f"samples_{name}"] = images
        arrays |= {
            "samples_lam": np.array([0.25, 0.5]), "samples_classes": np.array([[0, 1], [2, 0]]),
        }  # fmt: skip
    if kind == "toy":
        measures |= {"intrusion": 0.1, "off_manifold": 0.2}
        axis = np.linspace(-1, 1, 10)
        arrays |= {
            "surface": generator.uniform(size=(10, 10)), "surface_x": axis, "surface_y": axis,
            "train_points": generator.normal(size=(20, 2)),
            "train_labels": generator.integers(0, 2, 20),
            "mixed_points": generator.normal(size=(20, 2)),
            "mixed_intrudes": np.arange(20) < 3, "mixed_weight": generator.uniform(size=20),
        }  # fmt: skip
    return measures, {"val_accuracy": 0.9, "val_nll": 0.3}


def _regression(place, noise, generator, arrays, details, kind):
    arrays |= {
        "test_mean": generator.normal(size=(50, 1)), "test_targets": generator.normal(size=(50, 1)),
        "test_std": generator.uniform(0.1, 1, size=(50, 1)),
    }  # fmt: skip
    measures = {"rmse": 3.0 + place + noise, "mae": 2.0, "r2": 0.8, "variance_scale": 2.0,
                "ence": 0.5, "ence_scaled": 0.1}  # fmt: skip
    return measures, {"val_rmse": 3.0}


@pytest.fixture
def make_records(tmp_path):
    """Return a maker of records of made-up runs, with folders of made-up predictions."""

    def make(
        methods=("erm", "mixup"), seeds=3, task="classification", failed=(), parts=({},), kind="",
        changes=(), start="run",
    ):  # fmt: skip
        generator = np.random.default_rng(0)
        records = []
        for seed in range(seeds):
            for number, vary in enumerate(parts):
                for place, method in enumerate(methods):
                    folder = tmp_path / f"{start}-{number}-{place}-{seed}"
                    folder.mkdir()
                    config = {
                        "data": "digits", "method": method, "seed": seed, "model": "cnn",
                        "method_options": {}, "epochs": 2, **dict(changes), **vary,
                    }  # fmt: skip
                    own = {"vary": vary, "label": method}
                    if (method, seed) in failed:
                        records.append(RunRecord.of(folder, None, config, "it <broke>", **own))
                        continue
                    noise = generator.normal(0, 0.002)
                    arrays, details = {}, {}
                    made = _classification if task == "classification" else _regression
                    measures, history = made(place, noise, generator, arrays, details, kind)
                    np.savez(folder / "predictions.npz", **arrays)
                    rows = [{"epoch": e, "lr": 0.1, "loss": 1 / e, "seconds": 1.0, **history}
                            for e in (1, 2)]  # fmt: skip
                    if kind == "toy":
                        rows = [
                            {**row, "val_margin": 0.5, "val_margin_balance": 0.1} for row in rows
                        ]
                    result = {
                        "metrics": measures, "details": details, "history": rows,
                        "seconds_per_step": 0.01, "seconds": 2.0, "peak_memory_mb": 500.0,
                        "parameters": 1234, "versions": {"torch": "9.9"}, "command": "made up",
                        "task": task, "classes": list("abc") if task == "classification" else [],
                        "train_samples": 100,
                    }  # fmt: skip
                    records.append(RunRecord.of(folder, result, config, **own))
        return records

    return make
