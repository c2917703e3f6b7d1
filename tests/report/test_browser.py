"""The page in a real browser: what it chooses is what `best` returns, and it can be used by anybody."""

import re
from dataclasses import replace

import pytest

from adaptive_depth.errors import BudgetError

from .conftest import FIGURES, STAGES, make_errors, make_page, mirrored

PHONE, WIDE = (360, 740), (1280, 900)
LIMITS = {
    "Latency": ("latency_ms", 1.0),
    "Multiply-adds": ("macs", 1e6),
    "Energy": ("energy_mj", 1.0),
    "Memory": ("memory_mb", 1.0),
    "Accuracy": ("accuracy", 1.0),
}
# Set the slider or the field to each value in turn, as a hand would, and read what is then chosen.
SWEEP = """([id, values]) => values.map((value) => {
    const control = document.getElementById(id);
    control.value = value;
    control.dispatchEvent(new Event("input", { bubbles: true }));
    return [control.value, document.getElementById("number").value, document.getElementById("chosen").firstChild.data];
})"""


def best(table, name, value):
    try:
        return table.best(**{name: value})
    except BudgetError:
        return "None fits"


def chosen(page):
    return page.locator("#chosen").evaluate("element => element.firstChild.data")


def result(page):
    """The lines of what a screen reader is told of the choice."""
    said = page.get_by_role("status").first.inner_text().replace("\N{NO-BREAK SPACE}", " ")
    return re.split(r"\s*\n\s*", said.strip())


def choose_limit(page, title):
    page.get_by_role("radio", name=title).check()


def type_limit(page, value):
    page.get_by_role("spinbutton").fill(str(value))


# -- it loads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [PHONE, WIDE], ids=["phone", "wide"])
def test_it_loads_in_silence_and_never_scrolls_sideways(opened, page_file, size):
    with opened(page_file, size) as page:
        for title in LIMITS:
            choose_limit(page, title)
            assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [size[0]] * 2
        page.locator("summary").click()
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        shown = page.locator(".plot .chart:visible svg").bounding_box()
        assert shown["width"] > 0.75 * min(size[0], 600)


def test_without_javascript_all_figures_are_there(opened, page_file):
    with opened(page_file, java_script_enabled=False) as page:
        assert page.get_by_role("row").count() == 1 + len(FIGURES)
        assert page.locator(".chart svg:visible").count() == 5
        assert page.locator("noscript p").is_visible()
        assert not page.locator("#slider").is_visible()
        assert page.get_by_text("runs in full").count() == 3


# -- the choice -------------------------------------------------------------------------------------------------


def test_every_position_of_the_slider_chooses_what_best_returns(opened, page_file, table):
    with opened(page_file) as page:
        for title, (name, unit) in LIMITS.items():
            choose_limit(page, title)
            slider = page.get_by_role("slider")
            low, high = (float(slider.get_attribute(end)) for end in ("min", "max"))
            asked = [str(low + (high - low) * part / 60) for part in range(61)]
            read = page.evaluate(SWEEP, ["slider", asked])
            assert [skip for *_, skip in read] == [best(table, name, float(value) * unit) for value, *_ in read]
            assert all(float(value) == float(typed) for value, typed, _ in read)
            assert {skip for *_, skip in read} == {"TTT", "TTF", "FTT", "FTF", "None fits"}


def test_every_typed_limit_chooses_what_best_returns(opened, page_file, table):
    with opened(page_file) as page:
        for title, (name, unit) in LIMITS.items():
            exact = [getattr(row, name) / unit for row in table.rows]
            near = [factor * value for factor in (0.999, 1, 1.001) for value in exact]
            asked = [repr(value) for value in (*near, 0.01, 1e6)]
            choose_limit(page, title)
            read = page.evaluate(SWEEP, ["number", asked])
            expected = [best(table, name, float(value) * unit) for value in asked]
            assert [skip for *_, skip in read] == expected, title
            assert "None fits" in expected


def test_where_nothing_fits_it_says_what_would_do(opened, page_file):
    with opened(page_file) as page:
        for typed in ("", "0", "-3"):
            type_limit(page, 7)
            type_limit(page, typed)
            assert result(page) == ["None fits", "Enter a number above 0."], typed
        type_limit(page, 4.99)
        assert result(page) == ["None fits", "The minimum is 5.00 ms, by TTT."]
        assert page.locator("tr[aria-current]").count() == 0
        assert page.locator(".halo").count() == 0
        assert page.get_by_text("No sub-network is chosen.").is_visible()
        assert page.locator(".stage .state").all_inner_texts() == ["not chosen"] * 3


