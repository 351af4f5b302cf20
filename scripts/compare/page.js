"use strict";
// A click on a method in a legend hides and shows it in every figure.
for (const button of document.querySelectorAll("button[data-series]")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") === "false";
    for (const twin of document.querySelectorAll(`button[data-series="${button.dataset.series}"]`)) {
      twin.setAttribute("aria-pressed", String(shown));
    }
    for (const drawn of document.querySelectorAll(`figure .s${button.dataset.series}`)) {
      drawn.style.visibility = shown ? "" : "hidden";
    }
  });
}
// The value nearest to the pointer, within this many pixels.
const REACH = 22;
const tip = document.getElementById("tip");
function show(event) {
  let nearest = null, distance = REACH;
  for (const spot of event.currentTarget.querySelectorAll("[data-tip]")) {
    const box = spot.getBoundingClientRect();
    const x = Math.max(box.left - event.clientX, 0, event.clientX - box.right);
    const y = Math.max(box.top - event.clientY, 0, event.clientY - box.bottom);
    if (Math.hypot(x, y) < distance) { nearest = spot; distance = Math.hypot(x, y); }
  }
  tip.hidden = nearest === null;
  if (nearest === null) return;
  tip.textContent = nearest.dataset.tip;
  const right = Math.max(4, document.documentElement.clientWidth - tip.offsetWidth - 4);
  tip.style.left = `${Math.min(event.clientX + 12, right)}px`;
  const above = event.clientY - tip.offsetHeight - 12;
  tip.style.top = `${above > 4 ? above : event.clientY + 16}px`;
}
for (const drawing of document.querySelectorAll("figure > svg")) {
  drawing.addEventListener("pointermove", show);
  drawing.addEventListener("pointerdown", show);
  drawing.addEventListener("pointerleave", () => { tip.hidden = true; });
}
// Paper has nothing to unfold.
const folded = [];
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) { details.open = true; folded.push(details); }
});
addEventListener("afterprint", () => { for (const details of folded.splice(0)) details.open = false; });
