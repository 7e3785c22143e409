// The points of the chosen box: placed one after the other, moved, hidden, or not known. Without names of points it does nothing.
export function pointEditor({ form, width, height, control, clamp, drawn, STEPS, zoomed, round, box, redraw }) {
  const names = JSON.parse(form.dataset.points || "[]"), NOT_KNOWN = [0, 0, 0];
  let current = -1; // of the chosen box; -1: the box itself
  const of = () => { // its points, made on first use
    const chosen = box();
    if (!chosen.points) chosen.points = names.map(() => [...NOT_KNOWN]);
    return chosen.points;
  };
  const known = (points) => (points || []).filter((point) => point[2] > 0);

  function draw(svg, { points }, colour, isChosen) {
    (points || []).forEach(([x, y, state], i) => {
      if (!state) return;
      const mine = isChosen && i === current, radius = (isChosen ? 5 : 3) / zoomed();
      drawn(svg, "circle", { cx: x, cy: y, r: radius, class: `point${state === 1 ? " unseen" : ""}${mine ? " chosen" : ""}`, color: colour });
      if (isChosen) drawn(svg, "text", { x: x + 7 / zoomed(), y: y + 4 / zoomed(), "font-size": 12 / zoomed() }, names[i]);
    });
  }
  function choose(i) {
    if (!names.length) return;
    current = i;
    control("point").value = String(i);
  }
  function next() {
    choose(current + 1 < names.length ? current + 1 : -1);
  }
  function take(x, y, reach) { // what a press does: an own point is taken up, else the chosen one is placed there
    if (!names.length) return false;
    const near = (box().points || []).findIndex(([a, b, state]) => state && Math.hypot(a - x, b - y) <= reach);
    if (near >= 0) choose(near);
    else if (current < 0 || of()[current][2]) return false;
    place(x, y);
    return true;
  }
  function place(x, y) {
    of()[current] = [round(clamp(x, 0, width)), round(clamp(y, 0, height)), of()[current][2] || 2];
  }
  function advance() { // to the next one that is not known
    const left = of().findIndex((point, i) => i > current && !point[2]);
    choose(left);
  }
  function key(event) {
    if (!names.length) return false;
    if (event.key === "p") return next(), true;
    if (current < 0) return false;
    const point = of()[current], step = STEPS[event.key];
    if (event.key === "v") {
      if (point[2]) point[2] = 3 - point[2];
    } else if (event.key === "Delete" || event.key === "Backspace") of()[current] = [...NOT_KNOWN];
    else if (step && point[2]) place(point[0] + step[0], point[1] + step[1]);
    else if (step) { // not known yet: it begins in the middle of the box
      const [left, top, right, bottom] = box().box;
      place((left + right) / 2, (top + bottom) / 2);
    } else return false;
    return true;
  }
  if (names.length) {
    control("point").addEventListener("change", () => { choose(box() ? Number(control("point").value) : -1); redraw(); });
  }
  return {
    draw, choose, take, place, advance, key, current: () => current,
    counted: ({ points }) => (names.length ? ` ${known(points).length} of ${names.length} points` : ""),
    shifted: (points, x, y) => points.map(([a, b, state]) => (state ? [round(clamp(a + x, 0, width)), round(clamp(b + y, 0, height)), state] : [...NOT_KNOWN])),
    buttons: (press) => (names.length ? { next: () => press("p"), hide: () => press("v") } : {}),
    saved: ({ points }) => (names.length && known(points).length ? { points } : {}),
  };
}
