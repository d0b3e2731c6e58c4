// A whole day in a real browser: from the first login over a job that does not work to one that does, in a wide window by
// day and in a narrow one by night; then every page in both and with both colours.
//
// `make server-browser` runs it. It prints what it has seen and ends with 0 when nothing was wrong: no fault in the console,
// none of accessibility.

import assert from 'node:assert/strict';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Browser } from './browser.mjs';
import { Host } from './host.mjs';
import { Server, until } from './server.mjs';

const seen = (text) => console.log(`${(performance.now() / 1000).toFixed(1).padStart(6)} s  ${text}`);
const text = (page, selector = 'main') => page.locator(selector).first().innerText();

/** Logs in at the login page. */
async function logIn(server, page, name, password) {
  await page.goto(`${server.pages}/login`);
  await page.fill('#name', name);
  await page.fill('#password', password);
  await page.click('button.main');
}

/** Opens one of the parts that are closed at first. */
const unfold = (page, words) => page.locator('summary', { hasText: words }).first().click();

async function firstLogin(server, browser) {
  const { page } = browser;
  await browser.open('/jobs');
  assert.match(page.url(), /\/login\?next=/, 'without a login a page leads to the login');
  await browser.check('login');
  await browser.expecting('401', () => logIn(server, page, 'anna', 'not-the-password'));
  assert.match(await text(page, '[role=alert]'), /do not fit/);
  await logIn(server, page, 'anna', server.password);
  await page.waitForURL(`${server.pages}/`);
  assert.match(await text(page), /No host has reported yet/, 'an empty page says what to do');
  seen('the first login; the empty fleet says what to do');
}

/** Makes a key on its page; the secret that is shown once. */
async function makeKey(browser, group) {
  const { page } = browser;
  await browser.open('/keys');
  await page.fill('#group', group);
  await page.click('text=Make a key >> nth=-1');
  const secret = (await text(page, 'pre.secret')).trim();
  await browser.check('a key that was made');
  await browser.open('/keys');
  assert.equal(await page.locator('pre.secret').count(), 0, 'the secret is shown once');
  assert.match(await text(page, 'table'), new RegExp(`valid[^]*${group}`));
  return secret;
}

async function acceptHosts(server, browser, hosts) {
  const { page } = browser;
  for (const host of hosts) await host.report();
  await browser.open('/pending');
  for (const host of hosts) assert.match(await text(page, 'table'), new RegExp(host.name));
  await browser.check('pending');
  await browser.expecting('400', () => page.click('button:has-text("Accept the chosen")'));
  assert.match(await text(page, '[role=alert]'), /no host was chosen/);
  await browser.open('/pending');
  await page.check(`input[name=host][value="${hosts[0].sn}"]`);
  await page.click('button:has-text("Accept the chosen")');
  assert.match(await text(page, '[role=status]'), /1 host accepted/);
  await browser.open('/pending?q=host%3D*-02');
  await page.click('button:has-text("Accept the chosen") >> nth=0', { trial: true });
  await page.check(`input[name=host][value="${hosts[1].sn}"]`);
  await page.click('button:has-text("Accept the chosen")');
  await browser.open('/hosts');
  assert.match(await text(page, 'table'), new RegExp(`${hosts[0].name}[^]*${hosts[1].name}`));
  seen('hosts that wait are accepted');
}

async function upload(server, browser, agent, version, body) {
  const { page } = browser;
  await browser.open('/releases/new');
  await page.fill('#agent', agent);
  await page.fill('#version', 'not a version');
  await page.setInputFiles('#file', server.file(`${agent}-${version}.tar.gz`, body));
  await browser.expecting('400', () => page.click('button:has-text("Add the package")'));
  assert.match(await text(page, '[role=alert]'), /version "not a version": want/);
  assert.equal(await page.inputValue('#agent'), agent, 'what was typed is still there');
  assert.match(await text(page), new RegExp(`${agent}-${version}.tar.gz is here already`), 'the file need not come again');
  await browser.check('a form with something wrong');
  await page.fill('#version', version);
  await page.click('button:has-text("Add the package")');
  assert.match(await text(page, 'table'), new RegExp(`${agent} ${version}[^]*ready`));
  seen(`release ${agent} ${version} is uploaded`);
}

