// Requests as a TypeScript client would write them. The compiler checks that they are AIRequests; Rust has to read them.

import type { AIRequest } from "./protocol.js";

export const literals: AIRequest[] = [
  { model: "loopback", messages: [{ role: "user", content: "hi" }] },
  { model: "", messages: [] },
  {
    model: "loopback",
    messages: [
      { role: "system", content: "Be brief." },
      { role: "user", content: "Wie sp\u00e4t ist es? \u{1f980} \u0000 \u2028 \\ \" \ud7ff" },
      {
        role: "assistant",
        content: "",
        toolCalls: [
          { name: "clock", parameters: { zone: "Europe/Berlin", precise: true }, id: "call_1" },
          { name: "none", parameters: null, id: "" },
          { name: "list", parameters: [1, -2.5, 1e300, 5e-324, 0.1 + 0.2, Number.MAX_SAFE_INTEGER, [[]], {}], id: "3" },
          { name: "text", parameters: "just text", id: "4" },
        ],
      },
    ],
    temperature: 1,
    maxTokens: 4096,
    tools: [
      { name: "clock", description: "Tells the time.", parameters: { type: "object", properties: { zone: { type: "string" } } } },
      { name: "none" },
    ],
    systemPrompt: "",
    stream: false,
  },
  { model: "m", messages: [], temperature: 0.7, tools: [], stream: true },
];

// What the interface does not allow; the compiler complains if it starts to.
// @ts-expect-error: a role is one of three.
({ role: "tool", content: "" }) satisfies AIRequest["messages"][number];
// @ts-expect-error: a request names a model.
({ messages: [] }) satisfies AIRequest;
// @ts-expect-error: names are in camelCase.
({ model: "m", messages: [], max_tokens: 1 }) satisfies AIRequest;
