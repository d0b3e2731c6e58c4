-- Jobs that are being prepared or cancelled; few, and looked for often.
CREATE INDEX jobs_unfinished ON jobs (state) WHERE state IN ('preparing', 'cancelling');
