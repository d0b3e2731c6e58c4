// A host that is played: it signs, reports and answers as an agent does.

import { createHash, createHmac, randomBytes } from 'node:crypto';

export class Host {
  constructor(server, key, name, more = {}) {
    Object.assign(this, { server, key, name, more, sequence: 0, agents: [] });
    this.sn = more.sn ?? createHash('sha256').update(name).digest('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12}).*/, '$1-$2-$3-$4-$5');
    this.boot = more.boot_id ?? `boot-of-${this.sn}`;
  }

  agent(name, version, status = 'running', detail = '') {
    this.agents = this.agents.filter((agent) => agent.name !== name);
    const running = status === 'running';
    this.agents.push({
      name, version, status, detail, uptime: running ? 86400 : 0, pid: running ? 4711 : 0, failures: running ? 0 : 3,
      ...(running ? { cpu: 1.2, memory: 48 << 20 } : {}),
    });
    return this;
  }

  /** Reports; the jobs that are offered. */
  async report() {
    this.sequence += 1;
    const { sn, boot_id, ...more } = this.more;
    const answer = await this.post('/agent/status', {
      hostname: this.name, version: 'bootagent-1.1.0-x86_64', uptime: 864000, timestamp: Math.floor(Date.now() / 1000),
      step: 600, os: 'debian 12', sn: this.sn, boot_id: this.boot, seq: this.sequence, open: [], agents: this.agents, ...more,
    });
    return answer.jobs ?? [];
  }

  async result(id, errcode, message) {
    await this.post('/agent/job/result', [{ id, errcode, message }]);
  }

  async post(path, body) {
    const text = JSON.stringify(body);
    const nonce = randomBytes(16).toString('hex');
    const signature = createHmac('sha256', this.key).update(`POST\n${path}\n${this.sn}\n${nonce}\n${text}`).digest('hex');
    const reply = await fetch(`http://${this.server.hosts}${path}`, {
      method: 'POST',
      body: text,
      headers: {
        'X-BootAgent-Sn': this.sn, 'X-BootAgent-Nonce': nonce, 'X-BootAgent-Signature': signature,
        'X-BootAgent-Key': createHash('sha256').update(this.key).digest('hex').slice(0, 16),
      },
    });
    const answer = await reply.json();
    if (reply.status !== 200) throw new Error(`${this.name}: ${path}: ${reply.status} ${JSON.stringify(answer)}`);
    return answer;
  }
}
