"""The report in a real browser: pointer, keys, sorting, hiding; light, dark, narrow, no scripts."""

import browser
import pytest

from mixwell.report import write

pytestmark = pytest.mark.slow

METHODS = ("erm", "mixup", 'sk_mixup(layer="a<b")')


@pytest.fixture
def page(make_records, tmp_path, _drawn=[]):  # noqa: B006  (once: it takes longer than the tests)
    if not _drawn:
        parts = ({"imbalance": 10.0}, {"imbalance": 100.0})
        records = make_records(METHODS, parts=parts, kind="everything", seeds=2)
        written = write(records, tmp_path / "drawn", command="made up", protocol="long-tailed")
        _drawn.append(written.html.read_text(encoding="utf-8"))
    path = tmp_path / "report.html"
    path.write_text(_drawn[0], encoding="utf-8")
    return path


def rows(table):
    return f"""[...document.querySelectorAll("table")[{table}].tBodies[0].rows]
      .map(row => row.cells[0].textContent.trim())"""


def test_a_click_or_a_key_on_a_heading_sorts(page, tmp_path):
    found = browser.run(
        page,
        tmp_path,
        f"""
        const button = document.querySelectorAll("table")[1].querySelectorAll("th button")[1];
        const head = button.parentElement, seen = [];
        const values = () => [...head.closest("table").tBodies[0].rows]
          .map(row => parseFloat(row.cells[1].dataset.value));
        button.click(); seen.push([head.getAttribute("aria-sort"), values()]);
        button.focus(); button.click(); seen.push([head.getAttribute("aria-sort"), values()]);
        document.querySelectorAll("table")[1].querySelector("th button").click();
        return {{seen, focused: document.activeElement === button, names: {rows(1)}}};
        """,
    )
    (down, falling), (up, rising) = found["seen"]
    assert (down, up) == ("descending", "ascending")
    assert falling == sorted(falling, reverse=True)
    assert rising == sorted(rising)
    assert len(set(rising)) == 3
    assert found["focused"]
    assert found["names"] == sorted(found["names"])


def test_the_pointer_and_the_keys_tell_values(page, tmp_path):
    found = browser.run(
        page,
        tmp_path,
        """
        const svg = document.querySelector("figure svg"), tip = document.getElementById("tip");
        const circle = svg.querySelector(".told circle"), box = circle.getBoundingClientRect();
        const before = tip.hidden;
        svg.dispatchEvent(new PointerEvent("pointermove",
          {clientX: box.x + 8, clientY: box.y + 8, bubbles: true, pointerType: "mouse"}));
        const pointed = [tip.hidden, tip.textContent, circle.classList.contains("on")];
        svg.dispatchEvent(new PointerEvent("pointerleave", {pointerType: "mouse"}));
        const left = tip.hidden;
        svg.focus();
        const told = [];
        for (const key of ["ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft", "Escape"]) {
          svg.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
          told.push(tip.hidden ? null : tip.textContent);
        }
        return {before, pointed, left, told, tab: svg.tabIndex,
                count: svg.querySelectorAll(".told circle").length};
        """,
    )
    assert found["before"]
    assert found["left"]
    assert found["pointed"][0] is False
    assert found["pointed"][1].startswith("erm, imbalance 10")
    assert found["pointed"][2]
    assert found["tab"] == 0
    first, second, again, last, closed = found["told"]
    assert first == again == found["pointed"][1]
    assert second.startswith("erm, imbalance 100")
    assert last.startswith("sk_mixup")
    assert closed is None


def test_a_method_can_be_hidden_and_shown_again(page, tmp_path):
    found = browser.run(
        page,
        tmp_path,
        """
        const box = document.querySelectorAll(".choose input")[2], label = box.parentElement;
        const own = [...document.querySelectorAll("[data-method]")]
          .filter(part => part.dataset.method.startsWith("sk_mixup"));
        const seen = () => own.filter(part => getComputedStyle(part).display !== "none").length;
        const other = () => [...document.querySelectorAll("tr[data-method=mixup]")]
          .filter(part => getComputedStyle(part).display !== "none").length;
        const counts = [[seen(), other()]];
        label.click(); counts.push([seen(), other()]);
        label.click(); counts.push([seen(), other()]);
        return {counts, names: [...document.querySelectorAll(".choose label")]
          .map(part => part.textContent)};
        """,
    )
    (all_, rows_), hidden, again = found["counts"]
    assert all_ > 20
    assert rows_ > 2
    assert hidden == [0, rows_]
    assert again == [all_, rows_]
    assert found["names"] == list(METHODS)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_cut_and_all_can_be_read(width, dark, page, tmp_path):
    found = browser.run(
        page,
        tmp_path,
        """
        for (const part of document.querySelectorAll("details")) part.open = true;
        const light = colour => {
          const [r, g, b] = colour.match(/[\\d.]+/g).map(Number);
          return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
        };
        const style = part => getComputedStyle(part), body = document.body;
        const scrolled = part => part.closest(".scroll, pre, .choose");
        const wide = [...document.querySelectorAll("main *")]
          .filter(part => !scrolled(part) && part.getClientRects().length
            && !part.closest("svg") && part.getBoundingClientRect().right > innerWidth + 1)
          .map(part => part.outerHTML.slice(0, 120));
        const text = document.querySelector("svg text");
        return {width: innerWidth, scroll: document.documentElement.scrollWidth, wide,
                ground: light(style(body).backgroundColor), ink: light(style(body).color),
                figure: light(style(text).fill),
                card: light(style(document.querySelector(".scroll")).backgroundColor)};
        """,
        width=width,
        dark=dark,
    )
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["wide"] == []
    ground, card = found["ground"], found["card"]
    assert max(ground, card) < 0.2 if dark else min(ground, card) > 0.8
    for words in ("ink", "figure"):
        assert abs(found[words] - ground) > 0.5


def test_figures_values_and_hiding_are_there_without_scripts(page, tmp_path):
    found = browser.look(
        page,
        tmp_path,
        """
        const seen = part => part.getBoundingClientRect().width > 0;
        const figures = [...page.querySelectorAll("figure > svg[role=img]")].filter(seen);
        const row = page.querySelector("tr[data-method=mixup]");
        const before = seen(row);
        page.querySelectorAll(".choose input")[1].checked = false;
        return {live: page.documentElement.className, figures: figures.length, before,
                after: seen(row), title: page.querySelector(".told title").textContent,
                buttons: [...page.querySelectorAll(".save")].filter(seen).length,
                hints: [...page.querySelectorAll(".live-only")].filter(seen).length};
        """,
    )
    assert found["live"] == ""
    assert found["figures"] > 5
    assert found["title"].startswith("erm, imbalance 10")
    assert found["before"]
    assert not found["after"]
    assert found["buttons"] == found["hints"] == 0  # nothing that would do nothing is shown
