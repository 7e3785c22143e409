"use strict";
const at = (id) => document.getElementById(id);
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString();
const COLOURS = ["#4363d8", "#e6194b", "#3cb44b", "#f58231", "#911eb4", "#888888"];
let shown = null, loading = false, last = 0;

function rows(list, pairs) {
  list.replaceChildren(...pairs.flatMap(([name, value, kind]) => {
    const term = document.createElement("dt"), said = document.createElement("dd");
    term.textContent = name;
    said.textContent = value;
    if (kind) said.className = kind;
    return [term, said];
  }));
}

function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

function plot(channels) {
  at("series").replaceChildren(...channels.map((values, i) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("points", values.map((v, k) => `${(k * 360 / (values.length - 1)).toFixed(1)},${(115 - v * 110).toFixed(1)}`).join(" "));
    line.setAttribute("fill", "none");
    line.setAttribute("stroke", COLOURS[i % COLOURS.length]);
    line.setAttribute("stroke-width", "1.5");
    return line;
  }));
}

function picture(number) {
  if (number === null || number === shown || loading) return;
  loading = true;
  const next = new Image();
  next.onload = () => { at("picture").src = next.src; at("picture").hidden = false; shown = number; loading = false; };
  next.onerror = () => { shown = number; loading = false; };
  next.src = `/page/picture?${number}`;
}

function figures(now) {
  const pairs = [["Answered", now.answered.toLocaleString()]];
  if (now.p50 !== null) pairs.push(["Inference, half below", `${now.p50.toFixed(1)} ms`], ["95 % below", `${now.p95.toFixed(1)} ms`]);
  pairs.push(["Waiting for inference", now.queue]);
  pairs.push(["Refused", now.refused.toLocaleString(), now.refused ? "warn" : ""], ["Dropped", now.dropped.toLocaleString(), now.dropped ? "bad" : ""]);
  for (const [where, count] of Object.entries(now.outputs)) pairs.push([`Waiting for ${where}`, count.toLocaleString(), count ? "warn" : ""]);
  pairs.push(["Drift (1 is an alarm)", now.drift === null ? "not watched yet" : now.drift.toFixed(2), now.drift > 1 ? "bad" : ""]);
  if (now.opened) pairs.push(["Source", now.opened]);
  if (now.age !== null) pairs.push(["From capture to answer", `${(now.age * 1000).toFixed(0)} ms`]);
  if (now.frames.taken) pairs.push(["Frames", Object.entries(now.frames).filter(([, count]) => count).map(([what, count]) => `${count.toLocaleString()} ${what}`).join(", ")]);
  if (now.celsius !== null) pairs.push(["Temperature", `${now.celsius.toFixed(0)} °C, ${now.thermal}`, now.thermal === "hot" ? "bad" : ""]);
  if (now.watts !== null) pairs.push(["Power", `${now.watts.toFixed(1)} W`]);
  pairs.push(["Memory", `${Math.round(now.memory / 1048576)} MiB`], ["Running for", duration(Date.now() / 1000 - now.started)]);
  if (now.restarts) pairs.push(["Restarts", now.restarts, "bad"]);
  rows(at("figures"), pairs);
}

function state(now) {
  const [word, kind] = now.source ? [`source: ${now.source}`, "bad"] : now.drift > 1 ? ["drift", "bad"] : now.thermal !== "cool" ? [now.thermal, "warn"] : ["running", "good"];
  at("state").textContent = word;
  at("state").className = `chip ${kind}`;
}

function show(now) {
  last = Date.now();
  at("model").textContent = `${now.model} ${now.version}`;
  at("which").textContent = [now.variant, now.runtime, now.sha256, now.building && `engines of ${now.building} are built`].filter(Boolean).join(" · ");
  document.title = `${now.answers.length ? now.answers[0].text : now.model} · edgeloop`;
  at("answer").textContent = now.answers.length ? now.answers[0].text : "no answer yet";
  at("answers").replaceChildren(...now.answers.map((answer) => {
    const row = document.createElement("li"), time = document.createElement("time"), text = document.createElement("span");
    time.textContent = clock(answer.at);
    text.textContent = answer.text;
    row.append(time, text);
    return row;
  }));
  at("series").toggleAttribute("hidden", !now.series);  // an SVG element has no property of this name
  if (now.series) plot(now.series);
  if (now.picture === null) at("picture").hidden = true;
  picture(now.picture);
  figures(now);
  const counted = [
    ...now.lines.map((line) => [line.line, `${line.to_right} to right, ${line.to_left} to left`]),
    ...now.zones.map((zone) => [zone.zone, `${zone.now} now, ${zone.entries} entries`]),
  ];
  at("counted").hidden = !counted.length;
  rows(at("counts"), counted);
  const box = at("log").parentElement, below = box.scrollTop + box.clientHeight >= box.scrollHeight - 20;
  at("log").textContent = now.log.join("\n");
  if (below) box.scrollTop = box.scrollHeight;
  state(now);
}

const events = new EventSource("/page/events");
events.onmessage = (event) => show(JSON.parse(event.data));
setInterval(() => {
  if (events.readyState === EventSource.OPEN && Date.now() - last < 30000) return;
  if (events.readyState === EventSource.CONNECTING && Date.now() - last < 5000) return;  // a moment's break
  at("state").textContent = events.readyState === EventSource.CLOSED ? "closed: reload the page" : "no connection";
  at("state").className = "chip bad";
}, 2000);
