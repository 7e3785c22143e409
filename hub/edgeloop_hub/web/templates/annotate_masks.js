// Masks over a picture: the number of each pixel's label, painted and erased by a round brush.
export function maskEditor({ width, height, stage, field, said, control, labels, colour, clamp, drawn, STEPS }) {
  const NONE = 255, canvas = document.createElement("canvas"), past = [];
  canvas.width = width;
  canvas.height = height;
  stage.append(canvas);
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  const svg = drawn(stage, "svg", { viewBox: `0 0 ${width} ${height}`, "aria-label": "The brush" });
  const rgb = labels.map((label) => [1, 3, 5].map((i) => parseInt(colour(label).slice(i, i + 2), 16)));
  let pixels = new Uint8Array(width * height).fill(NONE), at = [width / 2, height / 2], painting = null;
  for (const { label, counts } of JSON.parse(field.value).masks || []) {
    let n = 0;
    counts.forEach((count, i) => { // column by column
      for (let end = n + count; n < end; n++) if (i % 2) pixels[(n % height) * width + Math.floor(n / height)] = labels.indexOf(label);
    });
  }
  const size = () => Number(control("size").value), erasing = () => control("erase").getAttribute("aria-pressed") === "true";
  const remember = () => { past.push(pixels.slice()); if (past.length > 30) past.shift(); };

  function draw(left = 0, top = 0, right = width, bottom = height) { // what changed, and one pixel around it
    [left, top] = [Math.max(0, left - 1), Math.max(0, top - 1)];
    [right, bottom] = [Math.min(width, right + 1), Math.min(height, bottom + 1)];
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) {
        const i = y * width + x, label = pixels[i], [red, green, blue] = label === NONE ? [0, 0, 0] : rgb[label];
        // Its outline is nearly opaque, so that it is seen on any picture.
        const isEdge = pixels[i - 1] !== label || pixels[i + 1] !== label || pixels[i - width] !== label || pixels[i + width] !== label;
        image.data[i * 4] = red;
        image.data[i * 4 + 1] = green;
        image.data[i * 4 + 2] = blue;
        image.data[i * 4 + 3] = label === NONE ? 0 : isEdge ? 200 : 100;
      }
    }
    context.putImageData(image, 0, 0, left, top, right - left, bottom - top);
    brush();
  }
  function brush() {
    svg.replaceChildren();
    for (const name of ["edge", "line"]) drawn(svg, "circle", { cx: at[0], cy: at[1], r: size() / 2, class: name });
  }
  function dab(x, y) {
    const r = size() / 2, label = erasing() ? NONE : labels.indexOf(control("label").value);
    for (let row = Math.max(0, Math.floor(y - r)); row < Math.min(height, y + r); row++) {
      for (let column = Math.max(0, Math.floor(x - r)); column < Math.min(width, x + r); column++) {
        const own = Math.floor(x) === column && Math.floor(y) === row;
        if (own || Math.hypot(column + 0.5 - x, row + 0.5 - y) <= r) pixels[row * width + column] = label;
      }
    }
  }
  function stroke(x, y) {
    const [fx, fy] = painting, steps = Math.max(1, Math.ceil(Math.hypot(x - fx, y - fy) / Math.max(0.5, size() / 4)));
    for (let i = 1; i <= steps; i++) dab(fx + ((x - fx) * i) / steps, fy + ((y - fy) * i) / steps);
    painting = at = [x, y];
    const r = Math.ceil(size() / 2) + 1;
    draw(Math.floor(Math.min(x, fx)) - r, Math.floor(Math.min(y, fy)) - r, Math.ceil(Math.max(x, fx)) + r, Math.ceil(Math.max(y, fy)) + r);
  }
  function down({ x, y }) { remember(); painting = [x, y]; stroke(x, y); }
  function hover({ x, y }) { at = [x, y]; brush(); }
  function up(cancelled) {
    if (painting && cancelled) undo();
    painting = null;
  }
  function undo() {
    if (!past.length) return;
    pixels = past.pop();
    draw();
    said.textContent = "Undone.";
  }
  function erase() { control("erase").setAttribute("aria-pressed", String(!erasing())); }
  function resize(by) { control("size").value = size() + by; brush(); }
  function key(event) {
    const step = STEPS[event.key];
    if (event.key === "e") return erase(), true;
    if (event.key === "[" || event.key === "]") return resize(event.key === "[" ? -1 : 1), true;
    if (event.key === " ") {
      remember();
      dab(...at);
      draw();
      said.textContent = `${erasing() ? "Erased" : control("label").value} at ${at.map(Math.floor).join(", ")}`;
      return true;
    }
    if (!step) return false;
    const by = event.shiftKey ? 10 : 1;
    at = [clamp(at[0] + step[0] * by, 0, width - 0.01), clamp(at[1] + step[1] * by, 0, height - 0.01)];
    brush();
    said.textContent = `Brush at ${at.map(Math.floor).join(", ")}`;
    return true;
  }
  function saved() {
    const masks = labels.map((label, number) => {
      const counts = [0];
      let inside = false, any = false;
      for (let x = 0; x < width; x++) {
        for (let y = 0; y < height; y++) {
          const here = pixels[y * width + x] === number;
          if (here !== inside) { counts.push(0); inside = here; any = true; }
          counts[counts.length - 1]++;
        }
      }
      return any ? { label, size: [height, width], counts } : null;
    });
    return { masks: masks.filter((mask) => mask) };
  }
  control("size").addEventListener("input", brush);
  return { draw, down, move: ({ x, y }) => painting && stroke(x, y), up, hover, key, undo, label: () => {}, buttons: { erase }, saved };
}
