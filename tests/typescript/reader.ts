// Reads parsed JSON as the interfaces of protocol.ts, and refuses whatever does not fit them exactly.
//
// Interfaces do not exist at run time, so each has a table here. The compiler holds table and interface together: a table
// that lacks a key, has one too many, or reads it as another type or optionality does not compile.

import type { AIRequest, Completion, FinishReason, Message, StreamEvent, Tool, ToolCall, Usage } from "./protocol.js";

/** Gives `value` its type, or throws an error that says where it does not fit. */
export type Reader<V> = (value: unknown, path: string) => V;

type IsOptional<T, K extends keyof T> = {} extends Pick<T, K> ? true : false;

type Table<T> = {
  [K in keyof T]-?: { optional: IsOptional<T, K>; read: Reader<Exclude<T[K], undefined>> };
};

function required<V>(read: Reader<V>): { optional: false; read: Reader<V> } {
  return { optional: false, read };
}

function optional<V>(read: Reader<V>): { optional: true; read: Reader<V> } {
  return { optional: true, read };
}

function misfit(path: string, expected: string): Error {
  return new Error(`${path}: expected ${expected}`);
}

const string: Reader<string> = (value, path) => {
  if (typeof value !== "string") throw misfit(path, "a string");
  return value;
};

const number: Reader<number> = (value, path) => {
  if (typeof value !== "number") throw misfit(path, "a number");
  return value;
};

const boolean: Reader<boolean> = (value, path) => {
  if (typeof value !== "boolean") throw misfit(path, "a boolean");
  return value;
};

const anything: Reader<any> = (value) => value;

/** The keys of `words` are a record rather than a list, so that the compiler sees that none is missing. */
function oneOf<W extends string>(words: Record<W, true>): Reader<W> {
  return (value, path) => {
    if (typeof value !== "string" || !Object.hasOwn(words, value)) {
      throw misfit(path, Object.keys(words).join(" or "));
    }
    return value as W;
  };
}

function array<V>(read: Reader<V>): Reader<V[]> {
  return (value, path) => {
    if (!Array.isArray(value)) throw misfit(path, "an array");
    return value.map((item, index) => read(item, `${path}[${index}]`));
  };
}

function object<T extends object>(table: Table<T>): Reader<T> {
  return (value, path) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw misfit(path, "an object");
    const unknownKey = Object.keys(value).find((key) => !Object.hasOwn(table, key));
    if (unknownKey !== undefined) throw misfit(`${path}.${unknownKey}`, "no such key");

    const source = value as Partial<Record<keyof T, unknown>>;
    const target: Partial<T> = {};
    for (const key of Object.keys(table) as (keyof T & string)[]) {
      if (Object.hasOwn(source, key)) {
        target[key] = table[key].read(source[key], `${path}.${key}`);
      } else if (!table[key].optional) {
        throw misfit(`${path}.${key}`, "a value");
      }
    }
    return target as T;
  };
}

const toolCall = object<ToolCall>({
  name: required(string),
  parameters: required(anything),
  id: required(string),
});

const message = object<Message>({
  role: required(oneOf({ system: true, user: true, assistant: true })),
  content: required(string),
  toolCalls: optional(array(toolCall)),
});

const tool = object<Tool>({
  name: required(string),
  description: optional(string),
  parameters: optional(anything),
});

const usage = object<Usage>({
  inputTokens: required(number),
  outputTokens: required(number),
  totalTokens: required(number),
  cachedInputTokens: optional(number),
  reasoningTokens: optional(number),
  estimated: optional(boolean),
});

const finishReason = oneOf<FinishReason>({
  stop: true,
  length: true,
  tool_calls: true,
  content_filter: true,
  error: true,
  cancelled: true,
});

export const aiRequest = object<AIRequest>({
  messages: required(array(message)),
  model: required(string),
  temperature: optional(number),
  maxTokens: optional(number),
  tools: optional(array(tool)),
  systemPrompt: optional(string),
  stream: optional(boolean),
});

export const completion = object<Completion>({
  content: required(string),
  reasoning: optional(string),
  toolCalls: optional(array(toolCall)),
  finishReason: required(finishReason),
  usage: required(usage),
  model: required(string),
});

const streamEvents: { [K in StreamEvent["type"]]: Reader<Extract<StreamEvent, { type: K }>> } = {
  text: object({ type: required(oneOf({ text: true })), text: required(string) }),
  reasoning: object({ type: required(oneOf({ reasoning: true })), text: required(string) }),
  toolCall: object({ type: required(oneOf({ toolCall: true })), toolCall: required(toolCall) }),
  end: object({
    type: required(oneOf({ end: true })),
    finishReason: required(finishReason),
    usage: required(usage),
    model: required(string),
  }),
};

export const streamEvent: Reader<StreamEvent> = (value, path) => {
  const type = (value as { type?: unknown } | null)?.type;
  if (typeof type !== "string" || !Object.hasOwn(streamEvents, type)) throw misfit(`${path}.type`, "a known type");
  return streamEvents[type as StreamEvent["type"]](value, path);
};
