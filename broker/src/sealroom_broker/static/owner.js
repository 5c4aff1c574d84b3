// SPDX-License-Identifier: BSD-3-Clause
// What the pages do better with a script. Everything works without it.
"use strict";

// A button beside each long value that copies it.
for (const value of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) break; // only over HTTPS, or on this machine
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(value.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  value.after(button);
}

// A list of what is wrong is read at once.
document.getElementById("problems")?.focus();

// A form is sent once, however often its button is pressed.
for (const form of document.querySelectorAll('form[method="post"]')) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  });
}
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});