/** Gives a job by its form, with a preview; the id of the job. */
async function give(browser, fields) {
  const { page } = browser;
  if (!page.url().includes('/jobs/new')) await browser.open('/jobs/new');
  for (const [name, value] of Object.entries(fields)) {
    if (name === 'action') await page.selectOption('#action', value);
    else await page.fill(`#${name}`, value);
  }
  await page.click('button:has-text("Preview")');
  assert.match(await text(page, '[role=status]'), /host(s)? would get it/);
  await browser.check('a preview');
  await page.click('button:has-text("Give the job")');
  await page.waitForURL(/\/jobs\/j\d+/);
  return page.url().match(/\/jobs\/(j\d+)/)[1];
}

async function aJobThatFails(server, browser, host) {
  const { page } = browser;
  await browser.open('/jobs/new');
  await page.fill('#agent', 'web');
  await page.fill('#select', 'nonsense=1');
  await browser.expecting('400', () => page.click('button:has-text("Give the job")'));
  assert.match(await text(page, '[role=alert]'), /unknown key "nonsense"/);
  const id = await give(browser, { agent: 'web', version: '1.0', select: `host=${host.name}` });
  assert.match(await text(page, 'table.list >> nth=-1'), /waiting/);
  const [job] = await host.report();
  assert.equal(job.action, 'install');
  await host.result(job.id, 7, 'cannot start "web": exited with status 1 after 0.2 s: bind: address already in use');
  // The page renews itself.
  await page.waitForSelector('text=address already in use', { timeout: 12000 });
  assert.match(await text(page), /failed[^]*7: cannot start/);
  await browser.check('a job that failed');
  await browser.open('/');
  assert.match(await text(page, '.alarms'), /Jobs did not work on 1 host/);
  seen('a job is given and fails, with its reason');
  return id;
}

async function theJobDone(server, browser, host, failed) {
  const { page } = browser;
  await upload(server, browser, 'web', '1.1', 'web 1.1');
  await browser.open(`/jobs/${failed}`);
  await page.click('text=Give it again');
  assert.equal(await page.inputValue('#select'), `host=${host.name}`);
  await give(browser, { version: '1.1' });
  const [job] = await host.report();
  await host.result(job.id, 0, 'success');
  host.agent('web', '1.1');
  await host.report();
  await page.waitForSelector('main .badge:has-text("verified")', { timeout: 12000 });
  await browser.open(`/hosts/${host.sn}`);
  assert.match(await text(page), /web[^]*1\.1[^]*running/);
  await browser.check('a host');
  seen('the job is given again with another release, and is done');
}

async function everythingElse(server, browser, hosts) {
  const { page } = browser;
  await browser.open(`/hosts/${hosts[0].sn}`);
  await unfold(page, 'Labels');
  await page.fill('#labels', 'site=ams\ntier=gold');
  await page.click('button:has-text("Set labels")');
  assert.match(await text(page), /site=ams[^]*tier=gold/);
  await unfold(page, 'Pin');
  await page.fill('#reason', 'until the audit');
  await page.click('button:text-is("Pin")');
  assert.match(await text(page, '.why'), /pinned: until the audit/);
  await page.click('button:text-is("Unpin")');
  const id = await give(browser, { action: 'restart', agent: 'web', select: 'label.site=ams' });
  await unfold(page, 'Cancel');
  await page.click(`button:has-text("Cancel ${id}")`);
  assert.match(await text(page), /Cancelled: 1 host[^]*cancelled/);
  await browser.open(`/hosts/${hosts[1].sn}`);
  await unfold(page, 'Retire');
  await page.click(`button:has-text("Retire ${hosts[1].name}")`);
  assert.match(await text(page, 'h1'), /retired/);
  await browser.open('/hosts');
  assert.doesNotMatch(await text(page, 'table'), new RegExp(hosts[1].name), 'a retired host is not in the usual list');
  await browser.open('/audit?who=user%3Aanna');
  assert.match(await text(page, 'table'), /retired[^]*job cancel[^]*pin[^]*label/);
  const csv = await page.request.get(`${server.pages}/hosts.csv?show=all`);
  assert.match(csv.headers()['content-type'], /^text\/csv/);
  assert.match(await csv.text(), new RegExp(`${hosts[0].sn},${hosts[0].name},`));
  seen('labels, a pin, a cancel, a retired host, the audit trail, CSV');
}

async function byKeyboard(server, browser) {
  const { page } = browser;
  await browser.open('/hosts');
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.className), 'skip');
  await page.keyboard.press('Enter');
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'q', 'the first thing of the content is its filter');
  await page.keyboard.type('host=nothing-*');
  await page.keyboard.press('Enter');
  await page.waitForURL(/q=host%3Dnothing/);
  assert.match(await text(page), /No host matches/);
  await browser.open('/hosts?q=host');
  assert.match(await text(page, '[role=alert]'), /want KEY OP VALUE/);
  assert.equal(await page.inputValue('#q'), 'host');
  seen('a filter by the keyboard, and one that cannot be read');
}

