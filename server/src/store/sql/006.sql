-- What the first page looks up among many: what did not work lately, and versions.
CREATE INDEX executions_bad ON executions (ended) WHERE state IN ('failed', 'refused', 'mismatch', 'lost', 'stuck');
CREATE INDEX hosts_version ON hosts (state, version);
