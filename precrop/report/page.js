"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const element = (id) => document.getElementById(id);
const unique = (values) => [...new Set(values)];
const symbols = { dense: "diamond", cropped: "circle", masked: "triangle-up" };
const chosen = { budgets: null, variants: null };

function theme() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["text", "quiet", "line", "pale", "card"].map((n) => [n, style.getPropertyValue(`--${n}`).trim()]));
}

function make(tag, text, kind) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

// The three selects lead from one to the next: each lists what the ones before it leave.

const ladder = ["network", "data", "recipe"];

function fillSelects() {
  let left = content.groups;
  for (const name of ladder) {
    const select = element(name);
    const values = unique(left.map((group) => group[name]));
    const value = values.includes(select.value) ? select.value : values[0];
    select.replaceChildren(...values.map((v) => new Option(v, v, false, v === value)));
    left = left.filter((group) => group[name] === value);
  }
}

function inSetting() {
  return content.groups.filter((group) => ladder.every((name) => group[name] === element(name).value));
}

function fillChips(id, name) {
  const box = element(id);
  const values = unique(inSetting().map((group) => group[name]));
  const legend = box.querySelector("legend");
  const chips = values.map((value) => {
    const chip = make("label", undefined, "chip");
    const input = make("input");
    Object.assign(input, { type: "checkbox", value, checked: chosen[id] === null || !chosen[id].has(value) });
    input.addEventListener("change", () => {
      chosen[id] ??= new Set();
      chosen[id][input.checked ? "delete" : "add"](value);
      draw();
    });
    chip.append(input);
    if (id === "variants") {
      const dot = make("span", undefined, "dot");
      dot.style.background = content.colors[value];
      chip.append(dot);
    }
    chip.append(make("span", value));
    return chip;
  });
  box.replaceChildren(legend, ...chips);
}

const dropped = (id, value) => chosen[id] !== null && chosen[id].has(value);
const kept = (group) => !dropped("budgets", group.budget) && !dropped("variants", group.variant);

// Charts.

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const color = (group) => content.colors[group.variant];
const hover = (group, run) =>
  `${escaped(group.variant)}, ${escaped(group.budget)}<br>seed ${run.seed}: ${run.accuracy.toFixed(2)}%<br>` +
  `${run.params.toLocaleString("en")} parameters, ${run.macs.toLocaleString("en")} MACs<br>run ${escaped(run.id)}`;

function layout(changes) {
  const { text, quiet, line } = theme();
  const axis = { gridcolor: line, linecolor: line, zeroline: false, tickfont: { color: quiet }, automargin: true };
  const { xaxis, yaxis, ...rest } = changes;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: text, size: 12 },
    margin: { l: 10, r: 16, t: 30, b: 36 }, hovermode: "closest", showlegend: false,
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}

function titled(text) {
  return { text: escaped(text), x: 0.005, xanchor: "left", y: 0.98, yanchor: "top", font: { size: 13 } };
}

const settings = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

function plot(box, traces, how) {
  const place = make("div", undefined, "chart");
  box.append(place);
  Plotly.newPlot(place, traces, layout(how), settings);
}

function empty(id) {
  const box = element(id);
  box.querySelectorAll(".js-plotly-plot").forEach((place) => Plotly.purge(place));
  box.replaceChildren();
  return box;
}

// A box without a chart takes its section along.
function show(id) {
  const box = element(id);
  box.closest("section").hidden = box.childElementCount === 0;
}

function byBudget(groups) {
  return unique(groups.map((group) => group.budget)).map((budget) => groups.filter((group) => group.budget === budget));
}

// Names of runs that are close to each other go to different sides.
const rowSides = ["top left", "bottom center", "top right", "bottom left", "top center", "bottom right"];
const columnSides = ["middle right", "middle left"];

// Names stand close to their points: a mark of the mean among them has to be short.
const meanSize = (size) => (element("hashes").checked ? 5 : size);

function named(trace, group, sides) {
  const ranks = group.runs.map((run) => group.runs.filter((other) => other.accuracy < run.accuracy).length);
  const textposition = ranks.map((rank) => sides[rank % sides.length]);
  return element("hashes").checked ? { ...trace, mode: "markers+text", textposition } : trace;
}

function runsOf(group, x, y) {
  return {
    type: "scatter", mode: "markers", name: escaped(group.variant), x: group.runs.map(x), y: group.runs.map(y),
    text: group.runs.map((run) => escaped(run.id)), textfont: { size: 9, color: theme().quiet },
    hovertext: group.runs.map((run) => hover(group, run)), hoverinfo: "text", cliponaxis: false,
    marker: { color: color(group), symbol: symbols[group.kind], size: 8, opacity: 0.85 },
  };
}

