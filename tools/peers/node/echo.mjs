// Node.js beside Annulus: `net` over a Unix socket, and child_process.fork with its JSON messages.
//
//     node echo.mjs net-respond SOCKET
//     node echo.mjs net-measure SCENE SOCKET
//     node echo.mjs fork-respond
//     node echo.mjs fork-measure SCENE PROGRAM CORE    (PROGRAM on-core CORE node … runs on that core)
//
// What measures prints one line of JSON: p50_ns, p99_ns, per_s.

import net from "node:net";
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";

const WINDOW = 64;
const PARK_TIME_MS = 1;

function respondNet(path) {
  const server = net.createServer((socket) => {
    // Everything that is there goes back with one write.
    socket.on("data", (bytes) => socket.write(bytes));
    socket.on("close", () => process.exit(0));
  });
  server.listen(path, () => process.stdout.write("ready\n"));
}

function measureNet(scene, path) {
  const size = scene.size;
  const socket = net.createConnection(path);
  const payload = (stamp) => {
    const bytes = Buffer.alloc(size, 0xa5);
    bytes.writeBigUInt64LE(BigInt(stamp), 0);
    bytes.writeBigUInt64LE(BigInt(stamp), size - 8);
    return bytes;
  };
  let kept = Buffer.alloc(0);
  const load = new Load(scene, {
    send(stamps) {
      socket.write(stamps.length === 1 ? payload(stamps[0]) : Buffer.concat(stamps.map(payload)));
    },
    end() {
      socket.destroy();
    },
  });
  socket.on("data", (bytes) => {
    kept = kept.length === 0 ? bytes : Buffer.concat([kept, bytes]);
    const answers = [];
    let at = 0;
    for (; at + size <= kept.length; at += size) {
      const first = kept.readBigUInt64LE(at);
      if (first !== kept.readBigUInt64LE(at + size - 8)) fail("a torn answer");
      answers.push(Number(first));
    }
    kept = kept.subarray(at);
    if (answers.length > 0) load.receive(answers);
  });
  socket.on("connect", () => load.start());
  socket.on("error", (error) => fail(error.message));
}

function measureFork(scene, program, core) {
  const child = fork(fileURLToPath(import.meta.url), ["fork-respond"], {
    execPath: program,
    execArgv: ["on-core", core, process.execPath],
  });
  const body = "x".repeat(scene.size);
  const load = new Load(scene, {
    send(stamps) {
      for (const stamp of stamps) child.send({ stamp, body, last: stamp });
    },
    end() {
      child.disconnect();
    },
  });
  child.on("message", ({ stamp, body, last }) => {
    if (stamp !== last || body.length !== scene.size) fail("a torn answer");
    load.receive([stamp]);
  });
  child.on("spawn", () => load.start());
  child.on("exit", (code) => load.isOver || fail(`the responder ended with ${code}`));
}

function fail(reason) {
  console.error(reason);
  process.exit(1);
}

// Keeps one request in flight, or WINDOW of them, and times each.
class Load {
  constructor(scene, link) {
    this.scene = scene;
    this.link = link;
    this.window = scene.load === "pipelined" ? WINDOW : 1;
    this.sentAt = new Array(this.window).fill(0);
    this.intervals = new Float64Array(scene.operation_count);
    this.count = 0;
    this.nextStamp = 1;
    this.inFlight = 0;
    this.isOver = false;
  }

  start() {
    const now = performance.now();
    this.deadline = now + this.scene.time_max_ms;
    // However slow the machine is, half of the time is for what counts.
    this.warm = now + this.scene.time_max_ms / 2;
    this.send(this.window);
  }

  send(count) {
    const stamps = [];
    const now = performance.now();
    for (let index = 0; index < count; index++) {
      const stamp = this.nextStamp++;
      this.sentAt[stamp % this.window] = now;
      stamps.push(stamp);
    }
    this.inFlight += count;
    this.link.send(stamps);
  }

  receive(answers) {
    if (this.isOver) return;
    const now = performance.now();
    for (const stamp of answers) {
      const sentAt = this.sentAt[stamp % this.window];
      if (sentAt === 0 || stamp >= this.nextStamp) fail(`nobody asked ${stamp}`);
      this.sentAt[stamp % this.window] = 0;
      this.inFlight--;
      const isWarm = stamp > this.scene.warmup_count || sentAt >= this.warm;
      if (isWarm && this.count < this.intervals.length) {
        if (this.count === 0) this.began = sentAt;
        this.intervals[this.count++] = (now - sentAt) * 1e6;
      }
    }
    const isSpent = now >= this.deadline && this.count > 0;
    if (this.count === this.intervals.length || isSpent) return this.finish(now);
    const count = this.window - this.inFlight;
    if (this.scene.load === "cold") {
      setTimeout(() => this.send(count), PARK_TIME_MS);
    } else {
      this.send(count);
    }
  }

  finish(now) {
    this.isOver = true;
    const sorted = this.intervals.subarray(0, this.count).sort();
    const quantile = (share) => Math.round(sorted[Math.ceil(share * this.count) - 1]);
    const spent = sorted.reduce((sum, interval) => sum + interval, 0);
    const elapsed = this.scene.load === "cold" ? spent : (now - this.began) * 1e6;
    const per_s = (this.count / elapsed) * 1e9;
    console.log(JSON.stringify({ p50_ns: quantile(0.5), p99_ns: quantile(0.99), per_s }));
    this.link.end();
  }
}

const [role, ...rest] = process.argv.slice(2);
const roles = {
  "net-respond": () => respondNet(rest[0]),
  "net-measure": () => measureNet(JSON.parse(rest[0]), rest[1]),
  "fork-respond": () => process.on("message", (message) => process.send(message)),
  "fork-measure": () => measureFork(JSON.parse(rest[0]), rest[1], rest[2]),
};
roles[role]();
