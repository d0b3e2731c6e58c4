-- Maintenance windows of groups, and hosts whose versions are to stay as they are.
ALTER TABLE groups ADD COLUMN zone TEXT NOT NULL DEFAULT 'UTC';
ALTER TABLE groups ADD COLUMN windows TEXT;
ALTER TABLE hosts ADD COLUMN pinned TEXT;
ALTER TABLE executions ADD COLUMN windowed INTEGER NOT NULL DEFAULT 1;
ALTER TABLE executions ADD COLUMN closes INTEGER;
