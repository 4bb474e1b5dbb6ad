"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const element = (id) => document.getElementById(id);
const unique = (values) => [...new Set(values)];
const rows = [...document.querySelectorAll("tr[data-setting]")];
const sections = [...document.querySelectorAll("section[data-figure]")];
const ladder = ["network", "data", "recipe"];
const dropped = { budget: new Set(), variant: new Set() };
const kept = (row) => !dropped.budget.has(row.budget) && !dropped.variant.has(row.variant);
// Charts are drawn without compiling code, so that the page's policy can forbid it.
const options = {
  ast: true, renderer: "svg", tooltip: { disableDefaultStyle: true },
  actions: { export: true, source: false, compiled: false, editor: false },
};
// Vega-Lite warns that rows of several layers of one chart may not be the same ones: they are.
const warn = console.warn;
console.warn = (...said) => said.join(" ").includes("faceted independent scales") || warn(...said);

// The three selects lead from one to the next: each lists what the ones before it leave.
function choose() {
  let left = content.settings;
  for (const name of ladder) {
    const select = element(name);
    const values = unique(left.map((setting) => setting[name]));
    const value = values.includes(select.value) ? select.value : values[0];
    select.replaceChildren(...values.map((v) => new Option(v, v, false, v === value)));
    left = left.filter((setting) => setting[name] === value);
  }
  return left[0];
}

const inSetting = (setting) => rows.filter((row) => row.dataset.setting === String(content.settings.indexOf(setting)));

function chip(name, value) {
  const made = document.createElement("label");
  const input = document.createElement("input");
  made.className = "chip";
  Object.assign(input, { type: "checkbox", value, checked: !dropped[name].has(value) });
  input.addEventListener("change", () => {
    dropped[name][input.checked ? "delete" : "add"](value);
    show();
  });
  const dot = document.createElement("span");
  if (name === "variant") Object.assign(dot, { className: "dot" }).style.background = content.colors[value];
  made.append(input, dot, value);
  return made;
}

async function draw(section, figure) {
  const parts = Object.entries(figure?.chart.datasets ?? {}).map(([name, all]) => [name, all.filter(kept)]);
  section.hidden = !parts.some(([, left]) => left.length);
  const place = section.querySelector(".chart");
  place.view?.finalize();
  if (section.hidden) return place.replaceChildren();
  section.querySelector("p").textContent = figure.caption;
  const params = figure.chart.params?.map((param) => ({ ...param, value: element(param.name).checked }));
  const chart = { ...figure.chart, params, datasets: Object.fromEntries(parts), background: "transparent" };
  place.view = await vegaEmbed(place, chart, options);
}

let last = Promise.resolve();

function show() {
  const setting = choose();
  const here = inSetting(setting);
  for (const row of rows) row.hidden = !(here.includes(row) && kept(row.dataset));
  element("nothing").hidden = rows.some((row) => !row.hidden);
  for (const name of ["budget", "variant"]) {
    const box = element(name);
    const values = unique(here.map((row) => row.dataset[name]));
    box.replaceChildren(box.querySelector("legend"), ...values.map((value) => chip(name, value)));
  }
  const page = document.documentElement.dataset;
  delete page.ready;
  last = last.then(async () => {
    for (const section of sections) await draw(section, setting.figures[section.dataset.figure]);
    page.ready = "true";
  });
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const setTheme = (isDark) => (document.documentElement.dataset.theme = isDark ? "dark" : "light");
setTheme(dark.matches);
dark.addEventListener("change", () => setTheme(dark.matches));
element("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "light"));
for (const id of [...ladder, "hashes"]) element(id).addEventListener("change", show);
show();
