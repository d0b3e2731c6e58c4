-- What lists of hosts are sorted, filtered and counted by, see model/facts.rs. Reports fill it in as they come.
ALTER TABLE hosts ADD COLUMN os TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN arch TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN version TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN down INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN clock_wrong INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN fresh TEXT NOT NULL DEFAULT 'on-time';
ALTER TABLE hosts ADD COLUMN trouble INTEGER NOT NULL DEFAULT 0;
UPDATE hosts SET trouble = CASE state WHEN 'conflict' THEN 60 WHEN 'pending' THEN 20 WHEN 'accepted' THEN 0 ELSE -10 END;
DROP INDEX hosts_state;
DROP INDEX hosts_name;
CREATE INDEX hosts_state ON hosts (state, fresh, down);
CREATE INDEX hosts_name ON hosts (name, sn);
CREATE INDEX hosts_trouble ON hosts (trouble DESC, name, sn);
CREATE INDEX hosts_group ON hosts (grp);
CREATE INDEX hosts_key ON hosts (key);
DROP INDEX executions_job;
CREATE INDEX executions_job ON executions (job, state, host);
CREATE INDEX executions_host ON executions (sn, created);
