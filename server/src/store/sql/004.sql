-- Webhooks: each has its place in the log of events.
CREATE TABLE webhooks (
  name TEXT PRIMARY KEY,
  url TEXT NOT NULL,
  secret TEXT NOT NULL,
  kinds TEXT NOT NULL,
  created INTEGER NOT NULL,
  giver TEXT NOT NULL,
  -- The last event that was told, or that is none of its kinds.
  told INTEGER NOT NULL,
  failures INTEGER NOT NULL DEFAULT 0,
  not_before INTEGER NOT NULL DEFAULT 0,
  outcome TEXT NOT NULL DEFAULT '',
  tried INTEGER
);
