// Buttons that can be used or not. One that cannot keeps the focus, so that who works by keyboard stays where they are.

export function setUsable(button, usable) {
  button.setAttribute("aria-disabled", String(!usable));
}

// Do `act` on clicks, as long as the button can be used.
export function onUse(button, act) {
  button.addEventListener("click", (event) => {
    if (button.getAttribute("aria-disabled") === "true") {
      event.preventDefault();
    } else {
      act();
    }
  });
}
