// One slider for each series of samples. Without this script all of them are listed one below the other.
for (const box of document.querySelectorAll(".over-time")) {
  const frames = [...box.querySelectorAll(".frame")];
  if (frames.length < 2) continue;
  const bar = document.createElement("div"), input = document.createElement("input"), shown = document.createElement("output");
  bar.className = "slider";
  Object.assign(input, { type: "range", min: 0, max: frames.length - 1, step: 1, value: frames.length - 1 });
  input.setAttribute("aria-label", "Training step of the samples");
  const show = () => {
    frames.forEach((frame, number) => frame.classList.toggle("on", number === Number(input.value)));
    shown.textContent = frames[input.value].querySelector("h4").textContent;
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.addEventListener("input", show);
  bar.append(input, shown);
  box.prepend(bar);
  box.classList.add("live");
  show();
}
