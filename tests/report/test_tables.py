from dataclasses import replace

import pytest
from rich.console import Console

from mixwell import InputError
from mixwell.metrics.measures import get
from mixwell.report import markdown_table, tables
from mixwell.report.tables import cells, columns_for, latex_table
from mixwell.studies import summarise


def rendered(records, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in tables(records, width=width):
        console.print(table)
    return console.export_text()


def test_the_best_mean_is_bold_and_significant_differences_are_marked(make_records):
    records = make_records(("erm", "mixup", "third"))
    summaries = summarise(records)
    accuracy = cells(summaries, get("accuracy"))
    assert [cell.best for cell in accuracy] == [False, False, True]
    assert [cell.mark for cell in accuracy] == ["", "better", "better"]
    assert "p = " in accuracy[1].note or "p < " in accuracy[1].note
    alignment = cells(summaries, get("alignment"))
    assert not any(cell.best for cell in alignment)
    mean = 100 * summaries[1].metrics["accuracy"].mean
    assert accuracy[1].text == f"{mean:.2f}"


def test_terminal_tables_fit_and_hold_every_method_and_measure(make_records):
    records = make_records(("erm", "mixup", "sk_mixup+decoupled"))
    for width in (80, 100, 140, 250):
        text = rendered(records, width)
        assert max(map(len, text.splitlines())) <= width
        assert "sk_mixup+decoupled" in text
        assert "paired t-test" in " ".join(text.split())
    summary = summarise(records)[0]
    assert f"{100 * summary.metrics['accuracy'].mean:.2f}" in rendered(records, 140)


def test_one_seed_has_no_interval_and_says_so(make_records):
    text = rendered(make_records(seeds=1), 120)
    assert "one seed" in text
    assert "±" not in text


def test_regression_and_failures(make_records):
    records = make_records(("erm", "c_mixup"), task="regression", failed={("c_mixup", 1)})
    text = rendered(records, 140)
    assert "RMSE" in text
    assert "accuracy" not in text
    assert "1 failed" in text


def test_where_every_run_failed_the_table_says_so(make_records):
    text = rendered(make_records(failed={("erm", 0), ("mixup", 0)}, seeds=1), 120)
    assert "erm" in text
    assert text.count("(1 failed)") == 2


def test_markdown(make_records):
    text = markdown_table(make_records())
    lines = text.strip().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| erm |")
    assert "**" in text
    assert "MiB" not in text
    records = make_records(start="other")
    assert markdown_table(records, measures="nll") == markdown_table(records, measures=["nll"])
    with pytest.raises(InputError, match="accurcy"):
        markdown_table(records, measures="accurcy")


def test_a_protocols_measures_come_first(make_records):
    summaries = summarise(make_records())
    keys = [column.name for column in columns_for(summaries, "toy")]
    assert keys[:3] == ["accuracy", "nll", "ece"]


def test_parts_are_told_apart(make_records):
    parts = ({"data": "digits"}, {"data": "letters"})
    records = make_records(parts=parts)
    text = rendered(records, 120)
    assert "digits" in text
    assert "letters" in text
    assert "average rank" in text
    assert "| digits | erm |" in markdown_table(records, measures=["accuracy"])
    latex = latex_table(records)
    assert latex.count("midrule") == 2
    assert latex.count(" & ") == 5 * 3
    assert "_" not in latex.replace("\\_", "")


def test_ranks_say_over_which_parts_they_are(make_records):
    parts = [{"data": name} for name in ("digits", "letters", "signs")]
    records = make_records(("erm", "mixup", "cutmix"), parts=parts)

    def text_of(records):
        return " ".join(rendered(records, 120).split())

    assert "average rank over the 3 parts (1 is best)" in text_of(records)

    def broken(where):
        return [
            replace(r, status="failed", metrics={})
            if r.label == "cutmix" and r.vary["data"] in where
            else r
            for r in records
        ]

    text = text_of(broken(("letters", "signs")))
    assert "average rank over 1 of 3 parts" in text
    assert "ranks over 1 of 3 parts: cutmix has no result in letters, signs" in text
    text = text_of(broken(("digits", "letters", "signs")))
    assert "average rank" not in text
    assert "no ranks: cutmix has no result in digits, letters, signs" in text


def test_ranks_of_a_measure_that_one_part_alone_has_say_so(make_records):
    parts = [{"data": "digits"}, {"data": "letters"}]
    records = [
        replace(r, metrics={k: v for k, v in r.metrics.items() if k != "ece"})
        if r.vary["data"] == "letters"
        else r
        for r in make_records(parts=parts)
    ]
    text = " ".join(rendered(records, 200).split())
    assert "average rank over the parts" in text
    assert "ECE %: ranks over 1 of 2 parts: erm, mixup have no result in letters" in text
