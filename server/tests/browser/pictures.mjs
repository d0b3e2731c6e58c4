// Takes the pictures of the docs from a running demo: DEMO_THEN='node pictures.mjs DIRECTORY' server/demo.sh

import { join } from 'node:path';
import { Browser } from './browser.mjs';

const [directory] = process.argv.slice(2);
const { DEMO_URL: pages, DEMO_USER: user, DEMO_PASSWORD: password } = process.env;
if (!directory || !pages) throw new Error('want a directory, and DEMO_URL, DEMO_USER, DEMO_PASSWORD of server/demo.sh');

const browser = await Browser.start({ pages });
const { page } = browser;
const take = async (name, path, width, scheme, height) => {
  await browser.size(width, scheme);
  await page.setViewportSize({ width, height });
  await browser.open(path);
  await browser.picture(join(directory, `${name}.png`));
};
try {
  await browser.open('/login');
  await page.fill('#name', user);
  await page.fill('#password', password);
  await page.click('button.main');
  await page.waitForURL(`${pages}/`);
  await take('fleet', '/', 1100, 'light', 860);
  await take('job', '/jobs/j1', 1100, 'light', 700);
  await page.click('text=shop-04');
  await page.waitForURL(/hosts/);
  const host = new URL(page.url()).pathname;
  await take('host-narrow', host, 390, 'dark', 844);
  if (browser.faults.length) throw new Error(browser.faults.join('\n'));
} finally {
  await browser.stop();
}
