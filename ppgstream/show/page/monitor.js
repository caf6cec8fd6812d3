"use strict";
// The page of `ppgstream monitor --web`. It gets facts over a WebSocket and draws them; it sends nothing but which stream to show.

const SECONDS = 8, FRAME_MS = 33, SURE = 0.5, GOOD = 0.8;
const FLAGS = [[128, "lead-off"], [4, "not a number"], [32, "shed"], [4096, "wrong rate"], [256, "outlier"], [2, "clipped"],
  [1, "flat"], [8, "gap"], [512, "step"], [16, "as it came"], [1024, "interference"], [8192, "hum"], [16384, "breathing"]];
const at = (id) => document.getElementById(id);
const plot = at("plot"), pen = plot.getContext("2d");
const wave = { stream: "", session: "", fs: 0, clean: new Map(), raw: new Map(), confidence: new Map(), flags: new Map(), beats: [], end: 0,
  shown: 0 };
let socket = null, drawn = 0, frames = 0;

function choose(change) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(change));
}

function connect() {
  socket = new WebSocket(`ws://${location.host}/`);
  socket.onopen = () => choose({ sort: at("sort").value, like: at("like").value });
  socket.onmessage = (event) => {
    const told = JSON.parse(event.data);
    if (at("frozen").checked) return;
    if (told.kind === "status") showStatus(told);
    else if (told.stream === wave.stream) take(told);
  };
  socket.onclose = () => {
    at("state").textContent = "the monitor is gone; trying again";
    setTimeout(connect, 1000);
  };
}

function element(tag, text, style) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (style) made.className = style;
  return made;
}

function showStatus(told) {
  at("state").textContent = told.state;
  at("alarms").replaceChildren(...told.alarms.map(([text, grave]) => element("li", text, grave ? "grave" : "")));
  at("facts").replaceChildren(...told.facts.map(([name, value]) => {
    const pair = document.createElement("div");
    pair.append(element("dt", name), element("dd", value));
    return pair;
  }));
  at("rows").replaceChildren(...told.rows.map((row) => {
    const line = document.createElement("tr");
    line.append(element("td", row.name), element("td", row.state, row.trouble ? "bad" : "unsure"), element("td", row.rate),
      element("td", row.lag), element("td", row.confidence), element("td", row.heart, row.sure ? "" : "unsure"),
      element("td", row.lost));
    line.className = (row.name === told.chosen ? "chosen " : "") + (row.ended ? "ended" : "");
    line.onclick = () => choose({ stream: row.name });
    return line;
  }));
  at("more").textContent = told.more ? `and ${told.more} more` : "";
  if (told.chosen !== wave.stream) clear(told.chosen);
  at("name").textContent = told.chosen || "no stream";
  at("rate").textContent = told.heart;
  if (told.trace) {
    const first = told.trace.stop - told.trace.raw.length;
    told.trace.raw.forEach((value, k) => wave.raw.set(first + k, value));
    if (!wave.end) take({ index: first, ...told.trace });
  }
}

function clear(stream) {
  Object.assign(wave, { stream, session: "", fs: 0, end: 0, shown: 0, beats: [] });
  for (const part of [wave.clean, wave.raw, wave.confidence, wave.flags]) part.clear();
}

function take(told) {
  if (told.kind === "beats") {
    told.at.forEach((index, k) => wave.beats.push([index, told.confidence[k]]));
    wave.beats = wave.beats.slice(-100);
    return;
  }
  const another = told.session && wave.session && told.session !== wave.session;
  if (wave.fs && (another || told.fs !== wave.fs || told.index < wave.end - SECONDS * wave.fs)) clear(wave.stream);
  wave.fs = told.fs;
  wave.session = told.session || wave.session;
  told.clean.forEach((value, k) => {
    wave.clean.set(told.index + k, value);
    wave.confidence.set(told.index + k, told.confidence[k]);
    wave.flags.set(told.index + k, told.flags[k]);
  });
  wave.end = Math.max(wave.end, told.index + told.clean.length);
  const oldest = wave.end - 2 * SECONDS * wave.fs;
  for (const part of [wave.clean, wave.raw, wave.confidence, wave.flags]) {
    for (const index of part.keys()) {
      if (index >= oldest) break;
      part.delete(index);
    }
  }
}

