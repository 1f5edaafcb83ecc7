// The official clients for TypeScript against a relay: node clients.mjs MODULES URL KEY. Prints a JSON line for each.
import { pathToFileURL } from "node:url";

const [modules, url, key] = process.argv.slice(2);
const load = (path) => import(pathToFileURL(`${modules}/${path}`));
const old = await load("sdk/dist/esm/client/index.js");
const oldHttp = await load("sdk/dist/esm/client/streamableHttp.js");
const modern = await load("client/dist/index.mjs");
const options = { requestInit: { headers: { Authorization: `Bearer ${key}` } } };

async function use(name, client, transport) {
  await client.connect(transport);
  const tools = (await client.listTools()).tools.map((tool) => tool.name);
  const call = async (tool, args) => JSON.parse((await client.callTool({ name: tool, arguments: args })).content[0].text);
  const given = await call("relay_delegate", { task: `from ${name}`, to: "Bob" });
  const task = await call("relay_tasks", { task_id: given.task_id });
  const { resources } = await client.listResources();
  const read = await client.readResource({ uri: `clawlink://tasks/${given.task_id}` });
  const prompts = (await client.listPrompts()).prompts.map((prompt) => prompt.name);
  const prompt = await client.getPrompt({ name: "worker", arguments: { capability: "tides" } });
  const refused = await client.callTool({ name: "relay_tell", arguments: { to: "nobody", text: "x" } });
  const wait = new AbortController();
  const waiting = client.callTool({ name: "relay_inbox", arguments: { wait_seconds: 40 } }, ...signal(client, wait));
  setTimeout(() => wait.abort(), 200);
  const cancelled = await waiting.then(() => false, () => true);
  console.log(JSON.stringify({
    name, tools, state: task.state, uris: resources.map((one) => one.uri), task_id: given.task_id,
    read: JSON.parse(read.contents[0].text).untrusted.task, prompts, prompt: prompt.messages[0].content.text,
    refused: refused.isError, cancelled,
  }));
  await client.close();
}

function signal(client, wait) {
  return client instanceof old.Client ? [undefined, { signal: wait.signal }] : [{ signal: wait.signal }];
}

const info = { name: "test", version: "1" };
await use("sdk", new old.Client(info), new oldHttp.StreamableHTTPClientTransport(new URL(url), options));
for (const mode of ["legacy", "auto"]) {
  const client = new modern.Client(info, { versionNegotiation: { mode } });
  await use(`client ${mode}`, client, new modern.StreamableHTTPClientTransport(new URL(url), options));
}
