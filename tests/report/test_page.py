"""The page as text: self-contained, the same for the same input, harmless whatever names it carries."""

import hashlib
import json
import re
import subprocess
import sys
from base64 import b64encode
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from adaptive_depth.analysis.values import Analysis, BlockAnalysis, StageAnalysis
from adaptive_depth.choose.costs import Cost, Profile
from adaptive_depth.choose.tradeoffs import Row, TradeOffs, tradeoffs
from adaptive_depth.errors import MeasurementError
from adaptive_depth.plotting import plot_tradeoffs
from adaptive_depth.quality import Quality
from adaptive_depth.report import report_page, words
from adaptive_depth.report.charts import inline_svg, places
from adaptive_depth.training.history import Epoch, History

from .conftest import FIGURES, STAGES, make_errors, make_history, make_page, make_profile, make_table, untimed

PNG = b"\x89PNG\r\n\x1a\n the rest"


class Reader(HTMLParser):
    """Every element with its attributes, and the text of the elements that are asked for."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        for tag in self._open[-1:]:
            self.texts.setdefault(tag, []).append(data)

    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))


# -- self-contained ----------------------------------------------------------------------------------------------


def test_nothing_is_loaded_from_elsewhere(page_text):
    page = Reader(page_text)
    links = [
        attributes[name]
        for _, attributes in page.elements
        for name in ("src", "href", "srcset", "action", "data")
        if name in attributes
    ]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    policy = next(attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "url(" not in re.sub(r"url\(#", "", page_text)
    assert "@import" not in page_text


def test_the_policy_allows_the_pages_own_script_and_no_other(page_text):
    own = re.search(r"<script>(.*?)</script>", page_text, re.DOTALL).group(1)
    digest = b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in page_text
    assert page_text.count("<script") == 2  # the other one holds data


def test_the_same_input_gives_the_same_page():
    assert make_page() == make_page()


def test_ids_are_unique_and_references_meet_one(page_text):
    page = Reader(page_text)
    ids = page.ids()
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:href="#|url\(#|aria-labelledby="|aria-describedby="|for=")([^")]+)', page_text)
    assert len(used) > 100
    assert set(used) <= set(ids)


def test_a_large_network_makes_a_small_file():
    skips = [f"{number:05b}".replace("0", "F").replace("1", "T") for number in range(32)]
    rows = [Row(skip, 60.0 + n / 10, 10**9 + n, 10**7 + n, 1.0 + n) for n, skip in enumerate(skips)]
    stages = [
        {
            "name": f"s{n}",
            "mandatory": [f"s{n}.{b}" for b in range(12)],
            "skippable": [f"s{n}.{b}" for b in range(12, 23)],
        }
        for n in range(5)
    ]
    measured = dict.fromkeys(skips, 71.23)
    epochs = tuple(Epoch(n, 0.1234567, 1.234567, 70.1, 0.12345, 69.0, 1234.5, 0.01, measured) for n in range(1, 101))
    page = report_page(TradeOffs(tuple(rows)), title="Large", stages=stages, history=History(epochs))
    assert len(page.encode()) < 1_000_000  # energy and memory would add two charts of 50 kB


def test_neither_torch_nor_its_friends_are_loaded(tmp_path):
    code = (
        "import sys\n"
        "from adaptive_depth.report import report_page\n"
        "from adaptive_depth.choose.tradeoffs import Row, TradeOffs\n"
        "from adaptive_depth.training.history import Epoch, History\n"
        "table = TradeOffs((Row('F', 76.0, 400, 9, 2.0), Row('T', 75.0, 200, 5, 1.0)))\n"
        "stages = [{'name': 'a', 'mandatory': ['a.0'], 'skippable': ['a.1']}]\n"
        "history = History((Epoch(1, 0.1, 1.5, 60.0, None, None, 900.0),))\n"
        "assert '<svg' in report_page(table, title='x', stages=stages, history=history)\n"
        "slow = {'torch', 'timm', 'torchvision', 'sklearn', 'scipy', 'playwright'} & set(sys.modules)\n"
        "sys.exit(f'loaded {slow}' if slow else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# -- what is wrong ----------------------------------------------------------------------------------------------


def test_stages_of_another_network_are_refused():
    with pytest.raises(MeasurementError, match="'FFF' has 3 letters, but 2 stages were given: expected one letter per"):
        make_page(stages=STAGES[:2])


def test_a_picture_that_is_none_is_refused():
    with pytest.raises(MeasurementError, match=r"picture 'Maps' starts with b'GIF89a': expected the bytes of a PNG"):
        make_page(pictures={"Maps": b"GIF89a"})


# -- names of others --------------------------------------------------------------------------------------------

HOSTILE = "</script></title></style><script>hacked()</script><img src=x onerror=hacked()>\"'&{{ 7 * 7 }}"


def test_names_are_text_wherever_they_stand():
    stages = [{**stage, "name": HOSTILE, "skippable": [f"net.{HOSTILE}"]} for stage in STAGES]
    profile = replace(
        make_profile(), device={"type": HOSTILE}, conditions={HOSTILE: {HOSTILE: HOSTILE}}, energy=HOSTILE
    )
    page = make_page(
        title=HOSTILE, stages=stages, profile=profile, pictures={HOSTILE: PNG}, about={HOSTILE: {HOSTILE: [HOSTILE]}}
    )
    read, plain = Reader(page), Reader(make_page(pictures={"Maps": PNG}))
    assert sum(tag in ("script", "style", "title") for tag, _ in read.elements) == sum(
        tag in ("script", "style", "title") for tag, _ in plain.elements
    )
    assert [attributes for tag, attributes in read.elements if tag == "img"] == [
        {"src": f"data:image/png;base64,{b64encode(PNG).decode()}", "alt": HOSTILE}
    ]
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
    assert "".join(read.texts["h1"]) == HOSTILE
    assert [stage["name"] for stage in data_of(page)["stages"]] == [HOSTILE] * 3


@pytest.mark.parametrize("name", ["a\x07b\x00", "half \ud83d a letter", "$x^{", "x\n---\n| y |"])
def test_names_that_no_chart_or_file_takes_as_they_are(name):
    table = replace(make_table(), quality=Quality(name, name))
    page = make_page(table=table, title=name, stages=[{**stage, "name": name} for stage in STAGES])
    page.encode()
    assert len(Reader(page).texts["h1"]) == 1


# -- what it shows ----------------------------------------------------------------------------------------------


def test_sections_stand_only_where_there_is_something_to_show(page_text):
    sections = re.findall(r'<section id="(\w+)"', page_text)
    assert sections == ["choose", "table", "training", "measured"]
    bare = make_page()
    assert re.findall(r'<section id="(\w+)"', bare) == ["choose", "table", "measured"]
    assert re.findall(r'<section id="(\w+)"', make_page(history=History(()))) == ["choose", "table", "measured"]
    pictured = make_page(pictures={"Maps": PNG})
    assert re.findall(r'<section id="(\w+)"', pictured) == ["choose", "table", "analysis", "measured"]
    for page, linked in ((page_text, sections), (pictured, ["choose", "table", "analysis", "measured"])):
        navigation = page.partition("<nav")[2].partition("</nav>")[0]
        assert re.findall(r'href="#(\w+)"', navigation) == linked


def test_headings_are_in_order(page_text):
    levels = [int(tag[1]) for tag, _ in Reader(page_text).elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_table_holds_every_figure(page_text):
    body = page_text.partition("<tbody>")[2].partition("</tbody>")[0]
    lines = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.DOTALL) for line in body.split("</tr>")[:-1]]
    shown = {
        re.sub("<[^>]+>", "", line[0]).split()[0]: [re.sub("<[^>]+>", "", cell) for cell in line] for line in lines
    }
    assert [*shown] == [*FIGURES]
    assert shown["TFF"] == [
        "TFF", "87.00", "−3.00", "dominated by FTT", "7.50 7.40 to 7.60", "3.000", "660.0", "21.00", "2.300", "133.3",
    ]  # fmt: skip
    assert shown["FFF"][:3] == ["FFF super-net", "90.00", "–"]
    assert shown["FTF"][:3] == ["FTF", "90.50", "+0.50"]


def test_networks_trained_alone_have_a_column_and_a_point():
    table = untimed()
    page = make_page(TradeOffs((replace(table.rows[0], alone=91.25), *table.rows[1:])))
    assert '<span class="plain">Trained alone (%)</span>' in page
    assert '<td data-value="91.25">91.25</td>' in page
    assert 'id="chart-macs-alone-FFF"' in page
    assert "Trained alone" not in make_page()


def test_how_it_was_measured_is_told(page_text):
    entries = dict(re.findall(r"<dt>([^<]+)</dt>\s*<dd>([^<]+)</dd>", page_text.partition('id="measured"')[2]))
    assert entries == {
        "type": "cpu",
        "processor": "A processor",
        "torch": "2.11",
        "threads": "1",
        "batch size": "1",
        "backend": "eager",
        "energy": "measured by a counter",
        "rounds": "20",
        "before clock mhz": "2400",
    }
    page = make_page(about={"Accuracy": {"images": 10_000, "statistics": "none", "left": None, "list": [1, True, 0.5]}})
    told = page.partition("<h3>Accuracy</h3>")[2]
    assert re.findall(r"<d[td]>([^<]+)</d[td]>", told) == [
        "images",
        "10,000",
        "statistics",
        "none",
        "list",
        "1, yes, 0.5",
    ]


def test_what_the_profile_says_beneath_its_table_stands_beneath_the_table():
    profile = replace(make_profile(), uncounted={"aten.odd": 3})
    assert "<li>multiply-adds NOT counted, no formula: aten.odd (3 calls)</li>" in make_page(profile=profile)


def test_what_may_be_chance_stands_beneath_the_table():
    said = "n 1800 images, differences of less than"
    assert said in make_page(table=replace(make_table(), images=1800))
    assert said not in make_page()


def test_what_skipping_a_stage_saves_stands_at_the_stage():
    profile = make_profile()
    noise = [0.01 * (number % 5 - 2) for number in range(20)]
    costs = {
        skip: replace(cost, times_ms=tuple((cost.latency_ms or 0) + part for part in noise))
        for skip, cost in profile.costs.items()
    }
    page = make_page(profile=replace(profile, costs=costs))
    assert re.findall(r'<p class="saving">([^<]+)<', page) == [
        "skipping saves 2.36 ms (2.36 to 2.36)",  # of 2.5, 2.625, 2 and 2.333
        "skipping saves 1.70 ms (1.70 to 1.70)",  # of 2, 1.792, 1.5 and 1.5
        "skipping saves 0.885 ms (0.885 to 0.885)",  # of 0.875, 0.667, 1 and 1
    ]


def test_the_training_is_told_in_words_and_figures():
    page = make_page(history=make_history())
    training = page.partition('<section id="training"')[2].partition("</section>")[0]
    assert "2 epochs. In the last one, accuracy on the training images was 75.0 % (base-net 66.0 %)." in training
    assert "Last validation accuracies: FFF 90.0 %, TTT 80.0 %." in training
    assert training.count("is before calibration") == 2  # to read, and beside the chart for those who do not see it
    assert re.findall(r'<th scope="col">([^<]+)</th>', training)[-2:] == ["validation FFF", "validation TTT"]
    assert re.findall(r"<td>([^<]+)</td>", training)[:3] == ["0.1", "1.5", "75"]


def test_the_analysis_gives_advice_first():
    blocks = (BlockAnalysis("a.0", 1, False, None), BlockAnalysis(HOSTILE, 1, True, 0.125, None, -0.5, -0.25, 0.75))
    stages = (StageAnalysis(1, HOSTILE, -0.5, -0.25, None, 0.0625, 0.03),)
    analysis = Analysis(blocks, stages, (), {"FFF": 0.5, "TTT": 0.75}, 100, advice=("First.", HOSTILE))
    page = make_page(analysis=analysis)
    section = page.partition('<section id="analysis"')[2].partition("</section>")[0]
    assert "Analysis" in page.partition("<nav")[2].partition("</nav>")[0]
    assert section.index("<li>First.</li>") < section.index("<svg") < section.index("<table>")
    assert "hacked()>" not in section
    heads = re.findall(r'<th scope="col">([^<]+)</th>', section)
    cosine, loss = "cosine of F and −∂L/∂h", ["predicted change of the loss", "change of the loss"]
    assert heads == [
        "stage", *loss, "loss added by skipping", "KL of the features", "block", "sub-path", "‖F‖/‖h‖", *loss, cosine,
    ]  # fmt: skip
    assert re.findall(r"<td>([^<]+)</td>", section) == [
        "−0.5", "−0.25", "0.0625", "0.03", "mandatory", "–", "–", "–", "–",
        "skippable", "0.125", "−0.5", "−0.25", "0.75",
    ]  # fmt: skip


# -- other qualities than top-1 ---------------------------------------------------------------------------------


def test_a_page_of_a_regression_names_it_everywhere_and_accuracy_nowhere(errors):
    page = make_page(errors, profile=make_profile())
    said = page.partition("<body>")[2].partition('<script type="application/json"')[0]
    assert "accura" not in said.lower()
    assert "top-1" not in said
    assert "<title>A small network – depths, costs and RMSE</title>" in page
    assert "RMSE (lower is better) and cost of 8 sub-networks." in said
    assert '<title id="chart-macs-title">RMSE against multiply-adds of 8 sub-networks</title>' in said
    assert "RMSE (m, lower is better)" in re.findall(r"<text[^>]*>([^<]+)</text>", said)  # the axis
    assert '<input type="radio" name="limit" value="quality"><span>RMSE</span>' in said
    assert data_of(page)["limits"][-1]["name"] == "quality"


def test_a_file_of_version_0_1_is_a_page_of_top_1():
    plain = make_table().to_json()
    assert "quality" not in plain
    assert make_page(TradeOffs.from_json(plain)) == make_page(make_table())


def test_the_name_and_unit_of_a_quality_are_text():
    table = replace(make_errors(), quality=Quality(HOSTILE, f"{HOSTILE} $x$", higher_is_better=False))
    read = Reader(make_page(table))
    assert sum(tag == "script" for tag, _ in read.elements) == 2
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
    assert data_of(make_page(table))["limits"][-1]["title"] == HOSTILE


def test_a_training_of_a_regression_has_its_chart_and_figures(errors):
    epochs = (Epoch(1, 0.1, 1.5, None, 0.25, None, 900.0, validation={"FFF": 0.125}),)
    page = make_page(errors, history=History(epochs))
    section = page.partition('<section id="training"')[2].partition("</section>")[0]
    assert "validation RMSE (m, lower is better)" in section
    assert "accuracy" not in section
    bare = make_page(errors, history=History((replace(epochs[0], validation=None),)))
    assert "loss" in re.findall(r"<text[^>]*>([^<]+)</text>", bare.partition('<section id="training"')[2])


def test_unknown_figures_are_sorted_as_unknown():
    rows = (Row("F", 0.5, 400, 9, alone=0.75), Row("T", 0.625, 300, 8))
    page = make_page(TradeOffs(rows, quality=Quality("RMSE", "m", higher_is_better=False)), stages=STAGES[:1])
    assert '<td data-value="0.75">0.750</td>' in page
    assert '<td data-value="">–</td>' in page


# -- charts -----------------------------------------------------------------------------------------------------


def test_every_chart_has_a_text_alternative(page_text):
    charts = [attributes for tag, attributes in Reader(page_text).elements if tag == "svg"]
    assert len(charts) == 5  # latency, multiply-adds, energy, memory; training
    assert {chart["role"] for chart in charts} == {"img"}
    assert '<title id="chart-macs-title">Accuracy against multiply-adds of 8 sub-networks</title>' in page_text
    told = (
        re.search(r'<desc id="chart-latency_ms-desc">([^<]+)<', page_text).group(1).replace("\N{NO-BREAK SPACE}", " ")
    )
    assert told.startswith(
        "On the Pareto front, cheapest first: TTT 80.00 % at 5.00 ms; TTF 85.25 % at 6.00 ms; FTT 88"
    )


def test_a_chart_keeps_its_text_and_brings_no_style_of_its_own(table):
    svg = inline_svg(plot_tradeoffs(table), "one", "<Title>", "<Description>")
    assert svg.startswith("<svg ")
    assert "<style" not in svg
    assert "metadata" not in svg
    assert "&lt;Title&gt;</title>" in svg
    assert re.search(r"<text[^>]*>latency \(ms, batch of 1\)</text>", svg)


@pytest.mark.parametrize(("cost", "divisor"), [("latency_ms", 1), ("macs", 1e6), ("memory_mb", 1)])
def test_places_are_those_of_the_drawing(table, cost, divisor):
    figure = plot_tradeoffs(table, cost=cost, size=(4.8, 3.5))
    svg = inline_svg(figure, "one", "", "")
    costs = {row.skip: getattr(row, cost) / divisor for row in table.rows}
    found = places(figure, costs)
    for skip, (x, y) in found["points"].items():
        group = svg.partition(f'id="one-point-{skip}"')[2].partition("</g>")[0]
        drawn = [float(value) for value in re.search(r'x="([\d.]+)" y="([\d.]+)"', group).groups()]
        assert drawn == pytest.approx([x, y], abs=0.02)
        start, slope = found["line"]
        assert start + slope * costs[skip] == pytest.approx(x, abs=0.05)
        start, slope = found["level"]
        assert start + slope * FIGURES[skip][0] == pytest.approx(y, abs=0.05)
        left, top, right, bottom = found["area"]
        assert left < x < right
        assert top < y < bottom
    assert len(found["points"]) == 8


def test_levels_of_small_numbers_stand_where_they_are_drawn(errors):
    figure = plot_tradeoffs(errors, cost="latency_ms", size=(4.8, 3.5))
    inline_svg(figure, "one", "", "")
    found = places(figure, {row.skip: row.latency_ms for row in errors.rows})
    start, slope = found["level"]
    for row in errors.rows:
        assert start + slope * row.accuracy == pytest.approx(found["points"][row.skip][1], abs=0.05)


def test_equal_costs_have_no_line():
    table = TradeOffs((Row("F", 76.0, 400, 9), Row("T", 75.0, 400, 9)))
    figure = plot_tradeoffs(table, cost="macs")
    inline_svg(figure, "one", "", "")
    assert places(figure, {"F": 0.4, "T": 0.4})["line"] == [0.0, 0.0]
    assert data_of(make_page(table, stages=STAGES[:1]))["charts"]["macs"]["line"] == [0.0, 0.0]


# -- text -------------------------------------------------------------------------------------------------------


def make_text():
    """A profile and a table of a network that writes text: twice the time and the cache for twice the depth."""
    costs = {
        skip: Cost(
            skip, macs, 900, first_token_ms=20 * ms, token_ms=ms, cache_kb=cache, times_ms=(ms - 1, ms, ms + 1) * 3
        )
        for skip, macs, ms, cache in (("FFF", 4_000_000, 20.0, 0.512), ("TTT", 2_000_000, 10.0, 0.256))
    }
    profile = Profile(costs, 2, {"processor": "A processor"}, {}, prompt_tokens=100)
    quality = Quality("perplexity", higher_is_better=False)
    return tradeoffs({"FFF": 12.0, "TTT": 14.0}, profile, quality=quality), profile


def test_a_network_that_writes_text_has_times_rates_and_charts_of_them():
    table, profile = make_text()
    page = make_page(table, profile=profile)
    heads = ["Time per token (ms/token)", "Time to first token (ms)", "Cache per token (kB/token)"]
    heads += ["Prompt tokens/s", "New tokens/s"]
    assert all(head in page for head in heads)
    assert "Latency" not in page
    assert "Text times are for a batch of 2, after a prompt of 100 tokens." in page
    assert "with 10.00\N{NO-BREAK SPACE}ms/token (TTT, the base-net)" in page
    [full, base] = words.rows(table, profile)
    cells = {(cell["name"], cell["text"]): cell for cell in full["cells"]}
    assert cells["token_ms", "20.00"]["more"] == "19.00 to 21.00"
    assert ("rate", "500.0") in cells  # 2 x 100 tokens in 400 ms
    assert [cell["value"] for cell in base["cells"] if cell["name"] == "rate"] == [1000.0, 200.0]
    assert len(full["cells"]) + 1 == len(words.columns(table, profile))
    assert [limit["name"] for limit in data_of(page)["limits"]][:2] == ["token_ms", "first_token_ms"]
    assert set(data_of(page)["charts"]) == {"token_ms", "first_token_ms", "macs", "cache_kb"}