function drawAccuracy(groups) {
  const box = empty("accuracy");
  const all = groups.flatMap((group) => group.runs.map((run) => run.accuracy));
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const room = Math.max(0.25, (element("hashes").checked ? 0.12 : 0.05) * (high - low));
  for (const part of byBudget(groups)) {
    const traces = part.flatMap((group) => [
      {
        type: "scatter", mode: "markers", x: [group.mean], y: [escaped(group.variant)], hoverinfo: "text",
        hovertext: [`${escaped(group.variant)}: ${group.accuracy}, n = ${group.runs.length}`],
        error_x: { type: "data", array: [group.deviation ?? 0], color: color(group), thickness: 1.5, width: 5 },
        marker: { color: color(group), symbol: "line-ns-open", size: meanSize(15), line: { width: 3 } },
      },
      named(runsOf(group, (run) => run.accuracy, () => escaped(group.variant)), group, rowSides),
    ]);
    plot(box, traces, {
      title: titled(part[0].budget), height: 76 + part.length * (element("hashes").checked ? 42 : 27),
      margin: { l: beside(groups), r: 16, t: 30, b: 36 },
      xaxis: { range: [low - room, high + room], ticksuffix: "%" },
      yaxis: { autorange: "reversed", ticks: "", type: "category" },
    });
  }
  show("accuracy");
}

function drawSize(id, groups, share, title) {
  const traces = groups.map((group) => ({ ...runsOf(group, (run) => 100 * run[share], (run) => run.accuracy), showlegend: false }));
  traces.forEach((trace) => Object.assign(trace.marker, { size: 5, opacity: 0.6 }));
  for (const variant of unique(groups.map((group) => group.variant))) {
    const own = groups.filter((group) => group.variant === variant).sort((a, b) => a[share] - b[share]);
    traces.push({
      type: "scatter", mode: "lines+markers", name: escaped(variant), x: own.map((g) => 100 * g[share]), y: own.map((g) => g.mean),
      error_y: { type: "data", array: own.map((g) => g.deviation ?? 0), color: color(own[0]), thickness: 1.2, width: 4 },
      hoverinfo: "text", hovertext: own.map((g) => `${escaped(variant)}, ${escaped(g.budget)}<br>${g.accuracy}, n = ${g.runs.length}`),
      line: { color: color(own[0]), width: 1.5 }, marker: { color: color(own[0]), symbol: symbols[own[0].kind], size: 9 },
    });
  }
  const shares = groups.map((group) => group[share]);
  const far = Math.max(...shares) > 3 * Math.min(...shares);
  plot(empty(id), traces, {
    height: 400, margin: { l: 10, r: 12, t: 12, b: 40 },
    xaxis: { title: { text: title }, type: far ? "log" : "linear", ...(far ? ticks(shares) : {}) },
    yaxis: { ticksuffix: "%" },
  });
  show(id);
}

// One margin for all charts of a kind, so that their axes stand below each other.
function beside(groups) {
  const longest = Math.max(...groups.map((group) => group.variant.length));
  return Math.min(300, 16 + 6.8 * longest);
}

// Round numbers all over a logarithmic axis.
function ticks(shares) {
  const all = [-2, -1, 0, 1, 2, 3].flatMap((power) => [1, 2, 3, 5].map((digit) => digit * 10 ** power));
  const [low, high] = [60 * Math.min(...shares), 160 * Math.max(...shares)];
  return { tickmode: "array", tickvals: all.filter((value) => low <= value && value <= high) };
}

function drawWidths(groups) {
  const box = empty("widths");
  for (const part of byBudget(groups.filter((group) => group.kind === "cropped"))) {
    const layers = Object.keys(part[0].widths);
    const traces = [];
    const original = part[0].original;
    if (Object.keys(original).length) traces.push(steps("original", layers, original, theme().quiet, "dot"));
    for (const group of part) traces.push(steps(escaped(group.variant), layers, group.widths, color(group), "solid"));
    overDepth(box, traces, part[0].budget, { yaxis: { title: { text: "output channels" }, rangemode: "tozero" } });
  }
  show("widths");
}

function drawDensities(groups) {
  const box = empty("densities");
  for (const part of byBudget(groups.filter((group) => group.kind !== "dense"))) {
    const layers = unique(part.flatMap((group) => Object.keys(group.densities)));
    const traces = part.map((group) =>
      steps(escaped(group.variant), layers, group.densities, color(group), group.kind === "masked" ? "dash" : "solid"));
    overDepth(box, traces, part[0].budget, { yaxis: { title: { text: "density" }, type: "log", dtick: "D2", tickformat: ".3~g" } });
  }
  show("densities");
}

function steps(name, layers, values, stroke, dash) {
  return {
    type: "scatter", mode: "lines+markers", name, x: layers.map((_, index) => index + 1), y: layers.map((layer) => values[layer] ?? null),
    hovertext: layers.map((layer) => `${name}<br>${escaped(layer)}: ${(values[layer] ?? NaN).toPrecision(3)}`), hoverinfo: "text",
    line: { color: stroke, width: 1.6, dash, shape: "hvh" }, marker: { color: stroke, size: 5 },
  };
}

function overDepth(box, traces, budget, how) {
  const few = Math.max(...traces.map((trace) => trace.x.length)) <= 24;
  plot(box, traces, {
    title: titled(budget), height: 300, showlegend: true, legend: { font: { size: 11 } },
    xaxis: { title: { text: "layer, in the order of execution" }, ...(few ? { dtick: 1 } : {}) }, ...how,
  });
}

