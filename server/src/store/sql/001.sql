-- Everything the server keeps. Times are seconds since the epoch, by the server's clock.
CREATE TABLE groups (
  name TEXT PRIMARY KEY,
  lost_after INTEGER NOT NULL DEFAULT 86400,
  retire_after INTEGER,
  replace_auto INTEGER NOT NULL DEFAULT 0,
  allow_unidentified INTEGER NOT NULL DEFAULT 0,
  created INTEGER NOT NULL
);
CREATE TABLE keys (
  id TEXT PRIMARY KEY,
  secret TEXT NOT NULL,
  grp TEXT NOT NULL,
  host TEXT,
  bound_sn TEXT,
  auto_accept INTEGER NOT NULL,
  created INTEGER NOT NULL,
  revoked INTEGER
);
CREATE TABLE hosts (
  sn TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  grp TEXT NOT NULL,
  state TEXT NOT NULL,
  key TEXT,
  labels TEXT NOT NULL DEFAULT '{}',
  created INTEGER NOT NULL,
  reason TEXT NOT NULL DEFAULT '',
  peers TEXT NOT NULL DEFAULT '',
  flagged INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX hosts_name ON hosts (name);
CREATE INDEX hosts_state ON hosts (state);
CREATE INDEX hosts_flagged ON hosts (sn) WHERE flagged = 1;
-- The hot row: a report that changes nothing writes this one alone.
CREATE TABLE reports (
  sn TEXT PRIMARY KEY,
  seen INTEGER NOT NULL,
  step INTEGER NOT NULL,
  skew INTEGER NOT NULL,
  boots TEXT NOT NULL,
  nonces TEXT NOT NULL,
  peer TEXT NOT NULL,
  agents TEXT NOT NULL,
  body TEXT NOT NULL
);
CREATE TABLE releases (
  agent TEXT NOT NULL,
  version TEXT NOT NULL,
  definition TEXT,
  startsecs INTEGER,
  created INTEGER NOT NULL,
  withdrawn INTEGER,
  PRIMARY KEY (agent, version)
);
CREATE TABLE artifacts (
  agent TEXT NOT NULL,
  version TEXT NOT NULL,
  arch TEXT NOT NULL,
  os TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  name TEXT NOT NULL,
  url TEXT,
  sig TEXT,
  size INTEGER NOT NULL,
  PRIMARY KEY (agent, version, arch, os)
);
CREATE TABLE jobs (
  id TEXT PRIMARY KEY,
  number INTEGER NOT NULL UNIQUE,
  agent TEXT NOT NULL,
  action TEXT NOT NULL,
  selector TEXT NOT NULL,
  version TEXT,
  body TEXT NOT NULL,
  state TEXT NOT NULL,
  created INTEGER NOT NULL,
  giver TEXT NOT NULL
);
CREATE TABLE executions (
  id TEXT PRIMARY KEY,
  job TEXT NOT NULL,
  sn TEXT NOT NULL,
  host TEXT NOT NULL,
  agent TEXT NOT NULL,
  action TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  state TEXT NOT NULL,
  created INTEGER NOT NULL,
  not_before INTEGER NOT NULL,
  offered INTEGER,
  received INTEGER,
  ended INTEGER,
  deadline INTEGER,
  errcode INTEGER,
  message TEXT NOT NULL,
  reason TEXT NOT NULL,
  missing INTEGER NOT NULL,
  version TEXT,
  slack INTEGER NOT NULL,
  step INTEGER NOT NULL,
  -- 1 while something can still happen to it by itself, 2 while it is withdrawn and the host may have it.
  live INTEGER NOT NULL
);
CREATE INDEX executions_live ON executions (sn) WHERE live > 0;
CREATE INDEX executions_deadline ON executions (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX executions_job ON executions (job);
CREATE INDEX executions_created ON executions (created);
CREATE INDEX executions_ended ON executions (ended);
CREATE TABLE events (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  time INTEGER NOT NULL,
  received INTEGER NOT NULL,
  kind TEXT NOT NULL,
  sn TEXT NOT NULL,
  host TEXT NOT NULL,
  message TEXT NOT NULL
);
CREATE INDEX events_received ON events (received);
CREATE INDEX events_kind ON events (sn, kind, received);
CREATE TABLE audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  time INTEGER NOT NULL,
  who TEXT NOT NULL,
  action TEXT NOT NULL,
  object TEXT NOT NULL,
  before TEXT NOT NULL,
  after TEXT NOT NULL
);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO settings VALUES ('gaps', '[]'), ('next_job', '1');
