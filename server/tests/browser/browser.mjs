// A browser whose pages are watched: what its console says against them, and what an accessibility checker finds.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { until } from './server.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

const options = {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--force-color-profile=srgb'],
};

export class Browser {
  static async start(server) {
    const browser = new Browser();
    browser.server = server;
    browser.profile = mkdtempSync(join(tmpdir(), 'bootserver-chromium-'));
    browser.faults = [];
    browser.context = await chromium.launchPersistentContext(browser.profile, options);
    browser.context.setDefaultTimeout(15000);
    browser.page = browser.context.pages()[0] ?? await browser.context.newPage();
    browser.watch(browser.page);
    return browser;
  }

  /** A context of somebody else. */
  async another(more) {
    const other = await chromium.launch(options);
    return other.newContext(more);
  }

  /** Does what the server answers with this status; that the console tells of it is no fault. */
  async expecting(status, act) {
    this.expected = new RegExp(`status of ${status} `);
    const loaded = this.page.waitForEvent('load');
    await Promise.all([loaded, act()]);
    await until('the console tells of it', () => !this.expected);
  }

  watch(page) {
    page.on('console', (message) => {
      if (this.expected?.test(message.text())) this.expected = undefined;
      else if (['error', 'warning'].includes(message.type())) this.faults.push(`console at ${page.url()}: ${message.text()}`);
    });
    page.on('pageerror', (error) => this.faults.push(`script at ${page.url()}: ${error.message}`));
  }

  async size(width, scheme) {
    this.width = width;
    await this.page.setViewportSize({ width, height: width < 600 ? 844 : 900 });
    await this.page.emulateMedia({ colorScheme: scheme, reducedMotion: 'reduce' });
  }

  async open(path) {
    const reply = await this.page.goto(`${this.server.pages}${path}`);
    if (reply.status() !== 200) throw new Error(`${path}: HTTP ${reply.status()}`);
  }

  /** Looks at the page as it is now: accessibility, or contrast only, and that nothing is wider than the window. */
  async check(what, rules) {
    // The content security policy forbids scripts of others: the checker comes in past it, by the debugger.
    await this.page.evaluate(`(() => { ${axe} })()`);
    const found = await this.page.evaluate((options) => window.axe.run(document, options), {
      resultTypes: ['violations'], ...(rules ? { runOnly: rules } : {}),
    });
    for (const fault of found.violations) {
      const places = fault.nodes.slice(0, 3).map((node) => `${node.target.join(' ')}: ${node.failureSummary}`).join('\n    ');
      this.faults.push(`axe at ${what}: ${fault.id}: ${fault.help}\n    ${places}`);
    }
    const wide = await this.page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    if (wide > 0) this.faults.push(`${what}: ${wide} pixels wider than the window`);
  }

  async picture(path, whole = false) {
    await this.page.screenshot({ path, fullPage: whole });
  }

  async stop() {
    await this.context.close();
    rmSync(this.profile, { recursive: true, force: true });
  }
}
