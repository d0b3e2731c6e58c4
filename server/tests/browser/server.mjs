// A real bootserver on a directory of its own, and verbs of it.

import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../..', import.meta.url));
export const binary = process.env.BOOTSERVER ?? join(root, 'server/target/debug/bootserver');

/** Waits until `check` gives something. */
export async function until(what, check, seconds = 30) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (Date.now() > end) throw new Error(`${what}: not within ${seconds} s`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

export class Server {
  static async start() {
    const server = new Server();
    server.dir = mkdtempSync(join(tmpdir(), 'bootserver-browser-'));
    server.run('init');
    server.run('user', 'add', 'anna', '--role', 'admin', '--password-file', server.file('password', server.password));
    const words = ['-d', server.dir, 'serve', '--listen', '127.0.0.1:0', '--pages', '127.0.0.1:0'];
    server.child = spawn(binary, words, { stdio: ['ignore', 'ignore', 'pipe'] });
    const lines = createInterface({ input: server.child.stderr });
    await new Promise((done, fail) => {
      server.child.once('exit', (code) => fail(new Error(`bootserver ended with ${code}: ${server.log}`)));
      lines.on('line', (line) => {
        server.log += `${line}\n`;
        server.hosts ??= line.match(/hosts: listening on (\S+)/)?.[1];
        server.pages ??= line.match(/pages: listening on (http:\S+)\//)?.[1];
        if (line.endsWith(' ready')) done();
      });
    });
    return server;
  }

  constructor() {
    this.password = 'for-the-browser-test';
    this.log = '';
  }

  /** A file in the server's directory with this text. */
  file(name, text) {
    const path = join(this.dir, name);
    execFileSync('sh', ['-c', 'umask 077; cat >"$1"', 'sh', path], { input: text });
    return path;
  }

  /** Runs a verb; what it prints. */
  run(...words) {
    return execFileSync(binary, ['-d', this.dir, ...words], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
  }

  async stop() {
    const ended = new Promise((done) => this.child.once('exit', done));
    this.child.removeAllListeners('exit');
    this.child.once('exit', () => {});
    this.child.kill('SIGTERM');
    await Promise.race([ended, new Promise((done) => setTimeout(done, 5000))]);
    this.child.kill('SIGKILL');
    rmSync(this.dir, { recursive: true, force: true });
  }
}
