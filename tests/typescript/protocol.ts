// The AI messages of Annulus, for clients written in TypeScript.

// What a client asks.

export interface AIRequest {
  messages: Message[];
  model: string;
  temperature?: number;
  maxTokens?: number;
  tools?: Tool[];
  systemPrompt?: string;
  stream?: boolean;
}

export interface Message {
  role: "system" | "user" | "assistant";
  content: string;
  toolCalls?: ToolCall[];
}

export interface ToolCall {
  name: string;
  parameters: any;
  id: string;
}

export interface Tool {
  name: string;
  description?: string;
  /** A JSON Schema object. */
  parameters?: any;
}

// What comes back: one Completion, or many StreamEvents of which the last has type "end".

export interface Completion {
  content: string;
  reasoning?: string;
  toolCalls?: ToolCall[];
  finishReason: FinishReason;
  usage: Usage;
  model: string;
}

export type StreamEvent =
  | { type: "text"; text: string }
  | { type: "reasoning"; text: string }
  | { type: "toolCall"; toolCall: ToolCall }
  | { type: "end"; finishReason: FinishReason; usage: Usage; model: string };

export type FinishReason = "stop" | "length" | "tool_calls" | "content_filter" | "error" | "cancelled";

export interface Usage {
  inputTokens: number;
  outputTokens: number;
  totalTokens: number;
  cachedInputTokens?: number;
  reasoningTokens?: number;
  /** The provider gave no numbers; these are a guess. */
  estimated?: boolean;
}