/** Without scripts everything works too. */
async function withoutScripts(server, browser, host) {
  const context = await browser.another({ javaScriptEnabled: false });
  const page = await context.newPage();
  await logIn(server, page, 'anna', server.password);
  await host.report();
  await page.goto(`${server.pages}/pending`);
  await page.check(`input[value="${host.sn}"]`);
  await page.click('button:has-text("Accept the chosen")');
  await page.goto(`${server.pages}/hosts/${host.sn}`);
  await page.click('a:has-text("Give a job")');
  await page.fill('#agent', 'web');
  await page.click('button:has-text("Give the job")');
  assert.match(await text(page), /waiting/);
  await context.browser().close();
  seen('the same without scripts');
}

/** A viewer sees, and changes nothing; a session that was ended leads to the login. */
async function aViewer(server, browser) {
  const { page } = browser;
  await browser.open('/users');
  await page.fill('#name', `ben-${browser.width}`);
  await page.fill('#password', 'looks-and-no-more');
  await page.click('button:has-text("Add the user")');
  const context = await browser.another({});
  const other = await context.newPage();
  await logIn(server, other, `ben-${browser.width}`, 'looks-and-no-more');
  await other.goto(`${server.pages}/jobs`);
  assert.equal(await other.locator('text=Give a job').count(), 0);
  const answer = await other.goto(`${server.pages}/users`);
  assert.equal(answer.status(), 403);
  assert.match(await text(other), /needs the role admin/);
  await other.goto(`${server.pages}/hosts`);
  await unfold(page, `Change ben-${browser.width}`);
  await page.click(`button:has-text("Disable ben-${browser.width}")`);
  await other.waitForURL(/\/login/, { timeout: 12000 });
  await context.browser().close();
  seen('a viewer looks; the page of an ended session goes to the login by itself');
}

/** Every page, in the sizes and colours that are not looked at on the way. */
async function everyPage(server, browser, host) {
  const pages = ['/', '/hosts', '/hosts?q=host', `/hosts/${host.sn}`, '/pending', '/agents', '/jobs', '/jobs/j1', '/jobs/new', '/releases',
    '/releases/new', '/events', '/audit', '/keys', '/groups', '/users', '/webhooks', '/server', '/me'];
  const contrast = ['color-contrast'];
  for (const [width, rules] of [[1280, undefined], [390, ['color-contrast', 'target-size', 'scrollable-region-focusable']]]) {
    for (const path of pages) {
      await browser.size(width, 'light');
      await browser.open(path);
      await browser.check(`${path} at ${width}`, rules);
      await browser.size(width, 'dark');
      await browser.check(`${path} at ${width}, dark`, contrast);
    }
  }
  await browser.expecting('404', () => browser.page.goto(`${server.pages}/nothing`));
  await browser.check('a page that is not there');
  seen(`${pages.length} pages at two widths, light and dark`);
}

async function day(width, scheme) {
  const server = await Server.start();
  const browser = await Browser.start(server);
  try {
    await browser.size(width, scheme);
    await firstLogin(server, browser);
    const key = await makeKey(browser, 'web');
    const hosts = ['web-01', 'web-02', 'web-03'].map((name) => new Host(server, key, name));
    await acceptHosts(server, browser, hosts.slice(0, 2));
    await upload(server, browser, 'web', '1.0', 'web 1.0');
    const failed = await aJobThatFails(server, browser, hosts[0]);
    await theJobDone(server, browser, hosts[0], failed);
    await everythingElse(server, browser, hosts);
    if (width > 600) await byKeyboard(server, browser);
    await withoutScripts(server, browser, hosts[2]);
    await aViewer(server, browser);
    if (width > 600) await everyPage(server, browser, hosts[0]);
    assert.deepEqual(browser.faults, []);
  } catch (error) {
    const picture = join(tmpdir(), `bootserver-fault-${width}.png`);
    await browser.picture(picture, true).catch(() => {});
    console.error(`at ${browser.page.url()}; see ${picture}`);
    throw error;
  } finally {
    await browser.stop();
    await server.stop();
  }
}

await day(1280, 'light');
await day(390, 'dark');
seen('the day went well, twice');
