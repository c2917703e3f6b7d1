"use strict";
// All choices were computed in advance by TradeOffs.best; here they are only looked up and shown.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const limits = new Map(data.limits.map((limit) => [limit.name, { ...limit, value: limit.start }]));
  let current = data.limits[0].name;

  function make(tag, text, className) {
    const element = document.createElement(tag);
    if (text) element.textContent = text;
    if (className) element.className = className;
    return element;
  }

  // -- the choice ---------------------------------------------------------------------------------------------

  const allowed = (limit, value) => Number.isFinite(value) && (limit.above === null || value > limit.above);
  const withUnit = (limit, number) => (limit.unit ? `${number} ${limit.unit}` : `${number}`);

  function choice(limit, value) {
    if (!allowed(limit, value)) return null;
    const meets = limit.steps.filter(([step]) => (limit.atLeast ? step >= value : step <= value));
    const step = limit.atLeast ? meets[0] : meets[meets.length - 1];
    return step ? step[1] : null;
  }

  function update() {
    const limit = limits.get(current);
    const value = limit.value === "" ? NaN : Number(limit.value);
    const skip = choice(limit, value);
    showSlider(limit, value);
    if (skip !== null) show(skip, "Use", limit, value);
    else showNone(limit, value);
  }

  function showJumps(limit) {
    const words = limit.atLeast ? "up to" : "from";
    at("jumps-title").textContent = `Every choice by ${limit.word}`;
    at("jumps-list").replaceChildren(...limit.steps.map(([, skip, enough]) => {
      const button = make("button");
      button.type = "button";
      button.dataset.skip = skip;
      button.append(make("span", skip, "skip"), ` ${words} ${withUnit(limit, enough)}`);
      button.addEventListener("click", () => type(enough));
      const item = make("li");
      item.append(button);
      return item;
    }));
  }

  function showSlider(limit, value) {
    const slider = at("slider");
    if (Number.isFinite(value)) slider.value = value;
    const part = (slider.value - slider.min) / (slider.max - slider.min);
    slider.style.setProperty("--filled", `calc(0.8rem + ${part} * (100% - 1.6rem))`);
    slider.setAttribute("aria-valuetext", `${limit.atLeast ? "at least" : "at most"} ${withUnit(limit, slider.value)}`);
  }

  function setUp(name) {
    current = name;
    const limit = limits.get(name);
    const slider = at("slider");
    for (const property of ["min", "max", "step"]) slider[property] = limit[property];
    slider.classList.toggle("at-least", limit.atLeast);
    const words = limit.atLeast ? "At least" : "At most";
    at("number-label").textContent = words;
    at("number").setAttribute("aria-label", `${limit.title}: ${words.toLowerCase()}`);
    at("number").value = limit.value;
    at("slider-label").textContent = `${limit.title}, ${words.toLowerCase()}`;
    at("unit").textContent = limit.unit;
    at("low").textContent = withUnit(limit, limit.min);
    at("high").textContent = withUnit(limit, limit.max);
    at("stops").replaceChildren(...limit.steps.map(([step]) => {
      const stop = make("span");
      stop.style.left = `${(100 * (step - limit.min)) / (limit.max - limit.min)}%`;
      return stop;
    }));
    showJumps(limit);
    const cost = chartOf(limit);
    for (const figure of all(".plot .chart")) figure.hidden = figure.dataset.cost !== cost;
    showVerdicts(cost);
    update();
  }

  // -- what is shown of it ------------------------------------------------------------------------------------

  function say(empty, verb, chosen, role, explained, lines) {
    const result = at("result");
    const told = JSON.stringify([verb, chosen, role, explained]);
    if (result.dataset.told === told) return; // a screen reader would read it again
    result.dataset.told = told;
    result.classList.toggle("empty", empty);
    at("verb").textContent = verb;
    at("chosen").replaceChildren(chosen, ...(role ? [" ", make("span", role, "role")] : []));
    at("explained").textContent = explained;
    at("facts").replaceChildren(...lines.map(([name, value, compared]) => {
      const line = make("div");
      line.append(make("dt", name), make("dd", value), make("dd", compared));
      return line;
    }));
  }

  function show(skip, verb, limit, value) {
    const { role, lines } = data.facts[skip];
    const skipped = [...skip].flatMap((flag, stage) => (flag === "T" ? [stage] : []));
    const names = skipped.map((stage) => data.stages[stage].name).join(", ");
    const explained = verb === "Use" ? "" : data.verdicts[chartOf(limit)][skip];
    say(false, verb, skip, role, explained, lines);
    const left = skipped.reduce((sum, stage) => sum + data.stages[stage].skippable, 0);
    const total = data.stages.reduce((sum, stage) => sum + stage.skippable + stage.mandatory, 0);
    at("running").textContent = skipped.length
      ? `${skip} runs ${total - left} of ${total} blocks; skipped in ${names}.`
      : `${skip} runs all ${total} blocks.`;
    showStages(skip);
    showRow(skip);
    mark(limit, verb === "Use" ? value : NaN, skip);
  }

  function showNone(limit, value) {
    const wanted = limit.above === null ? "Enter a number." : `Enter a number above ${limit.above}.`;
    const asked = allowed(limit, value) ? limit.none : wanted;
    say(true, "", "None fits", "", asked, []);
    at("running").textContent = "No sub-network is chosen.";
    showStages("");
    showRow(null);
    mark(limit, value, null);
  }

  function showStages(skip) {
    for (const stage of all(".stage")) {
      const flag = skip[stage.dataset.stage];
      const skips = flag === "T";
      stage.classList.toggle("skips", skips);
      stage.querySelector(".stage-letter").textContent = flag || "–";
      const blocks = all(".block", stage);
      const left = all(".block.skippable", stage).length;
      stage.querySelector(".state").textContent = flag ? (skips ? `${left} of ${blocks.length} blocks skipped` : "runs in full") : "not chosen";
      for (const block of all(".block.skippable", stage)) {
        block.classList.toggle("skipped", skips);
        block.querySelector(".said").textContent = skips ? ", skipped" : ", runs";
      }
    }
  }

  function showRow(skip) {
    for (const button of all("#jumps-list button")) button.setAttribute("aria-pressed", button.dataset.skip === skip);
    for (const row of all("#table tbody tr")) {
      const chosen = row.dataset.skip === skip;
      row.querySelector(".flag").textContent = chosen ? " ◂ chosen" : "";
      if (chosen) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
  }

  // -- the chart ----------------------------------------------------------------------------------------------

  const chartOf = (limit) => (limit.onQuality ? data.limits[0].name : limit.name);

  function draw(parent, tag, attributes) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    parent.append(element);
    return element;
  }

  function mark(limit, value, skip) {
    const cost = chartOf(limit);
    const svg = document.querySelector(`.chart[data-cost="${cost}"] svg`);
    for (const old of all(".marked")) old.remove();
    for (const name of ["point-chosen", "covered"]) for (const old of all(`.${name}`)) old.classList.remove(name);
    const layer = draw(svg, "g", { class: "marked", "aria-hidden": "true" });
    const places = data.charts[cost];
    if (Number.isFinite(value)) markLimit(layer, places, limit, value);
    if (skip === null || !places.points[skip]) return;
    const point = svg.querySelector(`[id="chart-${cost}-point-${skip}"]`);
    if (point) point.classList.add("point-chosen");
    for (const text of all("text", svg)) if (text.textContent.trim() === skip) text.classList.add("covered"); // the tag would overlap it
    markPoint(layer, places, skip);
  }

  function markLimit(layer, { area, line, level }, limit, value) {
    const [left, top, right, bottom] = area;
    const [start, slope] = limit.onQuality ? level : line; // a limit on quality is a horizontal line, one on cost vertical
    if (!slope) return;
    const raw = start + slope * value;
    const [low, high] = limit.onQuality ? [top, bottom] : [left, right];
    const place = Math.min(high, Math.max(low, raw));
    const [from, to] = limit.atLeast ? [place, bottom] : [top, place];
    const veil = limit.onQuality
      ? { x: left, y: from, width: right - left, height: to - from }
      : { x: place, y: top, width: right - place, height: bottom - top };
    const ends = limit.onQuality
      ? { x1: left, x2: right, y1: place, y2: place }
      : { x1: place, x2: place, y1: top, y2: bottom };
    draw(layer, "rect", { class: "veil", ...veil });
    draw(layer, "line", { class: "limit-line", ...ends });
  }

  function markPoint(layer, { area, points }, skip) {
    const [x, y] = points[skip];
    const width = 5.6 * skip.length + 8;
    const middle = Math.min(area[2] - width / 2, Math.max(area[0] + width / 2, x));
    const above = y - 24 > area[1];
    draw(layer, "circle", { class: "halo", cx: x, cy: y, r: 7 });
    draw(layer, "rect", { class: "tag", x: middle - width / 2, y: above ? y - 23 : y + 10, width, height: 13, rx: 3 });
    draw(layer, "text", { class: "tag-text", x: middle, y: above ? y - 13.4 : y + 19.6 }).textContent = skip;
  }

  // -- the table ----------------------------------------------------------------------------------------------

  const order = new Intl.Collator("en", { numeric: true });

  function compare(a, b) {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? order.compare(a, b) : x - y;
  }

  function sort(head) {
    const column = head.cellIndex;
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of all("th", head.parentElement)) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0];
    const key = (row) => row.cells[column].dataset.value;
    const rows = [...body.rows].sort((a, b) => (descending ? -1 : 1) * compare(key(a), key(b)));
    const unknown = rows.filter((row) => key(row) === ""); // last in both directions: they are neither least nor most
    body.append(...rows.filter((row) => key(row) !== ""), ...unknown);
    at("sorted").textContent = `Sorted by ${head.textContent.trim()}, ${descending ? "descending" : "ascending"}.`;
  }

  function makeSortable() {
    for (const head of all("#table thead th")) {
      const words = head.querySelector(".plain");
      const button = make("button", words.textContent);
      button.type = "button";
      button.addEventListener("click", () => sort(head));
      words.replaceWith(button);
      head.setAttribute("aria-sort", "none");
    }
    for (const row of all("#table tbody tr")) {
      const name = row.querySelector(".skip");
      const button = make("button", name.textContent, "skip");
      button.type = "button";
      button.title = `Show ${name.textContent}`;
      button.addEventListener("click", () => show(row.dataset.skip, "Showing", limits.get(current), NaN));
      name.replaceWith(button);
      row.cells[0].append(make("span", "", "flag"));
    }
  }

  function showVerdicts(cost) {
    at("verdict-head").querySelector("button").textContent = `Pareto front, ${limits.get(cost).word}`;
    for (const row of all("#table tbody tr")) {
      const words = data.verdicts[cost][row.dataset.skip];
      const cell = row.querySelector(".verdict");
      cell.textContent = words;
      cell.dataset.value = words === data.front ? `0 ${words}` : `1 ${words}`;
      row.dataset.verdict = words === data.front ? "front" : "dominated";
    }
  }

  // -- the start ----------------------------------------------------------------------------------------------

  function type(value) {
    at("number").value = value;
    take(value);
  }

  function take(value) {
    limits.get(current).value = value;
    update();
  }

  function listen() {
    at("slider").addEventListener("input", () => {
      type(Number(at("slider").value).toFixed(limits.get(current).decimals));
    });
    at("number").addEventListener("input", () => take(at("number").value));
    at("number").addEventListener("keydown", (event) => {
      const direction = { ArrowUp: 1, ArrowDown: -1 }[event.key];
      if (!direction) return;
      event.preventDefault(); // the browser's own step is 1, whatever the unit
      const limit = limits.get(current);
      const next = (Number(limit.value) + direction * limit.step).toFixed(limit.decimals);
      type(next);
    });
    at("controls").addEventListener("submit", (event) => event.preventDefault());
    for (const radio of all('input[name="limit"]')) radio.addEventListener("change", () => setUp(radio.value));
  }

  document.documentElement.classList.add("js");
  for (const id of ["controls", "result", "key", "jumps"]) at(id).hidden = false;
  makeSortable();
  listen();
  setUp(current);
})();
