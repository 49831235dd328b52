// The script of a run's page, part three: choose a step, and see what the model made of each sample there.
// All answers stand in the tables of the samples; the chosen one is copied into the text.

function stepThrough(section) {
  const slider = section.querySelector("[type=range]");
  const output = section.querySelector("output");
  const play = section.querySelector("button");
  const steps = slider.dataset.steps.split(" ").map(Number);
  let timer = null;
  const samples = [...section.querySelectorAll(".sample")].map((card) => {
    const rows = [...card.querySelectorAll("[data-step]")];
    const rowAt = (step) => rows.filter((row) => Number(row.dataset.step) <= step).pop() ?? rows[0];
    const strip = card.querySelector(".strip");
    const marks = strip ? steps.map((step) => add(strip, "i", rowAt(step).dataset.hit)) : [];
    marks.forEach((one, k) => one.addEventListener("click", () => choose(k)));
    return { rows, rowAt, marks, mark: card.querySelector("mark"), others: card.querySelector(".others") };
  });

  function choose(k) {
    slider.value = k;
    output.textContent = `step ${whole.format(steps[k])}`;
    slider.setAttribute("aria-valuetext", output.textContent);
    for (const { rows, rowAt, marks, mark, others } of samples) {
      const now = rowAt(steps[k]);
      const [first, ...rest] = now.querySelectorAll(".made");
      mark.textContent = first?.textContent ?? "";
      mark.classList.toggle("right", now.dataset.hit === "right");
      others?.replaceChildren(...rest.map((made) => made.cloneNode(true)));
      for (const row of rows) row.classList.toggle("now", row === now);
      marks.forEach((one, index) => one.classList.toggle("now", index === k));
    }
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }

  slider.addEventListener("input", () => {
    stop();
    choose(Number(slider.value));
  });
  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    const last = steps.length - 1;
    play.textContent = "Pause";
    choose(Number(slider.value) === last ? 0 : Number(slider.value));
    timer = setInterval(() => {
      choose(Math.min(last, Number(slider.value) + 1));
      if (Number(slider.value) === last) stop();
    }, clamp(8000 / steps.length, 120, 700));
    return undefined;
  });
  choose(steps.length - 1);
}

for (const section of document.querySelectorAll("[data-samples]")) stepThrough(section);