function drawGranularity(groups) {
  const box = empty("granularity");
  const shown = new Set(groups.map((group) => group.index));
  for (const family of content.families) {
    const members = family.map((index) => content.groups[index]).filter((group) => shown.has(group.index));
    if (!shown.has(family[0]) || members.length < 2) continue;
    const names = members.map((group) => `${escaped(group.unit)}<br>${escaped(group.variant)}`);
    const traces = members.flatMap((group, index) => [
      {
        type: "scatter", mode: "markers", x: [names[index]], y: [group.mean], hoverinfo: "text", hovertext: [group.accuracy],
        error_y: { type: "data", array: [group.deviation ?? 0], color: color(group), thickness: 1.5, width: 6 },
        marker: { color: color(group), symbol: "line-ew-open", size: meanSize(18), line: { width: 3 } },
      },
      named(runsOf(group, () => names[index], (run) => run.accuracy), group, columnSides),
    ]);
    const middle = members[0].mean;
    plot(box, traces, {
      title: titled(`${members[0].variant}, ${members[0].budget}`), height: 320,
      xaxis: { type: "category" }, yaxis: { ticksuffix: "%" },
      shapes: [{
        type: "rect", xref: "paper", x0: 0, x1: 1, y0: middle - content.margin, y1: middle + content.margin,
        fillcolor: theme().pale, line: { width: 0 }, layer: "below",
      }],
    });
  }
  show("granularity");
}

function drawTimes(groups) {
  const box = empty("times");
  const timed = groups.filter((group) => group.epoch_seconds !== null);
  for (const part of byBudget(timed)) {
    const trace = {
      type: "bar", orientation: "h", x: part.map((group) => group.epoch_seconds), y: part.map((group) => escaped(group.variant)),
      marker: { color: part.map(color) }, text: part.map((group) => `${group.epoch_seconds.toFixed(1)} s`), textposition: "outside",
      cliponaxis: false, hoverinfo: "text", hovertext: part.map((group) => escaped(group.devices.join(", "))),
    };
    plot(box, [trace], {
      title: titled(part[0].budget), height: 76 + 27 * part.length, margin: { l: beside(timed), r: 50, t: 30, b: 30 },
      xaxis: { range: [0, 1.02 * Math.max(...timed.map((group) => group.epoch_seconds))], ticksuffix: " s" },
      yaxis: { autorange: "reversed", ticks: "", type: "category" },
    });
  }
  show("times");
}

// Tables.

function table(id, heads, rows) {
  const cells = (tag, values) => values.map((value, index) => {
    const cell = make(tag, undefined, heads[index].endsWith("#") ? "number" : "");
    cell.append(value);
    return cell;
  });
  const head = make("tr");
  head.append(...cells("th", heads.map((text) => text.replace("#", ""))));
  const body = rows.map((values) => {
    const row = make("tr");
    row.append(...cells("td", values));
    return row;
  });
  element(id).replaceChildren(head, ...body);
}

const whole = (share) => `${(100 * share).toFixed(1)}%`;

function drawTables(groups) {
  table(
    "groups",
    ["variant", "accuracy, %#", "n#", "budget", "parameters#", "MACs#", "runs"],
    groups.map((g) => [
      g.variant, g.accuracy, String(g.runs.length), g.budget, `${g.params} (${whole(g.params_share)})`,
      `${g.macs} (${whole(g.macs_share)})`, make("code", g.runs.map((run) => run.id).join(" ")),
    ]),
  );
  table(
    "runs",
    ["run", "study", "budget", "variant", "seed#", "accuracy, %#", "parameters#", "MACs#", "seconds#"],
    groups.flatMap((g) => g.runs.map((run) => [
      make("code", run.id), run.study, g.budget, g.variant, String(run.seed), run.accuracy.toFixed(2),
      run.params.toLocaleString("en"), run.macs.toLocaleString("en"), run.seconds.toFixed(1),
    ])),
  );
}

function draw() {
  const groups = inSetting().filter(kept);
  element("nothing").hidden = groups.length > 0;
  drawAccuracy(groups);
  for (const [id, title] of [["params", "parameters, % of the original"], ["macs", "multiply-accumulates, % of the original"]]) {
    if (groups.length) drawSize(id, groups, `${id}_share`, title);
    else { empty(id); show(id); }
  }
  drawWidths(groups);
  drawDensities(groups);
  drawGranularity(groups);
  drawTimes(groups);
  drawTables(groups);
}

function change() {
  fillSelects();
  fillChips("budgets", "budget");
  fillChips("variants", "variant");
  draw();
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
}

const dark = matchMedia("(prefers-color-scheme: dark)");
setTheme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => { setTheme(dark.matches ? "dark" : "light"); draw(); });
element("theme").addEventListener("click", () => {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  draw();
});
for (const name of ladder) element(name).addEventListener("change", change);
element("hashes").addEventListener("change", draw);
change();
document.documentElement.dataset.ready = "true";
