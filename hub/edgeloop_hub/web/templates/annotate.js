// The editor of boxes and masks in the labelling queue. It reads and writes the form's field `annotation`, in pixels of the sample.
import { boxEditor } from "/annotate_boxes.js";
import { maskEditor } from "/annotate_masks.js";

const form = document.querySelector("form.annotate");
const width = Number(form.dataset.width), height = Number(form.dataset.height);
const field = form.elements.annotation, stage = form.querySelector(".stage"), said = form.querySelector(".said");
const control = (name) => form.querySelector(`[data-do="${name}"]`);
const labels = [...control("label").options].map((option) => option.value);
const COLOURS = ["#ffd400", "#00c8ff", "#ff5fa2", "#7dff5a", "#ff9a3c", "#b98cff", "#ffffff", "#00e0b0"];
const colour = (label) => COLOURS[Math.max(0, labels.indexOf(label)) % COLOURS.length];
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
let scale = 1; // screen pixels of one pixel of the sample

function drawn(parent, name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}
const picture = document.createElement("img");
picture.src = form.dataset.picture;
picture.alt = "The sample, as the model saw it";
picture.draggable = false;
stage.append(picture);

const make = form.dataset.part === "boxes" ? boxEditor : maskEditor;
const editor = make({ form, width, height, stage, field, said, control, labels, colour, clamp, drawn, STEPS, zoomed: () => scale });
const scroll = form.querySelector(".scroll");
function zoom(to) {
  scale = clamp(to, 0.05, 64);
  stage.style.width = `${width * scale}px`;
  stage.style.height = `${height * scale}px`;
  editor.draw();
}
const place = (event) => {
  const { left, top, width: w, height: h } = stage.getBoundingClientRect();
  const [x, y] = [((event.clientX - left) / w) * width, ((event.clientY - top) / h) * height];
  return { x: clamp(x, 0, width), y: clamp(y, 0, height), touch: event.pointerType === "touch" };
};
let pointer = null; // the one that draws; further fingers move the page
stage.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  if (pointer !== null) { editor.up(true); pointer = null; return; }
  pointer = event.pointerId;
  stage.setPointerCapture(pointer);
  stage.focus({ preventScroll: true });
  editor.down(place(event));
  event.preventDefault();
});
stage.addEventListener("pointermove", (event) => {
  if (pointer === event.pointerId) editor.move(place(event));
  else if (pointer === null) editor.hover(place(event));
});
for (const [name, cancelled] of [["pointerup", false], ["pointercancel", true]]) {
  stage.addEventListener(name, (event) => {
    if (pointer !== event.pointerId) return;
    pointer = null;
    editor.up(cancelled);
  });
}
const buttons = { ...editor.buttons, undo: editor.undo, in: () => zoom(scale * 1.25), out: () => zoom(scale / 1.25) };
for (const [name, does] of Object.entries(buttons)) control(name).addEventListener("click", does);
control("label").addEventListener("change", () => { editor.label(control("label").value); stage.focus({ preventScroll: true }); });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const on = event.target.closest("button, a, select, input, summary"), inList = on && on.closest(".boxes");
  if (on && !inList && (event.key === "Enter" || event.key === " " || on.matches("select, input"))) return;
  if (event.key === "Enter") control("save").click();
  else if (event.key === "u") editor.undo();
  else if ("+=-".includes(event.key)) buttons[event.key === "-" ? "out" : "in"]();
  else if (/^[1-9]$/.test(event.key) && labels[event.key - 1] !== undefined) {
    control("label").value = labels[event.key - 1];
    editor.label(labels[event.key - 1]);
  } else if (!editor.key(event)) return;
  event.preventDefault();
});
form.addEventListener("submit", () => { field.value = JSON.stringify(editor.saved()); });
form.querySelector(".tools").hidden = false;
control("save").disabled = false;
const room = Math.max(scroll.clientWidth, 100);
zoom(Math.min(Math.min(room, Math.max(width, 720)) / width, (innerHeight * 0.7) / height));
