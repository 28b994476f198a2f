// The quick start with fetch of Node: publish a module, run it, upload one with its input, list what ran.
import assert from "node:assert";
import { readFile } from "node:fs/promises";

const { URL: url, KEY: key, MODULE: file } = process.env;
const module = await readFile(file);

async function send(status, path, options = {}) {
  const headers = { Authorization: `Bearer ${key}`, ...options.headers };
  const answer = await fetch(`${url}${path}`, { ...options, headers });
  const text = await answer.text();
  assert.equal(answer.status, status, text);
  return { headers: answer.headers, body: JSON.parse(text) };
}

await send(201, "/v1/modules/fetch", { method: "PUT", body: module });
const ran = await send(200, "/v1/modules/fetch/executions", { method: "POST", body: "WasmWiz" });
assert.equal(ran.body.stdout, "Hello, WasmWiz!\n");

const form = new FormData();
form.append("wasm", new File([module], 'a "name=input"; é\\', { type: "application/wasm" }));
form.append("input", new Blob(["form"]), "input.txt");
form.append("arg", "-v");
const uploaded = await send(200, "/v1/executions", { method: "POST", body: form });
assert.equal(uploaded.body.stdout, "Hello, form!\n");

const position = { "Wasmwiz-Min-Position": ran.headers.get("wasmwiz-position") };
const page = await send(200, "/v1/executions?module=fetch&limit=5", { headers: position });
assert.equal(page.body.items[0].id, ran.body.id);
console.log("the quick start ran");
