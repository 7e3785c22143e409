// Boxes over a picture: drawn, moved, resized and deleted, in pixels of the sample.
// Their points: annotate_points.js; their masks: annotate_box_masks.js.
import { boxMasks } from "/annotate_box_masks.js";
import { pointEditor } from "/annotate_points.js";

export function boxEditor({ form, width, height, stage, field, said, control, colour, clamp, drawn, STEPS, zoomed }) {
  let boxes = JSON.parse(field.value).boxes || [], chosen = -1, drag = null;
  const masks = boxMasks({ width, height, stage, colour }, boxes);
  const past = [], svg = drawn(stage, "svg", { viewBox: `0 0 ${width} ${height}`, "aria-label": "Boxes" });
  const list = form.querySelector(".boxes");
  const round = (value) => Math.round(value * 10) / 10;
  const points = pointEditor({ form, width, height, control, clamp, drawn, STEPS, zoomed, round, box: () => boxes[chosen], redraw: () => draw() });
  const remember = () => { past.push(JSON.stringify(boxes)); if (past.length > 200) past.shift(); };
  const say = (text) => { said.textContent = `${text}${boxes.length === 1 ? "1 box" : `${boxes.length} boxes`}`; };

  function draw() {
    masks.draw(boxes);
    svg.replaceChildren();
    boxes.forEach(({ label, box: [left, top, right, bottom] }, i) => {
      const place = { x: left, y: top, width: Math.max(right - left, 0), height: Math.max(bottom - top, 0) };
      drawn(svg, "rect", { ...place, class: "edge" });
      drawn(svg, "rect", { ...place, class: i === chosen ? "line chosen" : "line", stroke: colour(label) });
      const size = 14 / zoomed(), above = top > size * 1.3;
      drawn(svg, "text", { x: left + 3 / zoomed(), y: above ? top - size * 0.3 : top + size, "font-size": size }, `${i + 1} ${label}`);
    });
    boxes.forEach((box, i) => points.draw(svg, box, colour(box.label), i === chosen));
    if (chosen >= 0 && points.current() < 0) {
      const side = 10 / zoomed();
      for (const [x, y] of handles(boxes[chosen].box)) {
        drawn(svg, "rect", { x: x - side / 2, y: y - side / 2, width: side, height: side, class: "handle" });
      }
    }
    while (list.children.length > boxes.length) list.lastChild.remove();
    while (list.children.length < boxes.length) addEntry(list.children.length);
    boxes.forEach(({ label, box }, i) => {
      const button = list.children[i].firstChild, [left, top, right, bottom] = box.map(round);
      button.textContent = `${i + 1} ${label} ${left}, ${top} – ${right}, ${bottom}${points.counted(boxes[i])}${boxes[i].mask === undefined ? "" : " with its mask"}`;
      button.setAttribute("aria-pressed", String(i === chosen));
    });
  }
  function addEntry(i) {
    const entry = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    for (const event of ["focus", "click"]) button.addEventListener(event, () => choose(i));
    entry.append(button);
    list.append(entry);
  }
  function choose(i) {
    if (i !== chosen) points.choose(-1);
    chosen = i;
    if (i >= 0) control("label").value = boxes[i].label;
    draw();
  }
  const handles = ([l, t, r, b]) => [[l, t], [(l + r) / 2, t], [r, t], [r, (t + b) / 2], [r, b], [(l + r) / 2, b], [l, b], [l, (t + b) / 2]];
  const SIDES = [[0, 1], [1], [2, 1], [2], [2, 3], [3], [0, 3], [0]]; // edges that each handle moves

  function under(x, y) { // the smallest box at a point, the chosen one first
    const inside = (i) => { const [l, t, r, b] = boxes[i].box; return x >= l && x <= r && y >= t && y <= b; };
    if (chosen >= 0 && inside(chosen)) return chosen;
    const area = ({ box: [l, t, r, b] }) => (r - l) * (b - t);
    return boxes.map((_, i) => i).filter(inside).sort((i, j) => area(boxes[i]) - area(boxes[j]))[0] ?? -1;
  }
  function down({ x, y, touch }) {
    const reach = (touch ? 22 : 9) / zoomed(), placed = JSON.stringify(boxes);
    if (chosen >= 0 && points.take(x, y, reach)) {
      drag = { x, y, before: placed, point: true, moved: true };
      return draw();
    }
    const near = chosen < 0 ? -1 : handles(boxes[chosen].box).findIndex(([a, b]) => Math.abs(a - x) <= reach && Math.abs(b - y) <= reach);
    const before = JSON.stringify(boxes), hit = near < 0 ? under(x, y) : chosen;
    drag = { x, y, before, moved: false, sides: near < 0 ? null : SIDES[near] };
    if (hit < 0) { // a new one
      boxes.push({ label: control("label").value, box: [x, y, x, y] });
      drag.sides = [2, 3];
      drag.isNew = true;
    }
    choose(hit < 0 ? boxes.length - 1 : hit);
    drag.from = [...boxes[chosen].box];
    drag.points = boxes[chosen].points && boxes[chosen].points.map((point) => [...point]);
  }
  function move({ x, y }) {
    if (!drag) return;
    if (drag.point) { points.place(x, y); return draw(); }
    const [dx, dy] = [x - drag.x, y - drag.y];
    drag.moved = drag.moved || Math.hypot(dx, dy) * zoomed() > 3;
    if (!drag.moved) return;
    delete boxes[chosen].mask; // it would no longer be where the box is
    if (drag.sides) {
      const box = [...drag.from];
      for (const side of drag.sides) box[side] = clamp(drag.from[side] + (side % 2 ? dy : dx), 0, side % 2 ? height : width);
      boxes[chosen].box = [Math.min(box[0], box[2]), Math.min(box[1], box[3]), Math.max(box[0], box[2]), Math.max(box[1], box[3])].map(round);
    } else shift(drag.from, dx, dy, drag.points);
    draw();
  }
  function shift([left, top, right, bottom], dx, dy, from) {
    const x = clamp(dx, -left, width - right), y = clamp(dy, -top, height - bottom);
    boxes[chosen].box = [left + x, top + y, right + x, bottom + y].map(round);
    if (from) boxes[chosen].points = points.shifted(from, x, y);
  }
  function up(cancelled) {
    if (!drag) return;
    if (drag.point) {
      if (cancelled) boxes = JSON.parse(drag.before); else { past.push(drag.before); points.advance(); }
      drag = null;
      return draw();
    }
    const [left, top, right, bottom] = boxes[chosen].box, thin = right - left < 0.5 || bottom - top < 0.5;
    const { before, moved, isNew } = drag;
    drag = null;
    if (cancelled || thin || (isNew && !moved)) {
      boxes = JSON.parse(before);
      choose(isNew ? -1 : chosen);
    } else if (moved) {
      past.push(before);
      if (isNew) points.choose(0);
      say(isNew ? "New box. " : "");
      draw();
    }
  }
  function key(event) {
    const step = STEPS[event.key];
    if (event.key === "n") return make(), true;
    if (event.key === "Escape") return points.current() < 0 ? choose(-1) : (points.choose(-1), draw()), true;
    if (chosen < 0) return false;
    const before = JSON.stringify(boxes);
    if (points.key(event)) {
      if (JSON.stringify(boxes) !== before) past.push(before);
      return draw(), true;
    }
    if (event.key === "Delete" || event.key === "Backspace") return remove(), true;
    if (!step) return false;
    remember();
    delete boxes[chosen].mask;
    const [left, top, right, bottom] = boxes[chosen].box;
    if (event.shiftKey) {
      boxes[chosen].box = [left, top, clamp(right + step[0], left + 1, Math.max(width, left + 1)), clamp(bottom + step[1], top + 1, Math.max(height, top + 1))];
    } else shift(boxes[chosen].box, ...step, boxes[chosen].points);
    draw();
    return true;
  }
  function make() {
    remember();
    boxes.push({ label: control("label").value, box: [width * 0.375, height * 0.375, width * 0.625, height * 0.625].map(round) });
    choose(boxes.length - 1);
    points.choose(0);
    draw();
    say("New box in the middle. ");
  }
  function remove() {
    if (chosen < 0) return;
    remember();
    boxes.splice(chosen, 1);
    choose(-1);
    say("Deleted. ");
  }
  function undo() {
    if (!past.length) return;
    boxes = JSON.parse(past.pop());
    if (points.current() < 0 || !boxes[chosen]) choose(-1);
    draw();
    say("Undone. ");
  }
  function label(name) {
    if (chosen < 0) return;
    remember();
    boxes[chosen].label = name;
    draw();
  }
  say("");
  return { draw, down, move, up, key, undo, label, hover: () => {}, buttons: { new: make, delete: () => key({ key: "Delete" }), ...points.buttons((name) => key({ key: name })) },
    saved: () => ({ boxes: boxes.map((box) => ({ label: box.label, box: box.box, ...points.saved(box), ...masks.saved(box) })) }) };
}
