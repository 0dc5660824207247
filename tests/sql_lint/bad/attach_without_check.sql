-- attach-scans
SET lock_timeout = '2s';
ALTER TABLE events ATTACH PARTITION events_2026_12 FOR VALUES FROM ('2026-12-01') TO ('2027-01-01');