def test_the_result_tells_cost_loss_and_saving(opened, page_file):
    with opened(page_file) as page:
        type_limit(page, 6.4)
        assert result(page) == [
            "Use", "TTF",
            "Accuracy", "85.25 %", "4.75 points below the super-net",
            "Latency", "6.00 ms", "40.0 % less",
            "Multiply-adds", "2.400 MMACs", "40.0 % less",
            "Energy", "590.0 mJ", "34.4 % less",
            "Memory", "19.00 MB", "20.8 % less",
            "Parameters", "2.100 million", "12.5 % less",
        ]  # fmt: skip


def test_what_did_not_change_is_not_announced_again(opened, page_file):
    with opened(page_file) as page:
        type_limit(page, 6.2)
        page.evaluate(
            "window.changes = 0; new MutationObserver((found) => { window.changes += found.length; })"
            ".observe(document.getElementById('result'), { childList: true, subtree: true, characterData: true })"
        )
        for limit in (6.3, 6.4):
            type_limit(page, limit)
        assert page.evaluate("window.changes") == 0
        type_limit(page, 5.5)
        assert page.evaluate("window.changes") > 0


def test_each_limit_keeps_its_value(opened, page_file):
    with opened(page_file) as page:
        type_limit(page, 6.25)
        choose_limit(page, "Energy")
        type_limit(page, 620)
        assert page.locator("#unit").inner_text() == "mJ"
        choose_limit(page, "Latency")
        assert page.get_by_role("spinbutton").input_value() == "6.25"
        assert chosen(page) == "TTF"


def test_a_button_jumps_to_each_choice(opened, page_file):
    with opened(page_file) as page:
        group = page.get_by_role("list", name="Every choice by latency")
        texts = [text.replace("\N{NO-BREAK SPACE}", " ") for text in group.get_by_role("button").all_inner_texts()]
        assert texts == ["TTT from 5.00 ms", "TTF from 6.00 ms", "FTT from 7.34 ms", "FTF from 8.00 ms"]
        group.get_by_role("button", name="FTT").click()
        assert (chosen(page), page.get_by_role("spinbutton").input_value()) == ("FTT", "7.34")
        assert group.get_by_role("button", pressed=True).inner_text().startswith("FTT")


# -- what follows the choice ------------------------------------------------------------------------------------


def test_stages_row_and_point_follow(opened, page_file):
    with opened(page_file) as page:
        for limit, skip in ((5.0, "TTT"), (6.0, "TTF"), (7.4, "FTT"), (8.0, "FTF")):
            type_limit(page, limit)
            check_stages(page, skip)
            current = page.locator("tr[aria-current=true]")
            assert current.get_attribute("data-skip") == skip
            assert "chosen" in current.locator("th").inner_text()
            point = f'[id="chart-latency_ms-point-{skip}"]'
            assert middle(page, ".halo") == pytest.approx(middle(page, point), abs=0.7)
            assert page.locator(".tag-text").text_content() == skip
            assert page.locator(f"{point}.point-chosen").count() == 1


def check_stages(page, skip):
    for stage, flag, name in zip(page.locator(".stage").all(), skip, ("early", "middle", "late"), strict=True):
        runs = "skipped" if flag == "T" else "runs"
        spoken = SPOKEN[name].format(runs).split("; ")
        assert stage.locator(".block .hidden").all_text_contents() == [f"net.{name}.{block}" for block in spoken]
        assert stage.locator(".stage-letter").inner_text() == flag
        drawn = stage.locator(".block").evaluate_all(
            "found => found.map((block) => getComputedStyle(block).textDecorationLine)"
        )
        assert drawn == ["line-through" if "skipped" in block else "none" for block in spoken]
        hatched = stage.locator(".block").evaluate_all(
            "found => found.map((block) => getComputedStyle(block).backgroundImage !== 'none')"
        )
        assert hatched == ["skipped" in block for block in spoken]


SPOKEN = {
    "early": "0, mandatory; 1, skippable, {0}",
    "middle": "0, mandatory; 1, mandatory; 2, skippable, {0}",
    "late": "0, mandatory; 1, skippable, {0}; 2, skippable, {0}",
}


