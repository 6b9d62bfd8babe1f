// The blocks of data in this file: base64 of gzipped JSON, decoded when they are first asked for.
const blocks = new Map();

function block(name) {
  if (!blocks.has(name)) blocks.set(name, decode(name));
  return blocks.get(name);
}

async function decode(name) {
  const element = $("block-" + name);
  const text = atob(element.textContent);
  element.textContent = "";
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

// The index is there from the start; what the views ask of it:
let index = null;
let samples = []; // one object per sample, in the order of the rounds

function openIndex(found) {
  index = found;
  const table = index.samples;
  samples = table.id.map((id, i) => {
    const row = {
      i, id, round: table.round[i], row: table.row[i], promptId: table.prompt_id[i],
      prompt: index.texts[table.prompt[i]], turns: table.turns[i], full: index.texts[table.full[i]], response: table.response[i],
      score: table.score[i], kl: table.kl[i], tokens: table.tokens[i], finish: table.finish[i],
    };
    table.components.forEach((name, k) => { row["c" + k] = table.scores[name][i]; });
    index.own.forEach(({ values }, k) => { row["o" + k] = values[row.promptId] ?? null; });
    return row;
  });
}
