SET lock_timeout = '2s';
-- pgmorph:ignore drop-column: no release since March names it
ALTER TABLE orders DROP COLUMN legacy_code;
TRUNCATE staging; -- pgmorph:ignore truncate: filled and emptied by this job alone