def middle(page, selector):
    box = page.locator(selector).bounding_box()
    return [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]


def test_the_limit_stands_in_the_chart_where_it_is(opened, page_file):
    with opened(page_file) as page:
        for skip in ("TTT", "FFF"):
            accuracy, _, _, latency, *_ = FIGURES[skip]
            point = f'[id="chart-latency_ms-point-{skip}"]'
            choose_limit(page, "Latency")
            type_limit(page, latency)
            assert middle(page, ".limit-line")[0] == pytest.approx(middle(page, point)[0], abs=0.7)
            choose_limit(page, "Accuracy")
            type_limit(page, accuracy)
            assert middle(page, ".limit-line")[1] == pytest.approx(middle(page, point)[1], abs=0.7)


def test_the_chart_is_that_of_the_limit(opened, page_file):
    with opened(page_file) as page:
        for title in ("Multiply-adds", "Memory", "Latency"):
            choose_limit(page, title)
            assert page.locator(".plot .chart:visible").count() == 1
            assert page.get_by_role("img", name=f"Accuracy against {title.lower()} of 8 sub-networks").is_visible()


# -- the table --------------------------------------------------------------------------------------------------

COLUMNS = {
    "Sub-network": None,
    "Accuracy (%)": 0,
    "Points vs. FFF": 0,
    "Latency (ms)": 3,
    "Multiply-adds (MMACs)": 1,
    "Energy (mJ)": 7,
    "Memory (MB)": 6,
    "Parameters (million)": 2,
    "Samples/s (batch of 8)": None,  # 100 before 80 as text
}


def test_columns_sort_both_ways(opened, page_file):
    with opened(page_file) as page:
        for head, place in COLUMNS.items():
            column = page.get_by_role("columnheader", name=head, exact=True)
            assert column.get_attribute("aria-sort") == "none"
            for direction in ("ascending", "descending"):
                page.get_by_role("button", name=head, exact=True).click()
                found = page.locator("#table tbody tr").evaluate_all("rows => rows.map((row) => row.dataset.skip)")
                values = [ranked(head, place, skip) for skip in found]
                assert values == sorted(values, reverse=direction == "descending"), head
                assert sorted(found) == sorted(FIGURES)
                assert column.get_attribute("aria-sort") == direction
                assert page.locator("#sorted").inner_text() == f"Sorted by {head}, {direction}."
            assert page.locator("th[aria-sort=ascending], th[aria-sort=descending]").count() == 1


def ranked(head, place, skip):
    if place is not None:
        return FIGURES[skip][place]
    return skip if head == "Sub-network" else 1000 / FIGURES[skip][3]


def test_the_front_is_that_of_the_limit(opened, page_file):
    with opened(page_file) as page:
        cell = page.locator("tr[data-skip=TFF] .verdict")
        assert cell.inner_text() == "dominated by FTT"
        choose_limit(page, "Memory")
        assert page.locator("tr[data-skip=FFT] .verdict").inner_text() == "dominated by FTF"
        button = page.get_by_role("button", name="Pareto front, memory")
        button.click()
        found = page.locator("tbody tr .verdict").all_inner_texts()
        assert found[:5] == ["on the front"] * 5  # TFT and TTF are equal in both
        assert found[5:] == ["dominated by FTF", "dominated by FTF", "dominated by FTT"]
        choose_limit(page, "Accuracy")  # compared by the first cost
        assert page.get_by_role("button", name="Pareto front, latency").is_visible()


def test_a_row_can_be_looked_at(opened, page_file):
    with opened(page_file) as page:
        page.get_by_role("button", name="TFF", exact=True).click()
        assert result(page)[:3] == ["Showing", "TFF", "dominated by FTT"]
        assert page.locator(".stage .stage-letter").all_inner_texts() == ["T", "F", "F"]
        assert middle(page, ".halo") == pytest.approx(middle(page, '[id="chart-latency_ms-point-TFF"]'), abs=0.7)
        page.get_by_role("slider").press("ArrowRight")
        assert result(page)[0] == "Use"


# -- other qualities than top-1 ---------------------------------------------------------------------------------

REGRESSION = {**{title: limit for title, limit in LIMITS.items() if title != "Accuracy"}, "RMSE": ("quality", 1.0)}


