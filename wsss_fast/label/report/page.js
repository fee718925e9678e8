"use strict";

// A layer is a place between 0 and 100: the image, at 50 the CAM over it, at 100 the mask over it.
const CAM = 50, MASK = 100;

const gallery = document.getElementById("gallery");
const cards = Array.from(gallery.children);
const all = document.getElementById("all");
const viewer = document.getElementById("viewer");
const viewerLayer = document.getElementById("viewer-layer");
const viewerPictures = document.getElementById("viewer-pictures");
let shown = cards; // of the chosen group, in its order
let open = 0; // which of them the viewer shows

function told(layer) {
  if (layer < 15) return "image";
  if (layer > 85) return "mask";
  if (Math.abs(layer - CAM) < 15) return "CAM";
  return layer < CAM ? "between image and CAM" : "between CAM and mask";
}

function showLayer(pictures, slider, layer) {
  const cam = pictures.querySelector(".cam"), mask = pictures.querySelector(".mask");
  if (cam) cam.style.opacity = Math.max(0, 1 - Math.abs(layer - CAM) / (MASK - CAM));
  if (mask) mask.style.opacity = Math.max(0, (layer - CAM) / (MASK - CAM));
  slider.value = layer;
  slider.setAttribute("aria-valuetext", told(layer));
}

function showGroup(name) {
  const rank = card => Number(card.dataset[name]);
  shown = name === "all" ? cards : cards.filter(card => name in card.dataset).sort((a, b) => rank(a) - rank(b));
  const chosen = new Set(shown);
  for (const card of cards) card.hidden = !chosen.has(card);
  gallery.append(...shown);
  for (const button of document.querySelectorAll(".groups button"))
    button.setAttribute("aria-pressed", String(button.dataset.group === name));
  document.getElementById("none").hidden = shown.length > 0;
}

function showInViewer(place) {
  open = Math.min(shown.length - 1, Math.max(0, place));
  const card = shown[open];
  const layer = Number(viewerLayer.value);
  viewerPictures.replaceChildren(...Array.from(card.querySelector(".pictures").children, child => child.cloneNode(true)));
  for (const image of viewerPictures.querySelectorAll("img")) image.loading = "eager";
  document.getElementById("viewer-name").textContent = card.querySelector(".name").textContent;
  document.getElementById("viewer-place").textContent = `${open + 1} of ${shown.length}`;
  document.getElementById("viewer-caption").replaceChildren(
    ...Array.from(card.querySelector(".caption").children, child => child.cloneNode(true)));
  // Not `disabled`: that would take the focus from a button that is in use.
  document.getElementById("viewer-before").ariaDisabled = String(open === 0);
  document.getElementById("viewer-next").ariaDisabled = String(open === shown.length - 1);
  showLayer(viewerPictures, viewerLayer, layer);
}

function openViewer(card) {
  viewerLayer.value = card.querySelector(".layer").value;
  showInViewer(shown.indexOf(card));
  viewer.showModal();
  viewerPictures.focus();
}

// The picture that an arrow key leads to; undefined for other keys.
function neighbour(key, place) {
  const columns = Math.max(1, shown.findIndex(card => card.offsetTop > shown[0].offsetTop));
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -place, End: shown.length - 1 - place };
  return key in steps ? shown[place + steps[key]] ?? shown[place] : undefined;
}

function plainKey(event) {
  return !(event.altKey || event.ctrlKey || event.metaKey || event.shiftKey);
}

for (const card of cards) {
  const slider = card.querySelector(".layer"), pictures = card.querySelector(".pictures");
  slider.hidden = pictures.querySelector("img") === null;
  slider.addEventListener("input", () => showLayer(pictures, slider, Number(slider.value)));
  card.querySelector(".open").addEventListener("click", () => openViewer(card));
  showLayer(pictures, slider, MASK);
}

gallery.addEventListener("keydown", event => {
  if (!event.target.classList.contains("open") || !plainKey(event)) return;
  const next = neighbour(event.key, shown.indexOf(event.target.closest(".card")));
  if (!next) return;
  event.preventDefault();
  next.querySelector(".open").focus();
  next.scrollIntoView({ block: "nearest" });
});

all.addEventListener("input", () => {
  for (const card of cards) showLayer(card.querySelector(".pictures"), card.querySelector(".layer"), Number(all.value));
  all.setAttribute("aria-valuetext", told(Number(all.value)));
});
all.setAttribute("aria-valuetext", told(MASK));

for (const button of document.querySelectorAll(".groups button"))
  button.addEventListener("click", () => showGroup(button.dataset.group));

// On the document: a click beside the buttons takes the focus out of the dialog. Escape closes it by itself.
document.addEventListener("keydown", event => {
  if (!viewer.open || !plainKey(event)) return;
  const layers = { 1: 0, 2: CAM, 3: MASK };
  if (event.key in layers) return showLayer(viewerPictures, viewerLayer, layers[event.key]);
  const places = { ArrowLeft: open - 1, ArrowRight: open + 1, Home: 0, End: shown.length - 1 };
  // On the slider, arrows, Home and End move the slider.
  if (event.target === viewerLayer || !(event.key in places)) return;
  event.preventDefault();
  showInViewer(places[event.key]);
});
viewer.addEventListener("close", () => shown[open].querySelector(".open").focus());
viewerLayer.addEventListener("input", () => showLayer(viewerPictures, viewerLayer, Number(viewerLayer.value)));
document.getElementById("viewer-before").addEventListener("click", () => showInViewer(open - 1));
document.getElementById("viewer-next").addEventListener("click", () => showInViewer(open + 1));
document.getElementById("viewer-close").addEventListener("click", () => viewer.close());
viewerPictures.tabIndex = -1;

for (const part of document.querySelectorAll(".toolbar, .scripted")) part.hidden = cards.length === 0;
showGroup("all");
