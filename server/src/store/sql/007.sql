-- What a webhook was told of beyond the event that all before it were told of: {"job": ID}, for each of its kinds.
ALTER TABLE webhooks ADD COLUMN ahead TEXT NOT NULL DEFAULT '{}';