@pytest.mark.parametrize("mirror", [False, True], ids=["RMSE", "its negative"])
def test_any_quality_is_chosen_by_as_best_does(opened, errors, tmp_path, mirror):
    table = mirrored(errors) if mirror else errors
    file = tmp_path / "report.html"
    file.write_text(make_page(table), encoding="utf-8")
    with opened(file) as page:
        for title, (name, unit) in REGRESSION.items():
            choose_limit(page, title)
            slider = page.get_by_role("slider")
            low, high = (float(slider.get_attribute(end)) for end in ("min", "max"))
            read = page.evaluate(SWEEP, ["slider", [str(low + (high - low) * part / 60) for part in range(61)]])
            assert [skip for *_, skip in read] == [best(table, name, float(value) * unit) for value, *_ in read], title
            assert {skip for *_, skip in read} == {"TTT", "TTF", "FTT", "FTF", "None fits"}
            exact = [(row.accuracy if name == "quality" else getattr(row, name)) / unit for row in table.rows]
            asked = [repr(value + step) for value in exact for step in (-1e-6, 0, 1e-6)] + ["-1", "0", "1e6"]
            read = page.evaluate(SWEEP, ["number", asked])
            assert [skip for *_, skip in read] == [best(table, name, float(value) * unit) for value in asked], title


def test_a_regression_is_said_in_its_own_words(opened, errors_file):
    with opened(errors_file) as page:
        type_limit(page, 6.4)
        assert result(page)[:5] == ["Use", "TTF", "RMSE", "0.147 m", "0.047 m above the super-net (worse)"]
        choose_limit(page, "RMSE")
        assert page.get_by_role("spinbutton", name="RMSE: at most", exact=True).count() == 1
        type_limit(page, 0.13)
        assert chosen(page) == "FTT"
        slider = page.get_by_role("slider", name="RMSE, at most", exact=True)
        assert slider.get_attribute("aria-valuetext") == f"at most {slider.input_value()} m"
        group = page.get_by_role("list", name="Every choice by RMSE", exact=True)
        assert group.get_by_role("button").all_inner_texts() == [
            "FTF from 0.095 m", "FTT from 0.120 m", "TTF from 0.148 m", "TTT from 0.200 m",
        ]  # fmt: skip
        group.get_by_role("button", name="TTF").click()
        assert chosen(page) == "TTF"
        type_limit(page, 0.09)
        assert result(page) == ["None fits", "The best, FTF, reaches 0.095 m."]
        type_limit(page, "")
        assert result(page) == ["None fits", "Enter a number."]
        assert page.get_by_role("button", name="Pareto front, latency").is_visible()


def test_what_is_beyond_a_limit_on_an_error_is_above_it(opened, errors_file):
    with opened(errors_file) as page:
        choose_limit(page, "RMSE")
        for skip in ("FTT", "TTT"):
            point = f'[id="chart-latency_ms-point-{skip}"]'
            type_limit(page, next(row.accuracy for row in make_errors().rows if row.skip == skip))
            assert middle(page, ".limit-line")[1] == pytest.approx(middle(page, point)[1], abs=0.7)
            veil, line = page.locator(".veil").bounding_box(), middle(page, ".limit-line")[1]
            assert veil["y"] + veil["height"] == pytest.approx(line, abs=0.7)
        type_limit(page, 0.12)
        veil = page.locator(".veil").bounding_box()
        worse, better = (middle(page, f'[id="chart-latency_ms-point-{skip}"]')[1] for skip in ("TTT", "FTF"))
        assert veil["y"] < worse < veil["y"] + veil["height"] < better


def test_an_unknown_figure_is_last_whichever_way_it_is_sorted(opened, tmp_path):
    table = make_errors()
    alone = [replace(row, alone=row.accuracy + 0.01 if row.skip in ("FFF", "TTT") else None) for row in table.rows]
    file = tmp_path / "report.html"
    file.write_text(make_page(replace(table, rows=tuple(alone))), encoding="utf-8")
    with opened(file) as page:
        for first in (["FFF", "TTT"], ["TTT", "FFF"]):
            page.get_by_role("button", name="Trained alone (m)", exact=True).click()
            found = page.locator("#table tbody tr").evaluate_all("rows => rows.map((row) => row.dataset.skip)")
            assert found[:2] == first


# -- by keyboard and screen reader ------------------------------------------------------------------------------


