"""The registered claims can be tested by the studies that they name, and are judged rightly."""

import importlib
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import mixwell
from mixwell.studies import PROTOCOLS, read_study
from mixwell.studies.results_file import FIXED
from mixwell.studies.study import build

ROOT = Path(__file__).parent.parent


def _loaded():
    found = importlib.util.spec_from_file_location("claims", ROOT / "studies" / "claims.py")
    module = importlib.util.module_from_spec(found)
    sys.modules["claims"] = module
    found.loader.exec_module(module)
    return module


claims = _loaded()
STUDIES, CLAIMS = claims.read()


def _study(registered):
    declared = read_study(ROOT / registered.file)
    protocol, methods = PROTOCOLS[declared.pop("protocol")], declared.pop("methods")
    return build(protocol, declared, methods=methods, seeds=range(declared.pop("seeds")))


@pytest.mark.parametrize("name", STUDIES)
def test_a_studys_file_has_what_its_claims_name(name):
    registered = STUDIES[name]
    study = _study(registered)
    assert len(study.seeds) == registered.seeds
    assert any(claim.study == name for claim in CLAIMS)
    for claim in [c for c in CLAIMS if c.study == name]:
        assert {claim.method, claim.baseline} <= set(study.labels())
        assert set(claim.part) == set(study.vary)
        for key, value in claim.part.items():
            assert value in study.vary[key]


def test_every_situation_is_measured_beside_erm():
    for situation in claims.situations():
        study = _study(STUDIES[situation.study])
        assert "erm" in study.labels()
        assert set(situation.part) == set(study.vary)


def test_the_registration_is_written_from_the_claims():
    assert claims.registration(STUDIES, CLAIMS) == (ROOT / "docs" / "claims.md").read_text("utf-8")


def test_the_settings_that_the_registration_tells_are_the_methods_own():
    told = {"regmixup": 10, "manifold_mixup": 2, "c_mixup": 2, "automix": 2, "samix": 2,
            "unimix": 0.8, "balanced_mixup": 0.1}  # fmt: skip
    text = " ".join(claims.INTRODUCTION.split())
    for name, alpha in told.items():
        assert f"{alpha} " in text
        assert f"`{name}`" in text
    named = {claim.method for claim in CLAIMS} | {claim.baseline for claim in CLAIMS}
    for file in STUDIES.values():
        named |= set(read_study(ROOT / file.file)["methods"])
    for name in {label.partition("(")[0] for label in named} - {"erm", "am_mixup"}:
        alphas = {told[part] for part in name.split("+") if part in told} or {1}
        assert {mixwell.describe(name).defaults["alpha"]} == alphas, name


def test_how_many_images_outliers_and_corruptions_are_is_told():
    outliers, shift = (
        importlib.import_module(f"mixwell.training.probes.{name}") for name in ("outliers", "shift")
    )
    for text in (claims.INTRODUCTION, (ROOT / "docs" / "studies.md").read_text("utf-8")):
        assert f"{outliers._OUTLIERS:,} of the other set's test images" in " ".join(text.split())
        assert f"{shift._SHIFTED:,} of the own ones" in " ".join(text.split())


def _file(path: Path, gains: dict[str, float], seeds: int = 6, varied: str = "{}") -> None:
    """Write results whose method is better by a gain, of a spread of 0.01 over seeds."""
    lines = [",".join((*FIXED, "accuracy"))]
    for method, gain in gains.items():
        noise = np.random.default_rng(3).normal(0, 0.01, seeds)
        for seed in range(seeds):
            own = 0.002 * np.random.default_rng(seed + 17).normal() if method != "erm" else 0.0
            fixed = {"label": method, "seed": str(seed), "varied": f'"{varied}"'}
            cells = [fixed.get(name, "") for name in FIXED]
            lines.append(",".join([*cells, str(0.7 + gain + noise[seed] + own)]))
    path.write_text("\n".join(lines) + "\n", "utf-8")