function draw(now) {
  requestAnimationFrame(draw);
  if (now - drawn < FRAME_MS - 4) return;
  const passed = Math.min((now - drawn) / 1000, 0.25);
  drawn = now;
  const ratio = devicePixelRatio || 1, width = plot.clientWidth, height = plot.clientHeight;
  if (plot.width !== Math.round(width * ratio)) {
    plot.width = Math.round(width * ratio);
    plot.height = Math.round(height * ratio);
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  if (!wave.fs || !wave.end) return;
  frames += 1;
  plot.dataset.frames = frames;
  if (!at("frozen").checked) {
    // Samples come in parts: the picture moves on evenly behind the newest one.
    wave.shown = Math.max(wave.shown + passed * wave.fs, wave.end - 1.5 * wave.fs);
    wave.shown = Math.min(wave.shown, wave.end);
  }
  const style = getComputedStyle(document.documentElement), colours = new Map();
  const colour = (name) => {
    if (!colours.has(name)) colours.set(name, style.getPropertyValue(name));
    return colours.get(name);
  };
  const n = SECONDS * wave.fs, first = Math.floor(wave.shown - n), margin = 72, bottom = 46;
  const x = (index) => margin + (index - (wave.shown - n)) / n * (width - margin - 8);
  const values = [];
  for (let k = first; k < wave.shown; k++) {
    for (const part of [wave.clean, wave.raw]) {
      const value = part.get(k);
      if (value !== undefined && value !== null) values.push(value);
    }
  }
  if (!values.length) return;
  values.sort((a, b) => a - b);
  let low = values[Math.floor(0.005 * (values.length - 1))], high = values[Math.ceil(0.995 * (values.length - 1))];
  if (low === high) [low, high] = [low - 1, high + 1];  // a flat line lies in the middle
  const y = (value) => 12 + (high - value) / ((high - low) || 1) * (height - bottom - 20);
  pen.font = "12px system-ui, sans-serif";
  pen.fillStyle = colour("--dim");
  pen.textAlign = "right";
  for (const value of [low, (low + high) / 2, high]) pen.fillText(number(value, high - low), margin - 8, y(value) + 4);
  pen.textAlign = "center";
  for (let s = 0; s <= SECONDS; s += 2) pen.fillText(s ? `-${s} s` : "now", Math.min(x(wave.shown - s * wave.fs), width - 16), height - 6);
  line(wave.raw, first, x, y, colour("--raw"), 1);
  line(wave.clean, first, x, y, colour("--clean"), 2);
  for (const [index, sure] of wave.beats) {
    if (index < first || index > wave.shown) continue;
    pen.fillStyle = colour("--front");
    pen.globalAlpha = sure >= SURE ? 1 : 0.3;
    pen.fillRect(x(index) - 1, height - bottom, 2, 8);
  }
  pen.globalAlpha = 1;
  let there = 0;
  for (let k = Math.max(first, 0); k < wave.shown; k++) {
    const sure = wave.confidence.get(k);
    if (sure === undefined) continue;
    there |= wave.flags.get(k);
    pen.fillStyle = colour(sure >= GOOD ? "--good" : sure >= SURE ? "--some" : "--bad");
    pen.fillRect(x(k), height - bottom + 24 - 14 * sure, x(k + 1) - x(k) + 0.5, Math.max(14 * sure, 1));
  }
  at("flags").textContent = FLAGS.filter(([bit]) => there & bit).map(([, name]) => name).join(", ");
  at("flags").hidden = !at("flags").textContent;
}

function line(part, first, x, y, colour, width) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.beginPath();
  let open = false;
  for (let k = first; k < wave.shown; k++) {
    const value = part.get(k);
    if (value === undefined || value === null) {
      open = false;
    } else {
      open ? pen.lineTo(x(k), y(value)) : pen.moveTo(x(k), y(value));
      open = true;
    }
  }
  pen.stroke();
}

function number(value, span) {
  const digits = span > 0 ? Math.min(Math.max(0, 2 - Math.floor(Math.log10(span))), 6) : 2;
  return Math.abs(value) < 1e9 ? value.toLocaleString("en", { maximumFractionDigits: digits }) : value.toExponential(2);
}

at("sort").onchange = () => choose({ sort: at("sort").value });
at("like").oninput = () => choose({ like: at("like").value });
document.querySelector("form").onsubmit = (event) => event.preventDefault();
connect();
requestAnimationFrame(draw);
