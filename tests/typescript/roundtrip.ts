// node roundtrip.js <directory>
//
// Reads what Rust wrote, one JSON value a line, as the interfaces of protocol.ts, and writes it back beside it:
//
//   requests.jsonl  completions.jsonl  events.jsonl   →  *.back.jsonl
//   canaries.jsonl, requests that do not fit          →  has to refuse each, or the rest proves nothing
//                                                        literals.jsonl, requests made here

import { readFileSync, writeFileSync } from "node:fs";

import { literals } from "./literals.js";
import { aiRequest, completion, streamEvent, type Reader } from "./reader.js";

const directory = process.argv[2];
if (directory === undefined) throw new Error("usage: node roundtrip.js <directory>");

function readLines(name: string): string[] {
  return readFileSync(`${directory}/${name}`, "utf8").split("\n").filter((line) => line !== "");
}

function writeLines(name: string, values: unknown[]): void {
  writeFileSync(`${directory}/${name}`, values.map((value) => JSON.stringify(value) + "\n").join(""));
}

function roundTrip<V>(name: string, read: Reader<V>): void {
  const values = readLines(`${name}.jsonl`).map((line, index) => read(JSON.parse(line), `${name}:${index + 1}`));
  writeLines(`${name}.back.jsonl`, values);
  console.log(`${name}: ${values.length}`);
}

function refuse(line: string): void {
  try {
    aiRequest(JSON.parse(line), "canary");
  } catch {
    return;
  }
  throw new Error(`canary was not refused: ${line}`);
}

roundTrip("requests", aiRequest);
roundTrip("completions", completion);
roundTrip("events", streamEvent);
readLines("canaries.jsonl").forEach(refuse);
writeLines("literals.jsonl", literals);
