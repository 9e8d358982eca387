// The gallery: what c2amRows was given, ordered, filtered, and drawn a page of cards at a time.
// Texts become text nodes, never markup; nothing is fetched but the pictures of the page shown.
"use strict";

const PAGE_CARDS = 60;
const rows = [];
globalThis.c2amRows = (more) => { for (const row of more) rows.push(row); };

// matplotlib's viridis at nine places, as red, green, blue.
const VIRIDIS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141],
  [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];

const $ = (id) => document.getElementById(id);

function viridis(share) {
  const at = Math.min(share * (VIRIDIS.length - 1), VIRIDIS.length - 1 - 1e-9);
  const low = Math.floor(at);
  return VIRIDIS[low].map((c, i) => c + (at - low) * (VIRIDIS[low + 1][i] - c));
}

// Order. What has no figure stands last, except that an image without box or with an error is
// as wrong as can be.

// Of pseudo masks "found" holds classes and their shares; labels have boxes in its place.
const isEmpty = (row) => (row.found ?? row.boxes).length === 0;
const badness = (row) => row.error !== null ? -2 : isEmpty(row) ? -1 : row.iou;
const ORDERS = {
  place: (row) => row.place,
  worst: badness,
  best: (row) => row.iou === null ? null : -row.iou,
  uncertain: (row) => row.confidence,
  certain: (row) => row.confidence === null ? null : -row.confidence,
  largest: (row) => row.foreground === null ? null : -row.foreground,
  smallest: (row) => row.foreground,
};

function ordered(list, key) {
  const last = (value) => value === null ? Infinity : value;
  return list.map((row) => [last(key(row)), row])
    .sort(([a, x], [b, y]) => a === b ? x.place - y.place : a < b ? -1 : 1)
    .map(([, row]) => row);
}

// Filter

const STATUS = {
  all: () => true,
  hit: (row) => row.iou !== null && row.iou >= 0.5,
  miss: (row) => row.iou !== null && row.iou < 0.5,
  boxless: (row) => row.error === null && isEmpty(row),
  error: (row) => row.error !== null,
};

function bound(id, otherwise) {
  const value = $(id).valueAsNumber;
  return Number.isNaN(value) ? otherwise : value;
}

function kept() {
  const text = $("text").value.trim().toLowerCase();
  const is = STATUS[$("status").value];
  const ranges = ["confidence", "iou", "foreground"]
    .map((key) => [key, bound(`${key}-from`, -Infinity), bound(`${key}-to`, Infinity)])
    .filter(([, from, to]) => from !== -Infinity || to !== Infinity);
  return rows.filter((row) => is(row)
    && (!text || [row.image_id, row.label ?? "", ...(row.found ?? []).map(([name]) => name)]
      .some((name) => name.toLowerCase().includes(text)))
    && ranges.every(([key, from, to]) =>
      row[key] !== null && row[key] >= from && row[key] <= to));
}

// Drawing

