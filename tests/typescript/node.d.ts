// The little of Node that roundtrip.ts needs, so that the test installs nothing but the compiler.

declare module "node:fs" {
  export function readFileSync(path: string, encoding: "utf8"): string;
  export function writeFileSync(path: string, text: string): void;
}

declare const process: { readonly argv: string[] };
declare const console: { log(line: string): void };
