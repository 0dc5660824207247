-- ignore-without-reason
SET lock_timeout = '2s';
-- pgmorph:ignore drop-column
ALTER TABLE orders DROP COLUMN legacy_code;
