// Sentences for people, and the bar of progress.
import { $ } from "./dom.js";
import { page } from "./page_state.js";

export function say(text, kind = "error") {
  const message = document.createElement("div");
  message.className = `message ${kind}`;
  const sentence = document.createElement("p");
  sentence.textContent = text;
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "×";
  close.setAttribute("aria-label", "Close this message");
  close.addEventListener("click", () => message.remove());
  message.append(sentence, close);
  $("messages").append(message);
}

export const clearMessages = () => $("messages").replaceChildren();

export function progress(text, value) {
  $("progress").hidden = text === null;
  $("empty").hidden = text !== null || page.result !== null;
  if (text === null) return;
  if ($("progress-text").textContent !== text) $("progress-text").textContent = text;
  if (value === undefined) $("progress-bar").removeAttribute("value");
  else $("progress-bar").value = value;
}
