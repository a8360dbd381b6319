"""Methods, networks, batches and labels at random: sound, or refused in words; nothing else."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reliability import fuzzing

FOUND = json.loads((Path(__file__).parent / "found.json").read_text())


@pytest.mark.parametrize("found", FOUND, ids=lambda found: found["finding"])
def test_what_was_found_stays_mended(found):
    if found["case"]["network"] == "transformer":
        pytest.importorskip("timm")
    assert fuzzing.judged({**fuzzing.SIMPLE, **found["case"]}) == found["now"]


@st.composite
def cases(draw):
    return fuzzing.draw(lambda options: draw(st.sampled_from(list(options))))


@pytest.mark.slow
def test_a_step_is_sound_or_refused():
    pytest.importorskip("timm")
    counts = Counter()

    @settings(max_examples=400, derandomize=True, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(cases())
    def check(case):
        counts[fuzzing.judged(case)] += 1

    check()
    assert counts["sound"] > sum(counts.values()) / 4, counts


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif("MIXWELL_FUZZ_SECONDS" not in os.environ, reason="MIXWELL_FUZZ_SECONDS=1200")
def test_nothing_is_found_at_length():
    seconds, seed = (os.environ.get(f"MIXWELL_FUZZ_{name}", "0") for name in ("SECONDS", "SEED"))
    assert fuzzing.hunt(float(seconds), int(seed)) == []