def test_verdicts(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    name = next(iter(STUDIES))
    study = replace(STUDIES[name], seeds=6)
    _file(study.results, {"erm": 0.0, "better": 0.05, "worse": -0.05, "same": 0.0})
    template = replace(CLAIMS[0], study=name, baseline="erm", measure="accuracy", part={})
    registered = [
        replace(template, name=f"{method}{expected}", method=method, expected=expected)
        for method in ("better", "worse", "same", "absent")
        for expected in ("higher", "lower")
    ]
    words = [verdict.word for verdict in claims.judge({name: study}, registered)]
    assert words == [
        "shown", "contradicted", "contradicted", "shown", "not shown", "not shown", "not run",
        "not run",
    ]  # fmt: skip


def test_more_claims_ask_for_more(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    name = next(iter(STUDIES))
    study = STUDIES[name]
    _file(study.results, {"erm": 0.0, "better": 0.05, "same": 0.0})
    one = replace(
        CLAIMS[0], study=name, baseline="erm", method="better", measure="accuracy", part={}
    )
    alone = claims.judge({name: study}, [one])[0].adjusted
    others = [replace(one, name=str(number), method="same") for number in range(4)]
    among = claims.judge({name: study}, [one, *others])[0].adjusted
    assert among == pytest.approx(5 * alone)


def test_a_claim_is_judged_by_the_registered_seeds_once_they_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    name = next(iter(STUDIES))
    _file(STUDIES[name].results, {"erm": 0.0, "better": 0.05})
    one = replace(
        CLAIMS[0], study=name, baseline="erm", method="better", measure="accuracy", part={},
        expected="higher",
    )  # fmt: skip
    early, exact, late = (
        claims.judge({name: replace(STUDIES[name], seeds=seeds)}, [one])[0] for seeds in (7, 6, 5)
    )
    assert (early.word, early.pairs) == ("too few runs", 6)
    assert (exact.word, exact.pairs) == ("shown", 6)
    assert late.pairs == 5
    assert late.test.difference != exact.test.difference


def test_a_part_is_told_from_the_others(tmp_path):
    file = tmp_path / "some.csv"
    _file(file, {"erm": 0.0}, varied='{""imbalance"": 10.0}')
    assert claims.values_of(file, {"imbalance": 10})["erm"].keys() == set(range(6))
    assert claims.values_of(file, {"imbalance": 100}) == {}
    assert claims.values_of(file, {}) == {}


def test_page_and_figure_of_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    _file(STUDIES["balanced_cifar10"].results, {"erm": 0.0, "mixup": 0.02, "sk_mixup": -0.03})
    verdicts = claims.judge(STUDIES, CLAIMS)
    drawn = claims.draw(STUDIES, tmp_path / "figure.png")
    page = claims.outcome(STUDIES, verdicts, drawn)
    for claim in CLAIMS:  # none is left out
        assert f"| {claim.name} |" in page
    assert "**shown**" in page
    assert "not run" in page
    assert "Begun: [the runs that have ended](results/balanced_cifar10.csv)" in page
    few = [verdict for verdict in verdicts if verdict.test and verdict.claim.name == "M1"]
    page = claims.outcome({"balanced_cifar10": STUDIES["balanced_cifar10"]}, few, drawn)
    assert "[Every run](results/balanced_cifar10.csv)" in page
    assert "what_helps.png" in page
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_without_results_nothing_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    assert not claims.draw(STUDIES, tmp_path / "figure.png")
    page = claims.outcome(STUDIES, claims.judge(STUDIES, CLAIMS), drawn=False)
    assert f"{len(CLAIMS)} not run" in page
    assert "what_helps.png" not in page


def test_the_claims_file_has_no_unknown_key():
    content = yaml.safe_load((ROOT / "studies" / "claims.yaml").read_text("utf-8"))
    assert set(content) == {"studies", "claims", "situations"}
