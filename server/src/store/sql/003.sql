-- Maintenance windows of groups, and hosts whose versions are to stay as they are.
ALTER TABLE groups ADD COLUMN zone TEXT NOT NULL DEFAULT 'UTC';
ALTER TABLE groups ADD COLUMN windows TEXT;
ALTER TABLE hosts ADD COLUMN pinned TEXT;
ALTER TABLE executions ADD COLUMN windowed INTEGER NOT NULL DEFAULT 1;
ALTER TABLE executions ADD COLUMN closes INTEGER;
-- What is overdue is looked through in this order, a part at a time.
DROP INDEX executions_deadline;
CREATE INDEX executions_due ON executions (deadline, id) WHERE deadline IS NOT NULL;
