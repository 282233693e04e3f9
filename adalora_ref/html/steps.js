"use strict";
// The chosen step of a run: the slider, the number field and the buttons choose it, the table and the facts show it.
document.documentElement.classList.add("scripts-run");
{
  const held = JSON.parse(document.getElementById("steps").textContent);
  const byId = (id) => document.getElementById(id);
  const slider = byId("slider"), number = byId("number");
  const total = byId("fact-step").textContent.replace(/^\d+/, "");
  const [low, high] = held.scale;
  const triplets = held.ranks.flatMap(([name, rank]) => Array.from({ length: rank }, (_, i) => name + "\u0000" + i));
  const cells = Array.from(document.querySelectorAll("#triplets td:not(.empty)"), (cell) => ({
    cell,
    sign: cell.querySelector("b"),
    word: cell.querySelector(".unseen"),
    score: cell.querySelector(".score"),
    bar: cell.querySelector(".bar"),
    threshold: cell.querySelector(".threshold"),
  }));

  const scientific = (value) => value === null ? "–" : value === 0 ? "0" : value.toExponential(3);
  const length = (score) => score <= 0 ? 0 : high === low ? 100 : 4 + 96 * (Math.log10(score) - low) / (high - low);
  const named = (who) => who.map(([name, list]) => name + ": " + list.join(", ")).join("; ") || "nobody";
  const members = (who) => new Set(who.flatMap(([name, list]) => list.map((i) => name + "\u0000" + i)));
  const latest = (step) => held.allocations.filter((allocation) => allocation.step <= step).pop();
  const due = held.allocations.map((allocation) => allocation.step);
  const nobody = { step: null, threshold: null, dropped: [], revived: [] };

  const show = (at) => {
    const step = held.steps[at], mask = held.masks[at], allocation = latest(step) || nobody;
    const dropped = members(allocation.dropped), revived = members(allocation.revived);
    const line = allocation.threshold ? length(allocation.threshold) : -5;
    let kept = 0;
    cells.forEach(({ cell, sign, word, score, bar, threshold }, i) => {
      const alive = mask[i] === "1";
      kept += alive;
      cell.className = alive ? "kept" : "dropped";
      sign.textContent = (alive ? "●" : "○") + (revived.has(triplets[i]) ? "↑" : dropped.has(triplets[i]) ? "↓" : "");
      word.textContent = alive ? "kept" : "dropped";
      score.textContent = scientific(held.scores[at][i]);
      bar.setAttribute("width", length(held.scores[at][i]).toFixed(2));
      threshold.setAttribute("x1", line.toFixed(2));
      threshold.setAttribute("x2", line.toFixed(2));
    });
    const facts = {
      step: step + total,
      phase: held.phases[at],
      budget: held.budgets[at],
      kept: kept + " of " + cells.length + " triplets",
      loss: scientific(held.losses[at]),
      accuracy: held.accuracies[at] === null ? "–" : (100 * held.accuracies[at]).toFixed(1) + " %",
      latest: allocation.step === null ? "none yet" : "step " + allocation.step,
      threshold: scientific(allocation.threshold),
      dropped: named(allocation.dropped),
      revived: named(allocation.revived),
    };
    for (const [name, text] of Object.entries(facts)) byId("fact-" + name).textContent = text;
    slider.value = at;
    const said = "step " + step + ", " + held.phases[at] + ", " + kept + " kept";
    slider.setAttribute("aria-valuetext", said);
    if (document.activeElement !== slider) byId("said").textContent = said; // the slider is read out by itself
    byId("back").setAttribute("aria-disabled", !due.some((other) => other < step));
    byId("on").setAttribute("aria-disabled", !due.some((other) => other > step));
    if (document.activeElement !== number) number.value = step;
  };

  // A step that is not among those shown stands for the last one before it.
  const nearest = (step) => Math.max(held.steps.filter((shown) => shown <= step).length - 1, 0);
  const jump = (steps) => {
    if (!steps.length) return;
    show(held.steps.indexOf(steps[0]));
  };
  slider.addEventListener("input", () => show(Number(slider.value)));
  number.addEventListener("input", () => { if (number.value !== "") show(nearest(Number(number.value))); });
  number.addEventListener("change", () => { number.value = held.steps[Number(slider.value)]; });
  const now = () => held.steps[Number(slider.value)];
  byId("back").addEventListener("click", () => jump(due.filter((step) => step < now()).reverse()));
  byId("on").addEventListener("click", () => jump(due.filter((step) => step > now())));
  show(held.steps.length - 1);
}
