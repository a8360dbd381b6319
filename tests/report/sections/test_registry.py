import pytest

from mixwell import InputError
from mixwell.errors import Note
from mixwell.report import sections, write
from mixwell.report.sections import Block, Picture, Section, Table

SVG = '<svg role="img" aria-label="a made-up picture"></svg>'


def everything(part):
    return Block(
        "Hardest <classes>",
        f"Of {part.first.config['data']}.",
        sentences=["a & b"],
        table=Table(("class", "share"), [("a", "1.0"), ("b", "<2>")]),
        pictures=part.each(lambda run, colour: SVG, lambda m: f"{m['accuracy']:.1f}"),
    )


@pytest.fixture
def hardest():
    section = Section("hardest", everything, lambda part: part.measured("accuracy"))
    yield sections.register(section, before="curves")
    sections.remove("hardest")


def page_of(records, folder, **options):
    return write(records, folder, command="", **options).html.read_text(encoding="utf-8")


@pytest.mark.slow
def test_one_from_outside_is_on_the_page_where_it_is_put(hardest, make_records, tmp_path):
    page = page_of(make_records(), tmp_path)
    assert page.index("Accuracy against time") < page.index("Hardest &lt;classes&gt;")
    assert page.index("Hardest &lt;classes&gt;") < page.index("Learning curves")
    for text in ("Of digits.", "<li>a &amp; b</li>", "<td>&lt;2&gt;</td>", '<th scope="row">b'):
        assert text in page
    assert page.count("a made-up picture") == 2  # one of each method


def test_one_from_outside_is_left_out_where_it_does_not_apply(hardest, make_records, tmp_path):
    assert "Hardest" not in page_of(make_records(task="regression"), tmp_path)


@pytest.mark.slow
def test_what_shows_nothing_is_left_out(make_records, tmp_path):
    sections.register(Section("nothing", lambda part: Block("Nothing", "at all")))
    try:
        assert "Nothing" not in page_of(make_records(), tmp_path)
    finally:
        sections.remove("nothing")


def test_names_are_looked_up(hardest):
    with pytest.raises(InputError, match="there is a section of this name already"):
        sections.register(hardest)
    with pytest.raises(InputError, match="section 'curve' is unknown; known: findings"):
        sections.register(Section("other", everything), before="curve")
    assert "hardest" in [section.name for section in sections.registered()]


def test_each_draws_the_first_run_of_each_method_that_has_one(make_records):
    records = make_records(failed={("mixup", 0)})
    done = [record for record in records if record.status == "done"]
    from mixwell.studies import summarise

    part = sections.Part(done, summarise(records), {"erm": "red", "mixup": "blue"}, "erm", "toy")
    drawn = part.each(lambda run, colour: f"{run.label}-{run.seed}-{colour}")
    assert drawn == [
        Picture("erm-0-red", "erm", "", "erm"),
        Picture("mixup-1-blue", "mixup, seed 1", "", "mixup"),
    ]  # fmt: skip


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize("where", ["draw", "applies"])
def test_a_section_that_fails_says_so_and_all_else_comes(where, make_records, tmp_path):
    def fail(part):
        raise TypeError("unhashable <type>")

    own = {"draw": everything, "applies": lambda part: True, where: fail}
    sections.register(Section("my_own", own["draw"], own["applies"]), before="curves")
    try:
        with pytest.warns(Note, match="'My own' could not be drawn: TypeError: unhashable"):
            page = page_of(make_records(), tmp_path)
    finally:
        sections.remove("my_own")
    assert "could not be drawn: TypeError: unhashable &lt;type&gt;" in page
    assert page.index("My own") < page.index("Learning curves")


@pytest.mark.slow
def test_what_the_machine_fails_at_is_no_fault_of_a_section(make_records, tmp_path):
    def fail(part):
        raise MemoryError

    sections.register(Section("large", fail))
    try:
        with pytest.raises(MemoryError):
            page_of(make_records(), tmp_path)
    finally:
        sections.remove("large")
