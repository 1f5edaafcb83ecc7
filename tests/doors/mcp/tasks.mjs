// The official client of the extension for tasks: node tasks.mjs MODULES URL KEY. Prints what it was asked and got.
import { pathToFileURL } from "node:url";

const [modules, url, key] = process.argv.slice(2);
const load = (path) => import(pathToFileURL(`${modules}/${path}`));
const { Client, StreamableHTTPClientTransport } = await load("client/dist/index.mjs");
const { createTaskSessionFromClient, resultFromTaskOutcome } = await load("ext-tasks/dist/client/index.js");

const version = "2026-07-28";
const info = { name: "test", version: "1" };
const auth = { Authorization: `Bearer ${key}` };
const methods = [];
const asked = [];

async function rawDispatch(request) {
  methods.push(request.method);
  const name = request.params.name ?? request.params.taskId;
  const headers = {
    ...auth, "Content-Type": "application/json", "MCP-Protocol-Version": version,
    "Mcp-Method": request.method, "Mcp-Name": name,
  };
  const body = JSON.stringify({ jsonrpc: "2.0", id: methods.length, ...request });
  return (await fetch(url, { method: "POST", headers, body })).json();
}

const client = new Client(info, { versionNegotiation: { mode: "auto" } });
await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers: auth } }));
const session = createTaskSessionFromClient(client, {
  endpointId: "relay",
  rawDispatch,
  v2RequestFraming: {
    protocolVersion: version,
    clientInfo: info,
    clientCapabilities: { elicitation: {}, extensions: { "io.modelcontextprotocol/tasks": {} } },
  },
  onInputRequest: async (request) => {
    asked.push(request.params.message);
    return { action: "accept", content: { answer: "ten" } };
  },
});
const execution = await session.callTool("relay_delegate", { task: "add", to: "Bob" });
const { outcome } = await execution.settle();
const result = resultFromTaskOutcome(outcome);
console.log(JSON.stringify({ methods, asked, error: result.isError, text: result.content[0].text }));
await session.close();
await client.close();
