// What a token can be coloured by. Signed numbers have two hues, told apart by colour-blind readers, with 0 colourless;
// the others one hue. The strength goes with the size, up to the scale of the whole run.
const QUANTITIES = {
  advantage: { label: "Advantage", signed: true },
  kl: { label: "KL", signed: true, about: "Policy's minus base model's logprob, nats" },
  value: { label: "Value", signed: true },
  logprob: { label: "Logprob", signed: false, about: "Under the sampling policy, nats" },
  entropy: { label: "Entropy", signed: false, about: "Of the policy's next token, nats" },
  reward: { label: "Reward", signed: true, about: "KL penalty, and the score on the last token" },
  return: { label: "Return", signed: true },
};

function shade(element, name, x) {
  const strength = x == null ? 0 : Math.min(1, Math.abs(x) / index.scales[name]);
  element.classList.remove("plus", "minus", "size");
  element.classList.add(!QUANTITIES[name].signed ? "size" : x < 0 ? "minus" : "plus");
  element.style.setProperty("--strength", strength.toFixed(3));
}

function legend(name) {
  const full = index.scales[name], { signed, about } = QUANTITIES[name];
  const ends = signed ? [-full, 0, full] : name === "logprob" ? [0, -full] : [0, full];
  const marks = el("div", { class: "marks" }, ...ends.map((x) => el("span", {}, short(x))));
  return el("div", { class: "scale" },
    el("div", {}, el("div", { class: signed ? "ramp signed" : "ramp single" }), marks),
    el("span", { class: "hint" }, (about ? about + ". " : "") + "Full colour from the size that 98 % of the run's tokens stay below."));
}