function element(name, attributes = {}, ...children) {
  const made = name === "svg" || name === "rect"
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function canvas(grid, name, paint) {
  const made = element("canvas", { class: name, width: grid.width, height: grid.height,
    "aria-hidden": "true" });
  const pixels = made.getContext("2d").createImageData(grid.width, grid.height);
  const bytes = atob(grid.data);
  for (let i = 0; i < bytes.length; i++) pixels.data.set(paint(bytes.charCodeAt(i)), 4 * i);
  made.getContext("2d").putImageData(pixels, 0, 0);
  return made;
}

const heat = (value) => [...viridis(value / 255), 255];
const cover = (value) => [255, 255, 255, value * 0.9];
const grey = (value) => [value, value, value, 255];
function tint(colour) {
  const parts = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return (value) => [...parts, value];
}

function cueOf(row, paint) {
  if (row.cue) return canvas(row.cue, "cue", paint);
  // Where none was stored, the cue is what labeling would store: 1 - map / maximum.
  return canvas(row.map, "cue", (value) => paint(row.peak > 0 ? 255 - value : 255));
}

const hasCue = (row) => row.map !== null || row.cue !== null;

function boxesOf(row, has) {
  const drawing = element("svg", { viewBox: `0 0 ${row.width} ${row.height}`,
    preserveAspectRatio: "none", "aria-hidden": "true" });
  const add = (boxes, kind) => {
    for (const [x0, y0, x1, y1] of boxes) {
      const place = { x: x0, y: y0, width: Math.max(0, x1 - x0), height: Math.max(0, y1 - y0) };
      drawing.append(element("rect", { ...place, class: "rim" }),
        element("rect", { ...place, class: `box ${kind}` }));
    }
  };
  if (has.truths) add(row.truths ?? [], "truth");
  if (has.boxes) add(row.boxes, "pseudo");
  return drawing;
}

function stack(row, has) {
  const shape = row.width / row.height > 4 / 3 ? "wide" : "tall";
  const made = element("span", { class: `stack ${shape}` });
  made.style.aspectRatio = `${row.width} / ${row.height}`;
  const drawn = (src, name) => element("img", { src, class: name, alt: "", loading: "lazy",
    decoding: "async" });
  if (has.bare) made.classList.add("bare");
  else made.append(row.picture ? drawn(row.picture, "picture")
    : element("span", { class: "none" }, "no picture"));
  if (has.mask && row.mask) made.append(drawn(row.mask, "mask"));
  if (has.truth && row.truth) made.append(drawn(row.truth, "mask"));
  for (const each of has.classes ? row.classes : []) {
    made.append(canvas(each.grid, "classmap", tint(each.colour)));
  }
  if (has.map && row.map) made.append(canvas(row.map, "map", heat));
  if (has.grid) made.append(canvas(has.grid, "map", heat));
  if (has.cue && hasCue(row)) made.append(cueOf(row, has.onlyCue ? grey : cover));
  if (has.boxes || has.truths) made.append(boxesOf(row, has));
  return made;
}

const figure = (value) => value === null ? "–" : value.toFixed(2);

function factsOf(row) {
  if (row.error !== null) return row.found ? "has no mask" : "could not be labeled";
  if (!row.found) {
    return (rows.hasTruth ? `IoU ${figure(row.iou)} · ` : "")
      + `confidence ${figure(row.confidence)} · foreground ${figure(row.foreground)}`;
  }
  const names = row.found.map(([name]) => name).join(", ") || "all background";
  return (rows.hasTruth ? `mean IoU ${figure(row.iou)} · ` : "") + names;
}

function card(row, has) {
  const facts = factsOf(row);
  const frame = (content) => element("span", { class: "frame" }, content);
  // Each card has both halves, so that all are of one size.
  const beside = has.truth ? [frame(row.truth ? stack(row, { truth: true })
    : element("span", { class: "none" }, "no annotated mask"))] : [];
  const button = element("button", { type: "button", class: "card", tabindex: "-1" },
    element("span", { class: "frames" }, frame(stack(row, { ...has, truth: false })),
      ...beside),
    element("span", { class: "caption" }, element("b", {}, row.image_id), " ",
      row.label === null || row.found ? "" : `${row.label} · `, facts));
  return element("li", {}, button);
}

// State

let shown = [];
let page = 0;
let opened = -1;
const switches = () => [...document.querySelectorAll("[data-layer]")];
const layers = () => Object.fromEntries(switches().map((e) => [e.dataset.layer, e.checked]));
const numPages = () => Math.max(1, Math.ceil(shown.length / PAGE_CARDS));
const cards = () => [...document.querySelectorAll("#cards .card")];

function select() {
  shown = ordered(kept(), ORDERS[$("order").value]);
  turn(0);
}

function turn(to) {
  page = Math.min(Math.max(0, to), numPages() - 1);
  const start = page * PAGE_CARDS, has = layers();
  const visible = shown.slice(start, start + PAGE_CARDS);
  $("cards").replaceChildren(...visible.map((row) => card(row, has)));
  $("cards").start = start + 1;
  cards()[0]?.setAttribute("tabindex", "0");
  const missing = Number($("gallery").dataset.numRows) - rows.length;
  $("count").textContent = (shown.length === 0 ? `No image of ${rows.length} matches` :
    `Images ${start + 1} to ${start + visible.length} of ${shown.length}`
      + (shown.length < rows.length ? ` that match, of ${rows.length}` : ""))
    + (missing ? `. ${missing} could not be loaded: a file of the report is missing` : "");
  $("page").value = page + 1;
  $("page").max = numPages();
  $("pages").textContent = `of ${numPages()}`;
  $("previous").disabled = page === 0;
  $("next").disabled = page === numPages() - 1;
}

function focusCard(index) {
  const all = cards();
  const target = all[Math.min(Math.max(0, index), all.length - 1)];
  for (const each of all) each.setAttribute("tabindex", each === target ? "0" : "-1");
  target?.focus();
}

// The card that lies so many places from another, on the page before or after if need be.
function go(from, by) {
  const index = page * PAGE_CARDS + from + by;
  if (index < 0 || index >= shown.length) return;
  const to = Math.floor(index / PAGE_CARDS);
  if (to !== page) turn(to);
  focusCard(index - to * PAGE_CARDS);
}

function onCardKey(event) {
  const all = cards(), at = all.indexOf(event.target.closest(".card"));
  if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
  const columns = all.filter((each) => each.offsetTop === all[0].offsetTop).length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (step) go(at, step);
  else if (event.key === "Home") focusCard(0);
  else if (event.key === "End") focusCard(all.length - 1);
  else if (event.key === "PageUp" || event.key === "PageDown") {
    turn(page + (event.key === "PageDown" ? 1 : -1));
    focusCard(at);
  } else return;
  event.preventDefault();
}

// One image

const panel = (text, content) => element("figure", {},
  element("div", { class: "frame" }, content), element("figcaption", {}, text));

function labelPanels(row) {
  const only = (has) => stack(row, has);
  return [
    panel("image", only({})),
    ...(row.map ? [panel("activation map", only({ map: true }))] : []),
    ...(hasCue(row) ? [panel("background cue (white is background)",
      only({ cue: true, onlyCue: true }))] : []),
    ...row.factors.map(([text, grid]) => panel(text, only({ grid }))),
    ...row.classes.map((each) => panel(`map of ${each.name}`,
      stack({ ...row, classes: [each] }, { bare: true, classes: true }))),
    panel("pseudo boxes (solid), ground truth (dashed)", only({ boxes: true, truths: true }))];
}

function maskPanels(row) {
  const only = (has) => stack(row, has);
  return [
    panel("image", only({})),
    ...(row.mask ? [panel("pseudo mask over the image", only({ mask: true })),
      panel("pseudo mask", only({ bare: true, mask: true }))] : []),
    ...(row.truth ? [panel("annotated mask", only({ bare: true, truth: true }))] : [])];
}

const labelFacts = (row) => ({ "class": row.label, "class of the map": row.shows,
  "size": `${row.width} × ${row.height} px`,
  "IoU of the first box": figure(row.iou), "confidence": figure(row.confidence),
  "foreground fraction": figure(row.foreground), "threshold": figure(row.threshold),
  "scores of the boxes": row.scores.map(figure).join(", ") || "no box" });

const maskFacts = (row) => ({ "classes of the image": row.label,
  "size": `${row.width} × ${row.height} px`, "mean IoU": figure(row.iou),
  "shares of the mask": row.found
    .map(([name, share]) => `${name} ${(100 * share).toFixed(1)} %`).join(", ") || "all background",
  "classes that competed": row.competed, "background": row.background,
  "threshold": row.threshold === null ? null : figure(row.threshold),
  "refinement": row.refinement });

function open(index) {
  opened = index;
  const row = shown[index];
  $("detail-title").textContent = row.image_id;
  $("panels").replaceChildren(...(row.found ? maskPanels(row) : labelPanels(row)));
  const facts = { ...(row.found ? maskFacts(row) : labelFacts(row)),
    "shard": row.shard, "error": row.error };
  $("facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value !== null)
    .flatMap(([key, value]) => [element("dt", {}, key), element("dd", {}, value)]));
  $("detail-previous").disabled = index === 0;
  $("detail-next").disabled = index === shown.length - 1;
  if (!$("detail").open) $("detail").showModal();
  $("detail-title").focus();
}

function openBy(by) {
  const index = opened + by;
  if (index < 0 || index >= shown.length) return;
  turn(Math.floor(index / PAGE_CARDS));
  open(index);
}

function begin() {
  if (!$("gallery")) return;
  rows.hasTruth = rows.some((row) => (row.truths ?? []).length > 0 || row.iou !== null);
  const isThere = { iou: rows.hasTruth, confidence: rows.some((row) => row.confidence !== null) };
  for (const each of document.querySelectorAll("[data-needs=iou], [data-needs=confidence]")) {
    each.hidden = each.disabled = !isThere[each.dataset.needs];
  }
  $("order").value = $("gallery").dataset.order;
  const inputs = ["confidence", "iou", "foreground"].flatMap((k) => [`${k}-from`, `${k}-to`]);
  for (const id of ["order", "status", "text", ...inputs]) $(id).addEventListener("input", select);
  for (const each of switches()) each.addEventListener("change", () => turn(page));
  $("reset").addEventListener("click", () => {
    for (const id of ["text", ...inputs]) $(id).value = "";
    $("status").value = "all";
    $("order").value = $("gallery").dataset.order;
    select();
  });
  $("previous").addEventListener("click", () => turn(page - 1));
  $("next").addEventListener("click", () => turn(page + 1));
  $("page").addEventListener("change", () => turn((Math.round($("page").valueAsNumber) || 1) - 1));
  $("cards").addEventListener("keydown", onCardKey);
  $("cards").addEventListener("click", (event) => {
    const at = cards().indexOf(event.target.closest(".card"));
    if (at >= 0) { focusCard(at); open(page * PAGE_CARDS + at); }
  });
  $("detail-previous").addEventListener("click", () => openBy(-1));
  $("detail-next").addEventListener("click", () => openBy(1));
  $("detail-close").addEventListener("click", () => $("detail").close());
  $("detail").addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { openBy(by); event.preventDefault(); }
  });
  $("detail").addEventListener("close", () => focusCard(opened - page * PAGE_CARDS));
  select();
}

document.addEventListener("DOMContentLoaded", begin);
