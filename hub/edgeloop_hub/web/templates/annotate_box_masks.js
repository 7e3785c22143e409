// The masks of boxes' things under the boxes, as a model or another tool made them: shown and kept, not painted.
export function boxMasks({ width, height, stage, colour }, boxes) {
  const masks = []; // a box has the number of its mask, so that the steps that can be undone stay small
  for (const box of boxes) if (box.mask) box.mask = masks.push(box.mask) - 1;
  if (!masks.length) return { draw: () => {}, saved: () => ({}) };
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  stage.append(canvas);
  const context = canvas.getContext("2d");
  let shown = "";

  function draw(all) {
    const things = all.filter((box) => box.mask !== undefined), wanted = JSON.stringify(things.map((box) => [box.mask, box.label]));
    if (wanted === shown) return;
    shown = wanted;
    const image = context.createImageData(width, height);
    for (const { mask, label } of things.reverse()) {
      const rgb = [1, 3, 5].map((i) => parseInt(colour(label).slice(i, i + 2), 16));
      let n = 0;
      masks[mask].counts.forEach((count, i) => { // column by column
        for (let end = n + count; n < end; n++) if (i % 2) image.data.set([...rgb, 110], ((n % height) * width + Math.floor(n / height)) * 4);
      });
    }
    context.putImageData(image, 0, 0);
  }
  return { draw, saved: ({ mask }) => (mask === undefined ? {} : { mask: masks[mask] }) };
}
