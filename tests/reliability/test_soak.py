"""Training for long: what a process holds and what a step takes stay as they were.

Short here; ``MIXWELL_SOAK_STEPS=20000 MIXWELL_SOAK_EPOCHS=200`` at length.
"""

import os
import sys

import pytest
from reliability import soaking

pytestmark = [
    pytest.mark.timeout(0),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]
STEPS = int(os.environ.get("MIXWELL_SOAK_STEPS", "400"))
EPOCHS = int(os.environ.get("MIXWELL_SOAK_EPOCHS", "12"))
SECONDS = 5.0 if STEPS == 400 else 1e9


@pytest.mark.cases(slow=2)
@pytest.mark.parametrize("name", soaking.METHODS)
def test_steps_leave_nothing_behind(name):
    soaking.soak_steps(name, 20)  # what is loaded and compiled once
    found = soaking.soak_steps(name, STEPS, SECONDS)
    if found["steps"] < 100:
        pytest.skip(f"in {SECONDS:g} s there were {found['steps']} steps")
    assert soaking.faults(found) == [], found


@pytest.mark.cases(slow=1)
@pytest.mark.parametrize("name", ["sk_mixup", "regmixup+am_mixup"])
def test_epochs_leave_nothing_behind(name, tmp_path):
    found = soaking.soak_epochs(name, EPOCHS, tmp_path / "run")
    assert found["epochs"] == EPOCHS
    assert soaking.faults(found) == [], found


@pytest.mark.slow
def test_what_is_left_behind_is_seen():
    kept, watch = [], soaking.Watch(model := soaking.network())
    with soaking.set_aside():
        for step in range(40):
            kept.extend([[] for _ in range(10)])
            kept.append(bytearray(2**20))
            if step >= 20:
                model[0].register_forward_hook(lambda *_: None)
            watch.times.append(1.0 + (step > 30))
            watch.wall.append(1.0)
            watch.plain.append(1.0)
            watch.look()
    words = " ".join(soaking.faults(watch.report()))
    for what in ("objects", "memory", "hooks", "a step"):
        assert what in words, words
