// A conversation as its turns: who said what, the chosen response last.
const SPEAKERS = { system: "System", user: "User", assistant: "Assistant", "": "Prompt" };

function conversation(turns, texts, response = null) {
  const said = turns.map(([role, text]) => turn(role, prose(texts[text])));
  return el("div", { class: "turns" }, ...said, response);
}

const turn = (role, content, name = SPEAKERS[role] ?? role) =>
  el("div", { class: "turn " + (role === "user" || role === "" ? "asks" : role) }, el("span", { class: "speaker" }, name), content);

// What the prompt's author wrote beside it: topic, difficulty, the expected answer ...
const told = (value) => (value == null ? MISSING : clean(String(value)));
const ownFacts = (own, promptId) => own.filter(({ values }) => values[promptId] != null).map(({ name, values }) => [name, told(values[promptId])]);
const factList = (facts) => el("dl", { class: "facts" }, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", { dir: "auto" }, value))));