def test_everything_can_be_done_by_keyboard(opened, page_file, table):
    with opened(page_file) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the choice of a depth"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.value") == "latency_ms"
        page.keyboard.press("ArrowRight")
        assert page.locator("input:checked").get_attribute("value") == "macs"
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowDown")
        field = page.get_by_role("spinbutton")
        step = float(page.get_by_role("slider").get_attribute("step"))
        before = float(field.input_value())
        page.keyboard.press("ArrowUp")
        assert float(field.input_value()) == pytest.approx(before + step)
        page.keyboard.press("Tab")
        slider = page.get_by_role("slider")
        assert slider.evaluate("element => element === document.activeElement")
        for key, limit in (("Home", "min"), ("End", "max")):
            page.keyboard.press(key)
            assert slider.input_value() == slider.get_attribute(limit)
            assert chosen(page) == best(table, "macs", 1e6 * float(slider.input_value()))
        value = float(slider.input_value())
        for _ in range(3):
            page.keyboard.press("ArrowLeft")
        assert float(slider.input_value()) == pytest.approx(value - 3 * step)
        assert slider.get_attribute("aria-valuetext") == f"at most {slider.input_value()} MMACs"
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent") == "Accuracy (%)":
                break
        page.keyboard.press("Enter")
        assert page.locator("tbody tr").first.get_attribute("data-skip") == "TTT"


def test_what_has_focus_shows_it(opened, page_file):
    with opened(page_file) as page:
        page.keyboard.press("Tab")
        for _ in range(20):
            page.keyboard.press("Tab")
            drawn = page.evaluate(
                "(() => { const at = document.activeElement, own = getComputedStyle(at);"
                " const beside = at.nextElementSibling && getComputedStyle(at.nextElementSibling);"
                " const thumb = getComputedStyle(at, '::-webkit-slider-thumb');"
                " return [own, beside, at.type === 'range' ? thumb : null]"
                ".some((style) => style && style.outlineStyle === 'solid') || at.type === 'range'; })()"
            )
            assert drawn, page.evaluate("document.activeElement.outerHTML")


def test_everything_has_a_name(opened, page_file):
    with opened(page_file) as page:
        assert page.locator("html").get_attribute("lang") == "en"
        assert [page.get_by_role(role).count() for role in ("main", "banner", "contentinfo")] == [1, 1, 1]
        assert page.get_by_role("navigation", name="Sections").get_by_role("link").count() == 4
        assert page.get_by_role("group", name="Limit").get_by_role("radio").count() == 5
        assert page.get_by_role("spinbutton", name="Latency: at most", exact=True).count() == 1
        assert page.get_by_role("slider", name="Latency, at most", exact=True).count() == 1
        assert page.get_by_role("table", name="Top-1 accuracy and cost of 8 sub-networks").count() == 1
        assert page.get_by_role("region", name="Top-1 accuracy and cost of 8 sub-networks").count() == 1
        assert page.get_by_role("rowheader").count() == 8
        assert page.get_by_role("img", name="Training, epoch by epoch").count() == 1
        assert page.get_by_role("heading", name="How it was measured").count() == 1
        choose_limit(page, "Accuracy")
        assert page.get_by_role("slider", name="Accuracy, at least", exact=True).count() == 1


# -- names of others --------------------------------------------------------------------------------------------

HOSTILE = "</script></style><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


def test_hostile_names_do_no_harm(opened, tmp_path):
    stages = [{**stage, "name": HOSTILE} for stage in STAGES]
    file = tmp_path / "report.html"
    file.write_text(make_page(title=HOSTILE, stages=stages), encoding="utf-8")
    with opened(file) as page:
        type_limit(page, 2.5)
        assert chosen(page) == "TTF"
        assert page.evaluate("window.hacked") is None
        assert page.get_by_role("heading", level=1).inner_text() == HOSTILE
        assert page.locator("#running").inner_text().endswith(f"skipped in {HOSTILE}, {HOSTILE}.")
        assert page.locator("img").count() == 0


def test_the_policy_stops_scripts_and_requests_that_were_put_in(browser, tmp_path):
    text = make_page().replace("</h1>", "</h1><script>window.hacked = 1</script><img src='http://example.org/x.png'>")
    file = tmp_path / "report.html"
    file.write_text(text, encoding="utf-8")
    window = browser.new_context(offline=True)
    page, said = window.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto(file.as_uri())
    assert page.evaluate("window.hacked") is None
    assert sum("Content Security Policy" in text for text in said) == 2
    window.close()
